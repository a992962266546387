"""Start from a real CT: the same kind of patient as the painted ones, tissues from HU and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab.dicom import read_dicom_series
from sctlab.simulation.dense import bone_or_iodine
from sctlab.simulation.phantom import CONVERTED_BONE, SPINE, Phantom
from sctlab.simulation.tissues import Tissue
from sctlab_model.body import body_mask, even_and_dark
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

SMALLEST_VOXELS, SMALLEST_MM = 24, 60.0
EVEN_HU = 6.0  # see `even_and_dark`; denoised, real lungs have 7 to 11 and air and foam 0 to 5

_T = Tissue
_OF_LABEL: dict[int, Tissue] = {
    1: _T.SPLEEN, 2: _T.KIDNEY, 3: _T.KIDNEY, 4: _T.BILE, 5: _T.LIVER, 6: _T.FLUID, 7: _T.PANCREAS, 8: _T.GLAND,
    9: _T.GLAND, 15: _T.MUSCLE, 16: _T.GAS, 17: _T.THYROID, 18: _T.BOWEL_WALL, 19: _T.BOWEL_WALL, 20: _T.STOOL,
    21: _T.URINE, 22: _T.PROSTATE, 23: _T.FLUID, 24: _T.FLUID, 51: _T.HEART, 79: _T.CORD, 90: _T.GREY_MATTER,
    117: _T.CARTILAGE, **dict.fromkeys(range(10, 15), _T.LUNG), **dict.fromkeys(range(52, 69), _T.BLOOD),
    **dict.fromkeys(range(80, 90), _T.MUSCLE),
}  # fmt: skip
_BONES = (*range(25, 51), *range(69, 79), 91, *range(92, 117))


def read_ct(path: str | Path) -> Volume:
    """A CT from an image file or a DICOM folder, checked by `check_ct`.

    Raises:
        InputError: Unreadable, or see `check_ct`.
    """
    path = Path(path)
    return check_ct(read_dicom_series(path) if path.is_dir() else read_volume(path))


def check_ct(volume: Volume) -> Volume:
    """The image with its axes turned to LPS, float32.

    Raises:
        InputError: Smaller than 24 voxels or 60 mm along an axis, or not in HU.
    """
    where = volume.name or "CT"
    size_mm = np.array(volume.geometry.size_xyz) * volume.geometry.spacing_xyz
    if (
        min(volume.geometry.size_xyz[:2]) < SMALLEST_VOXELS
        or volume.geometry.size_xyz[2] < 4
        or min(size_mm[:2]) < SMALLEST_MM
    ):
        raise InputError(
            where,
            found=f"{'x'.join(map(str, volume.geometry.size_xyz))} voxels of {volume.geometry.spacing_xyz} mm",
            expected=f"a CT of at least {SMALLEST_VOXELS}x{SMALLEST_VOXELS}x4 voxels and {SMALLEST_MM:g} mm across",
        )
    low, high = np.percentile(volume.array, (0.5, 99.5))
    if low > -300 or high < 20 or high > 20000:
        raise InputError(
            where,
            found=f"values from {low:g} to {high:g} (0.5th and 99.5th percentile)",
            expected="HU with air near -1000 and bone",
            advice="give a CT in Hounsfield units",
        )
    return _turned(volume, np.float32)


def phantom_from_ct(ct: Volume, labels: Volume | None, spacing_xyz: tuple[float, float, float]) -> Phantom:
    """A real CT as a phantom on an even grid whose axes are x, y, z.

    An oblique CT is resampled onto straight axes. HU are lightly denoised: the CT's noise must not become
    contrast of the MR or noise of the CBCT.

    Args:
        ct: In HU, any orientation.
        labels: TotalSegmentator ids on the CT's grid, or none.

    Raises:
        InputError: See `check_ct`; labels that are none, or on another grid than the CT.
    """
    ct = check_ct(ct)
    grid = _straight(ct.geometry, spacing_xyz)
    hu = resample(ct, grid, outside=AIR_HU).array
    label = np.zeros(grid.shape_zyx, np.uint8) if labels is None else _on_grid(labels, grid)
    hu = _quiet(np.clip(hu, AIR_HU, 3071))
    body = body_mask(Volume(hu, grid, ct.name), Task.CBCT).array | (label > 0)
    # couch, headrest and masks go; what is within 3 mm of the mask's coarse outline may be skin
    near = ndimage.distance_transform_edt(~body, sampling=grid.spacing_xyz[::-1]) < 3.0
    hu = np.where(near, hu, np.float32(AIR_HU))
    tissue, label = classify(hu, label, body, grid)
    return Phantom(hu, tissue, label, grid)


def _quiet(hu: np.ndarray) -> np.ndarray:
    """HU with less noise: a median in the plane where it changes no more than noise does; edges and small bones stay."""
    for _ in range(2):
        median = ndimage.median_filter(hu, size=(1, 3, 3))
        change = np.abs(hu - median)
        soft = (median > -150) & (median < 150)
        noise = 1.48 * float(np.median(change[soft])) if soft.any() else 0.0
        hu = np.where(change < np.clip(4 * noise, 60, 160), median, hu)
        if noise < 12:
            break
    return hu


def source_grid(phantom: Phantom, size_xyz: tuple[int, int, int] | None) -> Geometry:
    """Grid of the source image: `size_xyz` voxels about the body's centre, or the whole phantom."""
    if size_xyz is None:
        return phantom.geometry
    body = ~np.isin(phantom.tissue, (Tissue.AIR, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM))
    centre = np.array([round(float(i.mean())) for i in np.nonzero(body)[::-1]])
    return phantom.geometry.cropped(tuple(centre - np.array(size_xyz) // 2), size_xyz)


def classify(hu: np.ndarray, label: np.ndarray, body: np.ndarray, grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """`Tissue` of every voxel from HU and, where there are any, TotalSegmentator labels [z, y, x].

    Returns:
        The tissues, and the labels with private ids (`SPINE`, `CONVERTED_BONE`) for bone that has none.
    """
    tissue = np.full(hu.shape, Tissue.AIR, np.uint8)
    limits = ((-2000, Tissue.GAS), (-300, Tissue.FAT), (-30, Tissue.MUSCLE))
    for low, kind in limits:
        tissue[body & (hu >= low)] = kind
    lungs = _lungs(hu, body, grid)
    tissue[lungs] = Tissue.LUNG
    for k, kind in _OF_LABEL.items():
        where = label == k
        if where.any():
            tissue[where] = kind
    known_bone = np.isin(label, _BONES)
    known_soft = (label > 0) & ~known_bone
    dense = bone_or_iodine(hu, body, grid, known_bone=known_bone, known_soft=known_soft)
    tissue[dense.iodine & (label == 0)] = Tissue.BLOOD
    bone = (dense.bone | known_bone) & ~(known_soft & (hu < 600))
    tissue[bone] = np.where(hu[bone] > 600, Tissue.CORTICAL_BONE, Tissue.RED_MARROW)
    tissue[body & (hu > 1900)] = Tissue.TOOTH
    tissue[body & (hu > 2900)] = Tissue.METAL
    hollow = np.isin(label, (6, 15, 16, 18, 19, 20)) & (hu < -350)
    tissue[hollow] = Tissue.GAS
    return tissue, np.where(bone & (label == 0), _kind_of_bone(hu, bone, body, lungs, grid), label)


def _lungs(hu: np.ndarray, body: np.ndarray, grid: Geometry) -> np.ndarray:
    """Gas-like voxels that are not as black as gas, in large connected parts that are uneven as lungs are.

    Air that thighs or arms enclose is as large, and its rims lift its mean above that of gas.
    """
    airy = body & (hu < -350)
    parts, count = ndimage.label(ndimage.binary_opening(airy, iterations=1))
    if not count:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * grid.voxel_volume_mm3
    level = ndimage.mean(hu, parts, np.arange(count + 1))
    lungs = (sizes > 2e5) & (level > -930)
    lungs[0] = False
    boxes = ndimage.find_objects(parts)
    for k in np.flatnonzero(lungs).tolist():
        box = boxes[k - 1]
        lungs[k] = not even_and_dark(hu[box], parts[box] == k, grid.spacing_xyz[::-1], EVEN_HU)
    return ndimage.binary_dilation(lungs[parts], iterations=2) & airy


def _kind_of_bone(hu: np.ndarray, bone: np.ndarray, body: np.ndarray, lungs: np.ndarray, grid: Geometry) -> np.ndarray:
    """Private label of unlabelled bone, slice by slice: spine and chest (marrow half fat), or skull, pelvis and limbs.

    Beside lungs all bone counts as chest; around a brain all as skull; elsewhere what lies about the spinal canal is spine.
    """
    area = grid.spacing_xyz[0] * grid.spacing_xyz[1]
    result = np.full(hu.shape, CONVERTED_BONE, np.uint8)
    skull = np.zeros(len(hu), bool)
    canals: dict[int, np.ndarray] = {}
    for k in range(len(hu)):
        if not bone[k].any():
            continue
        holes, count = ndimage.label(
            ndimage.binary_fill_holes(ndimage.binary_closing(bone[k], iterations=2)) & ~bone[k]
        )
        if not count:
            continue
        index = np.arange(1, count + 1)
        size = np.bincount(holes.ravel(), minlength=count + 1)[1:] * area
        level = ndimage.median(hu[k], holes, index)
        soft = (level > -20) & (level < 70)
        even = ndimage.standard_deviation(hu[k], holes, index) < 45  # marrow runs from fat to spongy bone
        skull[k] = bool((soft & (size > 4000)).any())
        canal = index[soft & even & (size > 100) & (size < 700)]
        if len(canal):
            largest = canal[np.argmax(size[canal - 1])]
            canals[k] = np.array(ndimage.center_of_mass(holes == largest))
    chest = lungs.sum((1, 2)) * area > 2000
    result[chest & ~skull] = SPINE
    slices = np.array(sorted(canals))
    if not _is_canal(slices, np.array([canals[k] for k in slices]), grid):
        return result
    middle = np.stack([np.interp(np.arange(len(hu)), slices, [canals[k][a] for k in slices]) for a in (0, 1)], 1)
    for k in np.flatnonzero(~chest & ~skull).tolist():
        away = (np.indices(hu.shape[1:]) - middle[k][:, None, None]) * np.array(grid.spacing_xyz[1::-1])[:, None, None]
        near = (np.abs(away[1]) < 45) & (away[0] > -60) & (away[0] < 50)
        parts, count = ndimage.label(bone[k])
        if count:  # a whole piece of bone is of one kind
            share = ndimage.mean(near, parts, np.arange(count + 1))
            result[k][(share > 0.5)[parts]] = SPINE
    return result


def _is_canal(slices: np.ndarray, centres_yx: np.ndarray, grid: Geometry) -> bool:
    """Whether rings of bone follow one line along the body, as the spinal canal does: those of other bones jump about."""
    if len(slices) < max(3, 0.15 * grid.size_xyz[2]):
        return False
    spacing = np.array(grid.spacing_xyz[1::-1])
    steps = np.abs(np.diff(centres_yx, axis=0)) * spacing / np.diff(slices)[:, None] / grid.spacing_xyz[2]
    away = np.abs(centres_yx - np.median(centres_yx, axis=0)) * spacing
    return bool(np.median(steps) < 0.6 and np.median(away[:, 1]) < 12)


def _straight(geometry: Geometry, spacing_xyz: tuple[float, float, float]) -> Geometry:
    """The grid with straight axes that covers a grid, its outermost voxel centres inside the grid's."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in geometry.size_xyz])).reshape(3, -1).T
    points = geometry.to_physical(corners)
    low, high = points.min(0), points.max(0)
    size = np.floor((high - low) / spacing_xyz + 1e-4).astype(int) + 1  # rounded up, the last slice would lack data
    return Geometry(tuple(size), spacing_xyz, tuple(low))


def read_labels(path: str | Path) -> Volume:
    """Labels of a CT from an image file."""
    return read_volume(path)


def _on_grid(labels: Volume, grid: Geometry) -> np.ndarray:
    """Labels on a grid, uint8 [z, y, x], checked."""
    where = labels.name or "labels"
    values = np.unique(labels.array)
    if values.min() < 0 or values.max() > 117 or (values != np.round(values)).any():
        raise InputError(
            where, found=f"values from {values.min():g} to {values.max():g}", expected="TotalSegmentator ids 0 to 117"
        )
    result = resample(_turned(labels, np.uint8), grid, interpolation="nearest").array
    if not result.any():
        raise InputError(where, found="no label inside the CT's grid", expected="labels on the CT's grid")
    return result


def _turned(volume: Volume, kind: type) -> Volume:
    """The image with its axes along x, y, z of LPS."""
    import SimpleITK as sitk

    image = sitk.DICOMOrient(volume.with_array(volume.array.astype(kind)).to_sitk(), "LPS")
    return Volume.from_sitk(image, volume.name)
