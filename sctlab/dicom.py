"""Read a CT series from a DICOM folder by slice position, whatever the file order, gaps and gantry tilt.

GDCM decodes the files in a child process with limits (`sctlab_model.io.child`): one that is made to crash it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab_model.errors import InputError
from sctlab_model.io.child import read_in_child
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS, checked_grid
from sctlab_model.volume import AIR_HU, Geometry, Volume

_SERIES, _MODALITY, _POSITION, _ORIENTATION = "0020|000e", "0008|0060", "0020|0032", "0020|0037"
LARGEST_GAP = 3.0  # times the usual distance of slices; beyond it slices are missing
SECOND_PITCH = 3  # equal wide gaps in a row that make a pitch of the protocol (thin skull base, thick above)


@dataclass(frozen=True)
class _Slice:
    path: Path
    position: np.ndarray  # centre of the first pixel, mm (x, y, z)
    axes: np.ndarray  # direction of rows and columns, and their normal: columns of a 3x3 matrix
    spacing_xy: tuple[float, float]
    size_xy: tuple[int, int]
    series: str


def is_dicom_folder(path: str | Path) -> bool:
    """Whether a folder holds a DICOM file (by its magic word)."""
    path = Path(path)
    return path.is_dir() and any(_is_dicom(p) for p in sorted(path.iterdir()) if p.is_file())


def read_dicom_series(folder: str | Path, *, tolerance_mm: float = 0.02) -> Volume:
    """Read the CT series of a folder.

    Slices are sorted by their position along the slice normal. Where gaps are even and slices lie straight
    behind each other, voxels are kept. Uneven gaps and gantry tilt (slices that slide against each other) are
    resampled linearly onto an even grid with the slices' orientation; the usual (25th percentile) gap becomes the
    spacing. A gap of two or more times an otherwise constant pitch isn't uneven: slices were lost there.

    Args:
        folder: The series' files; other files that are not DICOM are left alone.
        tolerance_mm: Deviation of slice positions that counts as none.

    Returns:
        HU as float32 or int16, axes z, y, x. Where a slid slice has no pixel: −1024.

    Raises:
        InputError: No DICOM files; several series; not CT; mixed sizes, spacings or orientations; two slices at one
            position; missing slices; fewer than 3 slices.
    """
    found = read_in_child("sctlab.dicom:series_in_child", folder, tolerance_mm=tolerance_mm)
    axes = np.array(found["direction"]).reshape(3, 3)
    geometry, notes = checked_grid(
        tuple(found["array"].shape[::-1]), tuple(found["spacing"]), tuple(found["origin"]), axes, str(folder)
    )
    return Volume(found["array"], geometry, str(folder), notes)


def series_in_child(path: str, tolerance_mm: float) -> dict[str, Any]:
    """`read_dicom_series`, called by name in the child process: the array and where it lies."""
    volume = _read_series(Path(path), tolerance_mm)
    grid = volume.geometry
    return {
        "array": volume.array,
        "spacing": grid.spacing_xyz,
        "origin": grid.origin_xyz,
        "direction": grid.direction,
    }


def _read_series(folder: Path, tolerance_mm: float) -> Volume:
    slices = _headers(folder)
    first = slices[0]
    for name, values in (("series", {s.series for s in slices}), ("image sizes", {s.size_xy for s in slices})):
        if len(values) > 1:
            raise InputError(
                folder,
                found=f"{len(values)} {name}: {', '.join(map(str, sorted(values)))}"[:300],
                expected="one",
                advice="put one series into a folder of its own",
            )
    for other in slices:
        if not np.allclose(other.axes, first.axes, atol=1e-3):
            raise InputError(
                other.path,
                found="another orientation than the first slice",
                expected="one orientation",
                advice="leave out localizers and reformats",
            )
        if not np.allclose(other.spacing_xy, first.spacing_xy, rtol=1e-3):
            raise InputError(
                other.path,
                found=f"pixels of {other.spacing_xy} mm",
                expected=f"{first.spacing_xy} mm like the first slice",
            )
    if len(slices) < 3:
        raise InputError(folder, found=f"{len(slices)} slices", expected="at least 3")
    slices.sort(key=lambda s: float(s.position @ s.axes[:, 2]))
    local = np.array([s.position @ s.axes for s in slices])  # in the slices' own axes
    gaps = np.diff(local[:, 2])
    if gaps.min() < tolerance_mm:
        k = int(gaps.argmin())
        raise InputError(
            folder,
            found=f"{slices[k].path.name} and {slices[k + 1].path.name} at one position",
            expected="one slice a position",
            advice="separate the phases or reconstructions",
        )
    usual = float(np.percentile(gaps, 25))
    before_gap = _missing_after(gaps, usual, tolerance_mm)
    if before_gap is not None:
        raise InputError(
            folder,
            found=f"a gap of {gaps[before_gap]:.1f} mm after {slices[before_gap].path.name}",
            expected=f"about {usual:.1f} mm",
            advice="slices are missing: export the whole series",
        )
    size = (*first.size_xy, len(slices))
    if np.prod(np.array(size, dtype=np.int64)) > DEFAULT_MAX_VOXELS:
        raise InputError(folder, found=f"{size} voxels", expected=f"at most {DEFAULT_MAX_VOXELS}")
    pixels = _pixels(slices)
    even = np.abs(gaps - gaps.mean()).max() <= max(tolerance_mm, 0.005 * usual)
    straight = np.abs(local[:, :2] - local[0, :2]).max() <= 0.05 * min(first.spacing_xy)
    if even and straight:
        geometry = Geometry(
            size, (*first.spacing_xy, float(gaps.mean())), tuple(slices[0].position), tuple(first.axes.ravel())
        )
        return Volume(pixels, geometry, str(folder))
    return _resampled(pixels, local, first, usual, str(folder))


def _missing_after(gaps: np.ndarray, usual: float, tolerance_mm: float) -> int | None:
    """Index of the gap in which slices are missing: far too wide, or a multiple of an otherwise constant pitch."""
    if gaps.max() > max(LARGEST_GAP * usual, usual + 2.0):
        return int(gaps.argmax())
    steps = np.rint(gaps / usual)
    if (np.abs(gaps - steps * usual) > np.maximum(0.01 * gaps, tolerance_mm)).any():
        return None  # the pitch isn't constant: nothing says that a wide gap isn't how it was scanned
    ends = np.flatnonzero(np.diff(steps)) + 1
    starts = [0, *ends.tolist()]
    for start, end in zip(starts, [*ends.tolist(), len(steps)], strict=True):
        if steps[start] >= 2 and end - start < SECOND_PITCH:
            return start
    return None


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(132)[128:] == b"DICM"


def _headers(folder: Path) -> list[_Slice]:
    import SimpleITK as sitk

    if not folder.is_dir():
        raise InputError(folder, found="no such folder", expected="a folder of DICOM files")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and _is_dicom(p))
    if not files:
        raise InputError(folder, found="no DICOM file", expected="a CT series")
    slices = []
    for path in files:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        with _itk_name(path) as name:
            reader.SetFileName(name)
            try:
                reader.ReadImageInformation()
            except RuntimeError as error:
                raise InputError(path, found="a damaged DICOM file", expected="a complete one") from error
        modality = _value(reader, _MODALITY)
        if modality and modality != "CT":
            raise InputError(
                path, found=f"modality {modality}", expected="CT", advice="put the CT series into a folder of its own"
            )
        try:
            position = np.array([float(v) for v in _value(reader, _POSITION).split("\\")])
            row_column = np.array([float(v) for v in _value(reader, _ORIENTATION).split("\\")]).reshape(2, 3)
        except ValueError as error:
            raise InputError(
                path, found="no position or orientation", expected="both tags of an axial CT slice"
            ) from error
        if len(position) != 3 or not np.isfinite(position).all() or not np.isfinite(row_column).all():
            raise InputError(path, found=f"position {position.tolist()}", expected="three finite numbers")
        if reader.GetSize()[2:] not in ((), (1,)):
            raise InputError(
                path, found="several frames in one file", expected="one slice a file", advice="export as single frames"
            )
        axes = np.column_stack([*row_column, np.cross(*row_column)])
        slices.append(
            _Slice(path, position, axes, reader.GetSpacing()[:2], reader.GetSize()[:2], _value(reader, _SERIES))
        )
    return slices


@contextmanager
def _itk_name(path: Path) -> Iterator[str]:
    """A name that ITK can open: a file whose own name is no UTF-8 goes by its descriptor."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open("rb") as handle:
            yield f"/proc/self/fd/{handle.fileno()}"
    else:
        yield os.fspath(path)


def _value(reader: Any, key: str) -> str:
    return reader.GetMetaData(key).strip().strip("\0") if reader.HasMetaDataKey(key) else ""


def _pixels(slices: list[_Slice]) -> np.ndarray:
    """Rescaled pixels, one slice after the other [z, y, x]."""
    import SimpleITK as sitk

    planes = []
    for item in slices:
        try:
            with _itk_name(item.path) as name:
                plane = sitk.GetArrayFromImage(sitk.ReadImage(name, imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise InputError(
                item.path, found="pixels can't be decoded", expected="a supported transfer syntax"
            ) from error
        plane = plane.reshape(plane.shape[-2:])
        if plane.dtype.kind not in "iuf":
            raise InputError(item.path, found=f"pixels of type {plane.dtype}", expected="numbers")
        planes.append(plane)
    stack = np.stack(planes)
    return stack.astype(np.float32 if stack.dtype.kind == "f" else np.int16)


def _resampled(pixels: np.ndarray, local: np.ndarray, first: _Slice, gap_mm: float, name: str) -> Volume:
    """Linear interpolation between slices at even positions, every slice at its own place in the plane."""
    spacing = np.array(first.spacing_xy)
    low = local[:, :2].min(0)
    extra = np.ceil((local[:, :2].max(0) - low) / spacing - 1e-3).astype(int)
    size_xy = np.array(first.size_xy) + extra
    count = int(np.floor((local[-1, 2] - local[0, 2]) / gap_mm + 1e-6)) + 1
    placed: dict[int, np.ndarray] = {}

    def place(k: int) -> np.ndarray:
        if k not in placed:
            for old in [o for o in placed if o < k - 1]:
                del placed[old]
            offset = (local[k, :2] - low) / spacing
            padded = np.full((size_xy[1], size_xy[0]), np.nan, np.float32)
            padded[: pixels.shape[1], : pixels.shape[2]] = pixels[k]
            placed[k] = ndimage.shift(padded, offset[::-1], order=1, cval=np.nan)
        return placed[k]

    result = np.empty((count, size_xy[1], size_xy[0]), np.float32)
    for i in range(count):
        at = local[0, 2] + i * gap_mm
        k = int(np.clip(np.searchsorted(local[:, 2], at + 1e-6) - 1, 0, len(local) - 2))
        t = np.float32(np.clip((at - local[k, 2]) / (local[k + 1, 2] - local[k, 2]), 0, 1))
        a, b = place(k), place(k + 1)
        result[i] = np.where(np.isnan(a), b, np.where(np.isnan(b), a, a + t * (b - a)))
    result[np.isnan(result)] = AIR_HU
    origin = first.axes @ np.array([*low, local[0, 2]])
    geometry = Geometry(
        (*size_xy.tolist(), count), (*first.spacing_xy, gap_mm), tuple(origin), tuple(first.axes.ravel())
    )
    return Volume(result, geometry, name)
