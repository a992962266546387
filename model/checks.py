"""Checks between reading and preparing: is this the image, and the mask, that the task expects?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sctlab_model.body import SMALLEST_BODY_MM, body_mask
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.gates import Finding
from sctlab_model.intensity import check_cbct, check_mr, check_noise
from sctlab_model.label_maps import count_labels
from sctlab_model.overlap import dice
from sctlab_model.volume import Volume, resample, triple

# A mask that belongs to the image covers nearly all of the body in it, and isn't much larger.
COVERED_AT_LEAST = 0.90
OUTSIDE_AT_MOST = 0.25
BODY_DIAMETER_MM = {Region.AB: (190, 560), Region.HN: (100, 400), Region.TH: (190, 560)}
ANY_BODY_MM = (SMALLEST_BODY_MM, 900.0)  # from a wrist to more than the widest bore: beyond, the spacing is not in mm
CHECKED_EVERY_MM, CHECKED_AT_LEAST = 8.0, 16  # slices between which a mask is not compared with the image
FLIP_GAIN = 0.015  # of Dice; drawn masks of the same body differ by less between a side and its mirror image


def check_source(source: Volume, task: Task) -> list[Finding]:
    """What is strange about the values.

    Raises:
        InputError: Every voxel has the same value.
    """
    low, high = float(source.array.min()), float(source.array.max())
    if low == high:
        raise InputError(
            source.name,
            found=f"every voxel is {low:g}",
            expected="an image with contrast",
            advice="the export went wrong",
        )
    # Nothing else can be said of labels, or of noise: one word for one fault.
    return (
        check_labels(source) or check_noise(source) or (check_cbct(source) if task is Task.CBCT else check_mr(source))
    )


def check_labels(source: Volume) -> list[Finding]:
    """Whether it is an image at all, and not labels or a mask."""
    labels = count_labels(source.array)
    if labels is None:
        return []
    what = "a mask" if labels == 2 else f"{labels} labels"
    return [
        Finding(f"{what}, no image: whole numbers in areas of one value. Is it the file beside the image?", "worthless")
    ]


def check_region(mask: Volume, region: Region | None) -> list[Finding]:
    """Whether the body is as large as a body, and as the region says: a head given as an abdomen has another size.

    The size is the diameter of a circle with the area of the median axial slice.
    """
    along = 2 - int(np.argmax(np.abs(mask.geometry.axes[2])))
    areas = np.count_nonzero(np.moveaxis(mask.array, along, 0).reshape(mask.array.shape[along], -1), axis=1)
    spacing = [s for k, s in enumerate(mask.geometry.spacing_xyz[::-1]) if k != along]
    areas = areas[areas > 0] * float(np.prod(spacing))
    if not areas.size:
        return []
    diameter = 2 * float(np.sqrt(np.median(areas) / np.pi))
    if not ANY_BODY_MM[0] <= diameter <= ANY_BODY_MM[1]:
        pitch = " x ".join(f"{s:.3g}" for s in mask.geometry.spacing_xyz)
        return [
            Finding(
                f"the body is about {diameter:{'.0f' if diameter >= 1 else '.1g'}} mm wide: "
                f"is the spacing of {pitch} really in mm, and the mask that of a body?",
                "refuse",
            )
        ]
    if region is None:
        return []
    low, high = BODY_DIAMETER_MM[region]
    if low <= diameter <= high:
        return []
    return [
        Finding(
            f"the body is about {diameter:.0f} mm wide, unlike {region.full_name} ({low} to {high} mm): is the region right?"
        )
    ]


def fit_mask(mask: Volume, source: Volume) -> tuple[Volume, list[str]]:
    """The mask on the source's grid, bool, and what had to be done for it.

    Raises:
        InputError: The mask is empty, or doesn't overlap the source.
    """
    if not mask.array.any():
        raise InputError(
            mask.name, found="an empty mask", expected="a body mask", advice="leave it out to have one computed"
        )
    if mask.geometry.same_grid(source.geometry):
        return Volume(mask.array > 0, source.geometry, mask.name), []
    fitted = resample(mask.with_array(mask.array > 0), source.geometry, interpolation="nearest")
    if not fitted.array.any():
        raise InputError(
            mask.name, found="a mask that doesn't overlap the image", expected="a mask of the same patient position"
        )
    was, now = ("x".join(map(str, v.geometry.size_xyz)) for v in (mask, source))
    grids = f"{was}, image {now}" if was != now else f"{was} as the image, but other places or axes"
    return fitted, [f"the mask lay on another grid ({grids}) and was resampled"]


def check_mask(mask: Volume, source: Volume, task: Task) -> list[str]:
    """Warnings when a mask doesn't sit on the body that the image shows, in slices a few millimetres apart."""
    few = _some_slices(mask)
    if few.array.any():
        mask, source = few, _some_slices(source)
    try:
        body = body_mask(source, task).array
    except InputError:
        return ["no body was found in the image, so the mask could not be checked against it"]
    inside = np.count_nonzero(body & mask.array)
    covered = inside / np.count_nonzero(body)
    outside = 1 - inside / np.count_nonzero(mask.array)
    if covered >= COVERED_AT_LEAST and outside <= OUTSIDE_AT_MOST:
        axis = _better_flipped(mask.array, body)
        return (
            [
                f"the mask covers {covered:.0%} of the body in the image but fits better when flipped along "
                f"{'zyx'[axis]}: is it flipped?"
            ]
            if axis is not None
            else []
        )
    return [
        f"the mask covers {covered:.0%} of the body in the image and {outside:.0%} of it lies outside the body: "
        "is it shifted, flipped or of another case?"
    ]


def _some_slices(volume: Volume) -> Volume:
    """Every n-th axial slice."""
    along = int(np.argmax(np.abs(volume.geometry.axes[2])))  # of x, y, z: the one that runs along the body
    size, spacing = list(volume.geometry.size_xyz), list(volume.geometry.spacing_xyz)
    step = min(int(CHECKED_EVERY_MM / spacing[along]), size[along] // CHECKED_AT_LEAST)
    if step < 2:
        return volume
    array = volume.array[tuple(slice(None, None, step if axis == 2 - along else None) for axis in range(3))]
    size[along], spacing[along] = array.shape[2 - along], spacing[along] * step
    geometry = replace(volume.geometry, size_xyz=triple(size), spacing_xyz=triple(spacing))
    return replace(volume, array=array, geometry=geometry)


def _better_flipped(mask: np.ndarray, body: np.ndarray) -> int | None:
    """The array axis along which a flip of the mask brings it closest to the body, if any does so clearly.

    Where the field of view cuts the body, a flipped mask still covers nearly all of it: only the comparison tells.
    """
    coarse = tuple(slice(None, None, max(1, n // 96)) for n in mask.shape)
    candidates = [mask, *(np.flip(mask, axis) for axis in range(3))]
    scores = np.nan_to_num([dice(c[coarse], body[coarse]) for c in candidates])
    best = int(np.argmax(scores))
    return best - 1 if scores[best] > scores[0] + FLIP_GAIN else None
