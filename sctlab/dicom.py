"""Read a CT series from a DICOM folder by slice position, whatever the file order, gaps and gantry tilt.

GDCM decodes the files in a child process with limits (`sctlab_model.io.child`): one that is made to crash it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab.reporting import counted
from sctlab_model.cases.files import is_dicom
from sctlab_model.errors import InputError
from sctlab_model.io.child import read_in_child
from sctlab_model.io.content import dicom_begins_at
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS, checked_grid
from sctlab_model.io.paths import not_a_file
from sctlab_model.volume import AIR_HU, Geometry, Volume

_SERIES, _MODALITY, _POSITION, _ORIENTATION = "0020|000e", "0008|0060", "0020|0032", "0020|0037"
_DESCRIPTION, _PIXEL_SPACING, _BITS, _PHOTOMETRIC = "0008|103e", "0028|0030", "0028|0100", "0028|0004"
_RESCALE = {"RescaleIntercept": "0028|1052", "RescaleSlope": "0028|1053"}
# Transfer syntaxes that store pixels as they are: implicit and explicit, little and big endian.
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_SUFFIXES = (".dcm", ".ima", ".dicom")
LARGEST_GAP = 3.0  # times the usual distance of slices; beyond it slices are missing
LARGEST_HU = 1_000_000
SECOND_PITCH = 3  # equal wide gaps in a row that make a pitch of the protocol (thin skull base, thick above)


@dataclass(frozen=True)
class _Slice:
    path: Path
    position: np.ndarray  # centre of the first pixel, mm (x, y, z)
    axes: np.ndarray  # direction of rows and columns, and their normal: columns of a 3x3 matrix
    spacing_xy: tuple[float, float]
    size_xy: tuple[int, int]
    series: str
    description: str


def is_dicom_folder(path: str | Path) -> bool:
    """Whether a folder holds a DICOM file (by its first bytes)."""
    path = Path(path)
    return path.is_dir() and any(is_dicom(p) for p in sorted(path.iterdir()) if p.is_file())


def read_dicom_series(folder: str | Path, *, tolerance_mm: float = 0.02) -> Volume:
    """Read the CT series of a folder.

    Slices are sorted by their position along the slice normal. Where gaps are even and slices lie straight
    behind each other, voxels are kept. Uneven gaps and gantry tilt (slices that slide against each other) are
    resampled linearly onto an even grid with the slices' orientation; the usual (25th percentile) gap becomes the
    spacing. A gap of two or more times an otherwise constant pitch isn't uneven: slices were lost there.

    Args:
        folder: The series' files; other files that are not DICOM are left alone, and so are a DICOMDIR and copies of
            a slice, which are noted.
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
    return Volume(found["array"], geometry, str(folder), (*found["notes"], *notes))


def series_in_child(path: str, tolerance_mm: float) -> dict[str, Any]:
    """`read_dicom_series`, called by name in the child process: the array and where it lies."""
    volume = _read_series(Path(path), tolerance_mm)
    grid = volume.geometry
    return {
        "array": volume.array,
        "spacing": grid.spacing_xyz,
        "origin": grid.origin_xyz,
        "direction": grid.direction,
        "notes": volume.notes,
    }


def _read_series(folder: Path, tolerance_mm: float) -> Volume:
    slices, notes = _without_copies(_headers(folder))
    first = slices[0]
    _refuse_several(folder, slices)
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
        raise InputError(folder, found=counted(len(slices), "slice"), expected="at least 3")
    slices.sort(key=lambda s: float(s.position @ s.axes[:, 2]))
    local = np.array([s.position @ s.axes for s in slices])  # in the slices' own axes
    gaps = np.diff(local[:, 2])
    if gaps.min() < tolerance_mm:
        k = int(gaps.argmin())
        raise InputError(
            folder,
            found=f"{slices[k].path.name} and {slices[k + 1].path.name} at one position, with other contents",
            expected="one slice a position",
            advice="separate the phases or reconstructions",
        )
    usual = float(np.percentile(gaps, 25))
    before_gap = _missing_after(gaps, usual, tolerance_mm)
    if before_gap is not None:
        raise InputError(
            folder,
            found=f"a gap of {gaps[before_gap]:.1f} mm between {slices[before_gap].path.name} and "
            f"{slices[before_gap + 1].path.name}",
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
        return Volume(pixels, geometry, str(folder), notes)
    return replace(_resampled(pixels, local, first, usual, str(folder)), notes=notes)


def _without_copies(slices: list[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Every slice once, and a note of files that hold another one's bytes: exports and disks are often merged."""
    kept: list[_Slice] = []
    at: dict[tuple[str, bytes], _Slice] = {}
    for item in slices:
        known = at.setdefault((item.series, item.position.tobytes()), item)
        if known is item or known.path.read_bytes() != item.path.read_bytes():
            kept.append(item)
    copies = len(slices) - len(kept)
    return kept, (f"{counted(copies, 'file')} left out: copies of other slices",) if copies else ()


def _refuse_several(folder: Path, slices: list[_Slice]) -> None:
    """Several series, or slices of several sizes.

    Raises:
        InputError: There are; with how many files each has, and one of them.
    """
    for what, of in (("series", lambda s: s.series), ("image sizes", lambda s: s.size_xy)):
        groups: dict[object, list[_Slice]] = {}
        for item in slices:
            groups.setdefault(of(item), []).append(item)
        if len(groups) > 1:
            parts = [
                counted(len(group), "file")
                + (f" of '{group[0].description[:40]}'" if group[0].description else "")
                + f" such as {group[0].path.name}"
                for group in sorted(groups.values(), key=len, reverse=True)[:3]
            ]
            more = f", and {len(groups) - 3} more" if len(groups) > 3 else ""
            raise InputError(
                folder,
                found=f"{len(groups)} {what}: {', '.join(parts)}{more}",
                expected="one",
                advice="put one series into a folder of its own",
            )


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


def _files(folder: Path) -> list[Path]:
    """DICOM files of a folder, sorted by name, without the index of a disk (DICOMDIR).

    Raises:
        InputError: None, or one that is called a DICOM file and is none: a slice that was lost on the way.
    """
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and not p.is_dir())
    files = [p for p in entries if p.is_file() and p.name.upper() != "DICOMDIR" and is_dicom(p)]
    broken = [p for p in entries if p.suffix.lower() in _SUFFIXES and p not in files]
    if files and broken:
        raise InputError(
            broken[0],
            found="no DICOM file" if broken[0].is_file() else not_a_file(broken[0]),
            expected="a slice, as its name says",
            advice="copy the series again",
        )
    if not files:
        below = sorted(p for p in folder.rglob("*") if p.is_dir() and is_dicom_folder(p))
        raise InputError(
            folder,
            found="no DICOM file" + (f", but some in {below[0].relative_to(folder)}" if below else ""),
            expected="a CT series",
            advice=f"give {below[0]}" if below else "",
        )
    return files


def _headers(folder: Path) -> list[_Slice]:
    import SimpleITK as sitk

    if not folder.is_dir():
        raise InputError(folder, found="no such folder", expected="a folder of DICOM files")
    files = _files(folder)
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
            advice = "put the CT series into a folder of its own"
            if modality == "MR":
                advice += "; an MR is converted first: `dcm2niix -z y -o FOLDER SERIES`"
            raise InputError(path, found=f"modality {modality}", expected="CT", advice=advice)
        if reader.GetSize()[2:] not in ((), (1,)):
            raise InputError(
                path, found="several frames in one file", expected="one slice a file", advice="export as single frames"
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
        _check_fields(reader, path)
        axes = np.column_stack([*row_column, np.cross(*row_column)])
        slices.append(
            _Slice(
                path,
                position,
                axes,
                reader.GetSpacing()[:2],
                reader.GetSize()[:2],
                *(_value(reader, key) for key in (_SERIES, _DESCRIPTION)),
            )
        )
    return slices


def _check_fields(reader: Any, path: Path) -> None:
    """Fields that GDCM replaces by a default where they are missing or no numbers, and pixels that it makes up.

    Raises:
        InputError: Such a field, or fewer bytes than pixels.
    """
    shown = _value(reader, _PHOTOMETRIC)
    if shown == "MONOCHROME1":
        raise InputError(
            path,
            found=f"pixels that are shown inverted ({shown}), whose values GDCM turns round",
            expected="MONOCHROME2, as scanners write CT",
            advice="export the series from the scanner or its archive again",
        )
    spacing = _numbers(_value(reader, _PIXEL_SPACING))
    if len(spacing) != 2 or not min(spacing) > 0:
        text = _value(reader, _PIXEL_SPACING)
        raise InputError(path, found=f"PixelSpacing '{text[:40]}'", expected="two positive numbers")
    for name, key in _RESCALE.items():
        text = _value(reader, key)
        if text and (len(_numbers(text)) != 1 or (name == "RescaleSlope" and _numbers(text) == [0])):
            raise InputError(path, found=f"{name} '{text[:40]}'", expected="a number that makes HU of the pixels")
    width, height = reader.GetSize()[:2]
    bits = _numbers(_value(reader, _BITS)) or [0]
    if _transfer_syntax(path) in _PLAIN and path.stat().st_size < width * height * bits[0] / 8:
        raise InputError(
            path,
            found=f"{path.stat().st_size} bytes",
            expected=f"{width}x{height} pixels of {bits[0]:g} bits",
            advice="the file is damaged: copy it again",
        )


def _numbers(text: str) -> list[float]:
    """Numbers of a DICOM string; none where one of them is no finite number."""
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _transfer_syntax(path: Path) -> str:
    """How a DICOM file stores its pixels, from its first group, which is always explicit and little endian; empty where
    it doesn't say."""
    with path.open("rb") as handle:
        start = handle.read(4096)
    at = start.find(b"\x02\x00\x10\x00UI", dicom_begins_at(start) or 0)
    if at < 0:
        return ""
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].decode("ascii", "replace").strip("\0 ")


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
        if plane.dtype.kind not in "iuf" or plane.size != np.prod(item.size_xy):
            raise InputError(item.path, found="a picture in colour", expected="one number a pixel")
        plane = plane.reshape(plane.shape[-2:])
        if not np.isfinite(plane).all() or np.abs(plane).max() > LARGEST_HU:
            raise InputError(
                item.path,
                found=f"values from {plane.min():g} to {plane.max():g}",
                expected=f"HU, at most {LARGEST_HU:,}",
                advice="check rescale slope and intercept",
            )
        planes.append(plane)
    stack = np.stack(planes)
    whole = stack.dtype.kind in "iu"
    fits = whole and stack.min() >= -(1 << 15) and stack.max() < 1 << 15  # metal may reach 64,000 HU
    return stack.astype(np.int16 if fits else np.int32 if whole else np.float32)


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
