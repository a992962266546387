"""Where in the body the error sits: depth below the mask's border, slices along each axis, bands between slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np

from sctlab.measures.ms_ssim import bounding_box

DEPTHS_MM = (0.0, 5.0, 10.0, 20.0, 30.0, 50.0, 80.0, np.inf)
AXES = ("z", "y", "x")
# A band is reported when slices are offset against their neighbours by more than this...
BANDING_HU = 4.0
# ...and by more than this factor times what the other axes show: anatomy's own changes show along all of them.
BANDING_RATIO = 2.0

MEDIAN_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class DepthError:
    """Error in one shell below the border of the mask."""

    from_mm: float
    to_mm: float
    voxels: int
    mae_hu: float
    mean_error_hu: float


def error_by_depth(
    prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray, spacing_zyx: Sequence[float]
) -> list[DepthError]:
    """Absolute and signed error by distance (mm) to the nearest voxel outside the mask.

    The image's own border doesn't count as outside: the body goes on there.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    # one voxel of surroundings, where the image has any: distances need the outside
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    inside = np.ascontiguousarray(mask[box])
    depth = edt.edt(inside, anisotropy=tuple(spacing_zyx), black_border=False, parallel=2)[inside]
    error = prediction[box][inside].astype(np.float32) - reference[box][inside].astype(np.float32)
    shell = np.digitize(depth, DEPTHS_MM[1:-1])
    count = np.bincount(shell, minlength=len(DEPTHS_MM) - 1)
    absolute = np.bincount(shell, np.abs(error), len(count))
    signed = np.bincount(shell, error, len(count))
    return [
        DepthError(a, b, int(n), float(t / n), float(s / n))
        for a, b, n, t, s in zip(DEPTHS_MM[:-1], DEPTHS_MM[1:], count, absolute, signed, strict=True)
        if n
    ]


@dataclass(frozen=True)
class SliceErrors:
    """Errors of the slices across one axis.

    Args:
        position_mm: From the first slice of the volume; only slices with mask.
        mae_hu, mean_error_hu: One value a slice.
    """

    position_mm: tuple[float, ...]
    mae_hu: tuple[float, ...]
    mean_error_hu: tuple[float, ...]


def error_by_slice(
    prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray, spacing_zyx: Sequence[float]
) -> dict[str, SliceErrors]:
    """Mean absolute and signed error of every slice across z, y and x."""
    error = _masked_error(prediction, reference, mask)
    absolute = np.abs(error)
    result = {}
    for axis, name in enumerate(AXES):
        others = tuple(a for a in range(3) if a != axis)
        count = mask.sum(axis=others)
        used = np.flatnonzero(count)
        result[name] = SliceErrors(
            tuple((used * float(spacing_zyx[axis])).tolist()),
            tuple((absolute.sum(axis=others, dtype=np.float64)[used] / count[used]).tolist()),
            tuple((error.sum(axis=others, dtype=np.float64)[used] / count[used]).tolist()),
        )
    return result


def banding(prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Typical offset of a slice against the mean of its two neighbours, in HU, per axis.

    d_k = mean over shared mask voxels of e_k - (e_{k-1} + e_{k+1}) / 2, with e the error. The result is the
    standard deviation of d, estimated by its median absolute value (a misplaced skin gives a few slices large
    d without any band), over sqrt(1.5): the standard deviation of independent offsets of the slices. A network
    that works on slices leaves bands across its slicing axis; anatomy doesn't prefer an axis.
    """
    error = _masked_error(prediction, reference, mask)
    result = {}
    for axis, name in enumerate(AXES):
        shared = _along(mask, axis, 0, -2) & _along(mask, axis, 1, -1) & _along(mask, axis, 2, None)
        others = tuple(a for a in range(3) if a != axis)
        count = shared.sum(axis=others)
        used = count >= max(1, count.max(initial=0) // 10)  # slices that barely touch the body are all noise
        used &= count > 0
        if used.sum() < 3:
            result[name] = 0.0
            continue
        sums = [
            np.einsum("zyx,zyx->" + name, part, shared, dtype=np.float64, casting="unsafe")
            for part in (_along(error, axis, 0, -2), _along(error, axis, 1, -1), _along(error, axis, 2, None))
        ]
        offset = (sums[1] - (sums[0] + sums[2]) / 2)[used] / count[used]
        result[name] = float(MEDIAN_TO_SIGMA * np.median(np.abs(offset)) / np.sqrt(1.5))
    return result


def banded_axes(offsets: dict[str, float]) -> list[str]:
    """Axes whose slices are offset beyond what the others show."""
    return [
        axis
        for axis, value in offsets.items()
        if value > BANDING_HU and value > BANDING_RATIO * max(v for a, v in offsets.items() if a != axis)
    ]


def _masked_error(prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    error = np.subtract(prediction, reference, dtype=np.float32)
    error[~mask] = 0
    return error


def _along(array: np.ndarray, axis: int, start: int, stop: int | None) -> np.ndarray:
    return array[tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))]
