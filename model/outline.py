"""Bodies whose skin isn't all in view: what is left of the outline counts for what was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sctlab_model.cut_edges import Box, cut_lines

RIM_MM = 5.0  # skin, its partial volume and the brightest fat below the coils
AIR_PERCENT = 0.5  # of the image; few have no air at all
MOST = 10.0  # times that a voxel counts


@dataclass(frozen=True)
class Outline:
    """How a body that the image's border cuts is weighted.

    Args:
        weights: How much every voxel counts, float32 [z, y, x]: 0 beyond the image's box, 1 in it, more in the rim.
        cut: Share of the outline that was cut off, 0 to 1.
    """

    weights: np.ndarray
    cut: float


def find_outline(image: np.ndarray, body: np.ndarray, box: Box, spacing_zyx: Sequence[float]) -> Outline | None:
    """Weights for the scale of a body that the image's border cuts; None where nothing is cut.

    The rim below the skin holds a body's darkest voxels (half air) and, under surface coils, its brightest. A field of view
    that cuts the skin off would move percentiles at both ends. So the rim that is left counts for the whole outline:
    1 + cut / skin (lengths over all slices), at most `MOST` times.

    Args:
        image: [z, y, x].
        body: bool, same shape.
        box: What was imaged, in rows and columns.
        spacing_zyx: mm.
    """
    (top, left), (rows, columns) = box
    seen = (slice(None), slice(top, top + rows), slice(left, left + columns))
    inside = body[seen]
    air = float(np.percentile(image[seen], AIR_PERCENT))
    lines = cut_lines(inside, image[seen], air)
    _, high, wide = spacing_zyx
    cut = wide * int(lines[:, [0, -1]].sum()) + high * int(lines[:, :, [0, -1]].sum())
    if not cut and inside.sum() == body.sum():
        return None
    # An outline of voxels is 4 / pi times as long as the skin, over all directions.
    skin = wide * np.count_nonzero(np.diff(inside, axis=1)) + high * np.count_nonzero(np.diff(inside, axis=2))
    skin *= np.pi / 4
    weights = np.zeros(body.shape, np.float32)
    weights[seen] = 1
    if cut and skin:
        weights[seen][_rim(inside, (high, wide))] = min(MOST, 1 + cut / skin)
    return Outline(weights, float(cut / (cut + skin)) if cut else 0.0)


def _rim(body: np.ndarray, spacing_yx: tuple[float, float]) -> np.ndarray:
    """The body within `RIM_MM` of air in its slice; the image's border is none."""
    import edt

    depth = np.stack([edt.edt(s, anisotropy=spacing_yx, black_border=False) for s in np.ascontiguousarray(body)])
    return body & (depth <= RIM_MM)


def percentiles(values: np.ndarray, weights: np.ndarray, wanted: Sequence[float]) -> list[float]:
    """Weighted percentiles; with equal weights those of `np.percentile`.

    Args:
        values: [n].
        weights: Positive, [n].
        wanted: 0 to 100.

    Example:
        >>> percentiles(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0]), (50, 75))
        [2.0, 2.5]
    """
    order = np.argsort(values)
    before = np.cumsum(weights[order], dtype=np.float64) - weights[order]
    places = before / max(before[-1], np.finfo(np.float64).tiny) * 100
    return [float(v) for v in np.interp(wanted, places, values[order])]
