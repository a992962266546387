"""Weights of a cone-beam scan whose arc is too short to see every ray."""

from __future__ import annotations

import numpy as np

TAPER_DEGREES = 10.0  # at the ends of the arc


def short_arc_weights(arc_degrees: float, fan_degrees: np.ndarray, gaps_degrees: np.ndarray) -> np.ndarray:
    """Weights of projections from less than half a turn and the fan, where Parker's can't be had.

    A ray that is seen from both ends of the arc is shared between them smoothly, one that is seen once counts whole, others
    are missing (Noo et al., Phys Med Biol 47 (2002) 2525).

    Args:
        arc_degrees: From the first view to one step after the last.
        fan_degrees: Of every column's ray from the central one, [columns].
        gaps_degrees: What the reconstruction takes for every view's share of a full turn, [views]: the first and the last
            get half of what is missing.

    Returns:
        float32 [views, columns], for a reconstruction that expects a full turn, which sees every ray twice.
    """
    step = arc_degrees / len(gaps_degrees)
    place = (np.arange(len(gaps_degrees)) + 0.5)[:, None] * step  # from the arc's beginning
    opposite = (place + 180 - 2 * fan_degrees[None]) % 360
    here, there = (_taper(p, arc_degrees) for p in (place, opposite))
    return (2 * here / (here + there) * (step / gaps_degrees)[:, None]).astype(np.float32)


def _taper(place: np.ndarray, arc: float) -> np.ndarray:
    inside = np.minimum(place, arc - place)
    smooth = np.sin(np.pi / 2 * np.clip(inside / TAPER_DEGREES, 0, 1)) ** 2
    return np.where(inside > 0, np.maximum(smooth, 1e-3), 0.0)
