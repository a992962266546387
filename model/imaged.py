"""What of an image was imaged: a round field of view and empty slices hold what software has filled in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

_LEAST_FILLED, _MOST_FILLED = 0.003, 0.95  # of a plane
_ROUND_VOXELS = 1.5  # from the circle
_FILLED_BORDER = 0.2  # of the slices' border voxels that hold exactly one value
_DARKEST_PERCENT = 5.0  # of what a fill value surrounds: air of a masked image is no brighter


def imaged_part(image: np.ndarray, spacing_yx: Sequence[float]) -> np.ndarray | None:
    """Where an image holds what was measured: not in slices of a single value, and not beyond a field of view.

    A fill value may be any (-2000, -1024, 0, the largest): it is neither air nor tissue. A round field of view is told from a
    masked body by its shape: one circle in all slices, or a smaller part of it in some. The value around a masked body is
    its air if it is darker than the body; a brighter one is a fill value, too. (Rectangles: `cut_edges.image_box`.)

    Args:
        image: [z, y, x], axial slices first.
        spacing_yx: mm.

    Returns:
        bool, same shape; None where everything was imaged.
    """
    held = (image != image[:, :1, :1]).any(axis=(1, 2))
    if not held.any():
        return None
    field = np.zeros(image.shape, bool)
    field[held] = True
    for fill in _fill_values(image[:, [0, -1]][held], image[:, :, [0, -1]][held]):
        beyond = np.stack(
            [_beyond(s == fill) if h else np.ones(s.shape, bool) for s, h in zip(image, held, strict=True)]
        )
        if _is_round(np.asarray(~beyond.all(axis=0)), spacing_yx) or _is_bright(fill, image, beyond, field):
            field &= ~beyond
    return None if field.all() else field


def _fill_values(rows: np.ndarray, columns: np.ndarray) -> list[np.generic]:
    """Values that may have been filled in: that of all corners, and that of much of the border.

    Args:
        rows: The first and last of every slice.
        columns: The first and last of every slice.
    """
    corners, values, counts = rows[:, :, [0, -1]], *np.unique(np.append(rows, columns), return_counts=True)
    fills = [rows[0, 0, 0]] if (corners == rows[0, 0, 0]).all() else []
    commonest = values[np.argmax(counts)]
    if counts.max() >= _FILLED_BORDER * counts.sum() and commonest not in fills:
        fills.append(commonest)
    return fills


def _beyond(filled: np.ndarray) -> np.ndarray:
    """The parts of a filled plane that reach its border."""
    labels, count = ndimage.label(filled)
    reach = np.zeros(count + 1, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        reach[side] = True
    reach[0] = False
    return reach[labels]


def _is_bright(fill: np.generic, image: np.ndarray, beyond: np.ndarray, field: np.ndarray) -> bool:
    """Whether a fill value is brighter than the darkest of what it surrounds in a field."""
    if not _LEAST_FILLED <= beyond.mean() <= _MOST_FILLED:
        return False
    rest = image[field & ~beyond][:: max(1, image.size // 1_000_000)]
    return bool(rest.size and fill > np.percentile(rest, _DARKEST_PERCENT))


def _is_round(plane: np.ndarray, spacing_yx: Sequence[float]) -> bool:
    """Whether a plane is a disc, or what the image's border leaves of one (Kasa's fit, 1976)."""
    if not _LEAST_FILLED <= 1 - plane.mean() <= _MOST_FILLED:
        return False
    places = np.moveaxis(np.indices(plane.shape), 0, -1) * np.asarray(spacing_yx, float)
    rim = places[plane & ndimage.binary_dilation(~plane)]
    centre = rim.mean(axis=0)
    terms = np.column_stack([2 * (rim - centre), np.ones(len(rim))])
    solution = np.linalg.lstsq(terms, ((rim - centre) ** 2).sum(axis=1), rcond=None)[0]
    radius = float(np.sqrt(max(0.0, solution[2] + solution[0] ** 2 + solution[1] ** 2)))
    distance = np.linalg.norm(places - centre - solution[:2], axis=-1)
    reach = _ROUND_VOXELS * max(spacing_yx)
    return bool(distance[plane].max() <= radius + reach and distance[~plane].min() >= radius - reach)
