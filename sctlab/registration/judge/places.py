"""Where in the body another place fits better: every window is tried at places around its own.

Most windows of most images say something; some say nothing true. Where little structure is, at the skin and where the body
is cut, a window of a sound registration often fits better elsewhere. So the signal of an error in one place comes from
windows that have about as much structure as the image's median one by at least one witness, and lie inside the body.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sctlab.registration.judge.view import View, moved
from sctlab.registration.judge.witnesses import Witness

WINDOW_MM = 16.0  # standard deviation of the windows in which a better place is looked for
STEP_MM = 5.0
# Places that the search looks at, in steps: none, and along the 26 directions of a cube, as far as about 20 mm.
PLACES = (
    (0, 0, 0),
    *(
        tuple(far * d for d in direction)
        for direction in itertools.product((-1, 0, 1), repeat=3)
        if any(direction)
        for far in range(1, {1: 4, 2: 3, 3: 2}[sum(map(abs, direction))] + 1)
    ),
)
LENGTHS = np.linalg.norm(np.array(PLACES, dtype=np.float64), axis=1)
STRUCTURE = 0.8  # of the median window's, which a telling window has at least for one witness
DEEP_MM = 10.0  # from the skin and from where data end, at least
WORST_CM3 = 15.0  # the best-fitting other places of this volume make the signal
LEAST_WINDOWS = 50
_FAR = -9.0  # deviations, of a place whose window lost most of its data
_PER_MM = 0.02  # deviations: where places can't be told apart the solution's own is the best guess


@dataclass(frozen=True)
class Elsewhere:
    """What the windows say together; maps [z, y, x] on every second voxel of the view.

    Args:
        distance_mm: To the place where each window fits best; NaN where nothing tells.
        gain: Of that place over the solution's own, in deviations of the agreement over the places.
        telling: Windows with structure, inside the body.
        cm3: Of one voxel of the maps.
    """

    distance_mm: np.ndarray
    gain: np.ndarray
    telling: np.ndarray
    cm3: float

    def signals(self) -> dict[str, float]:
        """Means over the body, and the worst place in telling windows."""
        inside = np.isfinite(self.distance_mm)
        values = self.distance_mm[inside] if inside.any() else np.zeros(1)
        gains = self.gain[inside] if inside.any() else np.zeros(1)
        found = {
            "elsewhere mean mm": float(values.mean()),
            "elsewhere p95 mm": float(np.percentile(values, 95)),
            "elsewhere gain": float(gains.mean()),
        }
        chosen = inside & self.telling
        if chosen.sum() < LEAST_WINDOWS:
            return found
        # An error in one place moves no percentile of the body: a fixed volume counts, the same in small and large images.
        order = np.argsort(-self.gain[chosen])[: max(2, round(WORST_CM3 / self.cm3))]
        found["place gain"] = float(self.gain[chosen][order[-1]])
        found["place mm"] = float(np.median(self.distance_mm[chosen][order]))
        return found


def look_elsewhere(view: View, speaking: Sequence[Witness]) -> Elsewhere:
    """Try every window at every place, by all witnesses together.

    Args:
        view: What the judge sees.
        speaking: Witnesses that have maps.
    """
    step = max(1, round(STEP_MM / view.spacing_mm))
    length = LENGTHS * step * view.spacing_mm
    region = halved((view.region & view.data).astype(np.float32)) > 0.5
    enough, structure = region.copy(), np.zeros(region.shape)
    total = np.zeros((len(PLACES), *region.shape), np.float32)
    for witness in speaking:
        scores, weights = _windows(view, witness, step)
        spread = scores.std(0)
        enough &= (weights[0] > 0.02) & (spread > 1e-4)
        standard = (scores - scores.mean(0)) / np.maximum(spread, 1e-4)
        total += np.where(weights > 0.5 * weights[:1], standard, _FAR) / len(speaking)
        if enough.any():
            structure = np.maximum(structure, weights[0] / max(float(np.median(weights[0][enough])), 1e-6))
    total -= (_PER_MM * length).astype(np.float32)[:, None, None, None]
    best = total.argmax(0)
    gain = np.take_along_axis(total, best[None], 0)[0] - total[0]
    deep = ndimage.distance_transform_edt(np.pad(view.mask & view.data, 1))[1:-1, 1:-1, 1:-1] * view.spacing_mm
    telling = (structure >= STRUCTURE) & (halved(deep.astype(np.float32)) >= DEEP_MM)
    distance = np.where(enough, length[best], np.nan)
    return Elsewhere(distance, gain, telling, (2 * view.spacing_mm / 10) ** 3)


def _windows(view: View, witness: Witness, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Agreement in windows at every place, [places, z, y, x], and its weight."""
    sigma = WINDOW_MM / (2 * view.spacing_mm)
    counted = view.region & view.data
    scores, weights = [], []
    for place in PLACES:
        shift = (place[0] * step, place[1] * step, place[2] * step)
        counts = (counted & moved(view.data, shift)).astype(np.float32)
        agreement, weight = (
            ndimage.gaussian_filter(halved(part * counts), sigma, mode="constant", truncate=2.5)
            for part in witness.maps(shift)
        )
        scores.append(agreement / np.maximum(weight, 1e-6))
        weights.append(weight)
    return np.stack(scores), np.stack(weights)


def halved(array: np.ndarray) -> np.ndarray:
    """Means of 2x2x2 voxels; an odd last layer is left out."""
    even = array[tuple(slice(0, n // 2 * 2) for n in array.shape)]
    z, y, x = (n // 2 for n in even.shape)
    return even.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5), dtype=np.float32)
