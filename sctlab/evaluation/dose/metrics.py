"""Dose metrics after the challenge's public definitions, on given doses of one plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HIGH_DOSE = 0.9  # of the prescription: where the MAE is taken
COVERAGE = 0.95  # of the prescription: V95
MOST_EXPOSED = 3  # organs


@dataclass(frozen=True)
class DoseMetrics:
    """A dose recalculated on a synthetic CT against the dose of the same plan on the CT.

    Args:
        mae: Mean absolute difference over voxels with at least 90 % of the prescription on the CT, relative to the prescription.
        dvh: Relative difference of D98 and of the coverage (V95) of the target, plus the means over the three most exposed organs
            of the relative differences of D2 and of Dmean.
        coverage_difference: V95 of the target in percent, sCT minus CT.
        organs: The organs that count, most exposed first.
    """

    mae: float
    dvh: float
    coverage_difference: float
    organs: tuple[str, ...]


def dose_metrics(
    evaluated: np.ndarray,
    reference: np.ndarray,
    prescription: float,
    target: np.ndarray,
    organs: Mapping[str, np.ndarray],
) -> DoseMetrics:
    """Compare two doses of one plan.

    Args:
        evaluated: Dose on the synthetic CT, Gy, axes z, y, x.
        reference: Dose on the CT, same shape.
        prescription: To the target, Gy.
        target: Boolean, same shape.
        organs: Name and boolean array. The three with the highest mean reference dose count; an organ without dose doesn't.

    Raises:
        ValueError: An empty target, or no voxel with 90 % of the prescription.
    """
    high = reference >= HIGH_DOSE * prescription
    if not target.any() or not high.any():
        raise ValueError("the target is empty, or nothing gets 90 % of the prescription")
    x, y = evaluated.astype(np.float64), reference.astype(np.float64)
    mae = float(np.abs(x[high] - y[high]).mean() / prescription)
    dvh = _relative(dose_at(x[target], 98), dose_at(y[target], 98))
    coverage = [float((d[target] >= COVERAGE * prescription).mean()) for d in (x, y)]
    dvh += _relative(*coverage)
    exposed = {name: float(y[organ].mean()) for name, organ in organs.items() if organ.any()}
    chosen = sorted((n for n in exposed if exposed[n] > 0), key=lambda n: -exposed[n])[:MOST_EXPOSED]
    if chosen:
        pairs = [(x[organs[n]], y[organs[n]]) for n in chosen]
        dvh += float(np.mean([_relative(dose_at(a, 2), dose_at(b, 2)) for a, b in pairs]))
        dvh += float(np.mean([_relative(a.mean(), b.mean()) for a, b in pairs]))
    return DoseMetrics(mae, dvh, 100 * (coverage[0] - coverage[1]), tuple(chosen))


def dose_at(values: np.ndarray, percent: float) -> float:
    """D<percent>: the dose that the most exposed `percent` of a structure's volume gets at least."""
    return float(np.percentile(values, 100 - percent))


def volume_histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Percent of a structure's voxels with at least each dose of `edges`."""
    ordered = np.sort(values)
    return 100 * (values.size - np.searchsorted(ordered, edges, side="left")) / values.size


def _relative(value: float, reference: float) -> float:
    """|value − reference| / reference; 1 where only the reference is 0, 0 where both are."""
    if reference == 0:
        return 0.0 if value == 0 else 1.0
    return abs(value - reference) / abs(reference)
