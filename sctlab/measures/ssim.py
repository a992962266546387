"""SSIM as the registration-bias study publishes it: scikit-image's in 3D, on images that are 0 HU outside the mask."""

from __future__ import annotations

import math

import numpy as np

from sctlab.measures.ms_ssim import bounding_box

SSIM_RANGE = 4024.0  # 3000 + 1024, the study's data range; the challenge's MS-SSIM uses 4095
RADIUS = 3  # of scikit-image's uniform window of 7


def ssim(prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Mean structural similarity of two CTs over the whole volume.

    Both images are 0 HU outside the mask, windows are 7x7x7 and uniform, constants 0.01 and 0.03 of the range 4024, the mean leaves a
    border of 3 voxels out (`skimage.metrics.structural_similarity`). Outside, both images are equal, so the SSIM is 1 there and
    is not computed: the value rises with the air around the body.

    Args:
        prediction, reference: HU, axes z, y, x, one shape.
        mask: Body mask, same shape; voxels above 0 count.

    Returns:
        The mean; NaN for a volume thinner than one window.
    """
    from skimage.metrics import structural_similarity

    inside = np.asarray(mask) > 0
    valid = math.prod(max(0, n - 2 * RADIUS) for n in inside.shape)
    if valid == 0:
        return math.nan
    box = bounding_box(inside)
    if box is None:
        return 1.0
    # Windows further than a radius from the mask hold zeros only; a second radius is the border that skimage leaves out.
    wide = tuple(_widened(s, 2 * RADIUS, n) for s, n in zip(box, inside.shape, strict=True))
    chosen = inside[wide]
    images = [np.where(chosen, a[wide], 0).astype(np.float64) for a in (prediction, reference)]
    mean = structural_similarity(*images, data_range=SSIM_RANGE)
    count = math.prod(n - 2 * RADIUS for n in chosen.shape)
    return float((mean * count + (valid - count)) / valid)


def _widened(part: slice, margin: int, length: int) -> slice:
    """The slice with a margin, within the array and at least one window long."""
    start, stop = max(0, part.start - margin), min(length, part.stop + margin)
    missing = max(0, 2 * RADIUS + 1 - (stop - start))
    start = max(0, start - missing)
    return slice(start, min(length, max(stop, start + 2 * RADIUS + 1)))
