"""Aggregates as Grand Challenge reports them, and paired comparison of two sets of scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 10_000
CONFIDENCE = 0.95


def aggregate(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """mean, max, min, std, 25pc, 50pc, 75pc, count over the defined values; None for all but count without any.

    std is the population's (ddof 0), as the challenge's own aggregates; 0 for one value.
    """
    numbers = np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)
    if numbers.size == 0:
        return dict.fromkeys(("mean", "max", "min", "std", "25pc", "50pc", "75pc")) | {"count": 0}
    quartiles = np.percentile(numbers, (25, 50, 75))
    return {
        "mean": float(numbers.mean()),
        "max": float(numbers.max()),
        "min": float(numbers.min()),
        "std": float(numbers.std()),
        "25pc": float(quartiles[0]),
        "50pc": float(quartiles[1]),
        "75pc": float(quartiles[2]),
        "count": int(numbers.size),
    }


@dataclass(frozen=True)
class PairedDifference:
    """B minus A over the cases that both have.

    Args:
        count: Cases.
        mean_a, mean_b: Means over those cases.
        difference: Mean of B - A.
        low, high: 95 % bootstrap interval of that mean (percentile method, 10,000 resamplings of cases).
        p_value: Two-sided Wilcoxon signed-rank test; None where fewer than two cases differ.
        b_better: Cases in which B is better.
    """

    count: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float | None
    b_better: int


def wilcoxon_p(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """p of the two-sided Wilcoxon signed-rank test of paired values (scipy's choice of exact or approximate).

    Zero differences are dropped, as in Wilcoxon's own procedure; None where fewer than two pairs differ.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    if np.count_nonzero(difference) < 2:
        return None
    from scipy.stats import wilcoxon  # here, because it takes a second to import

    return float(wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Scand J Stat 6:65, 1979) over the defined p-values; None stays None.

    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.03, 0.06, None, 0.06]
    """
    defined = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for position, (p, index) in enumerate(defined):
        running = max(running, min(1.0, (len(defined) - position) * p))
        adjusted[index] = running
    return adjusted


def rank_biserial(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Effect size of paired values: the matched-pairs rank-biserial correlation of a - b, from -1 to 1 (Kerby, 2014).

    1: a is larger in every pair. None where no pair differs.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    difference = difference[difference != 0]
    if difference.size == 0:
        return None
    from scipy.stats import rankdata  # here, because it takes a second to import

    ranks = rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum())


def bootstrap_interval(values: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean over 10,000 resamplings of the values."""
    numbers = np.asarray(values, dtype=np.float64)
    samples = np.random.default_rng(seed).integers(0, numbers.size, (BOOTSTRAP_SAMPLES, numbers.size))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(numbers[samples].mean(axis=1), (tail, 100 - tail))
    return float(low), float(high)


def paired_difference(a: Sequence[float], b: Sequence[float], *, better: str, seed: int = 0) -> PairedDifference:
    """Compare two methods case by case.

    Args:
        a, b: Scores of the same cases in the same order, finite.
        better: `higher`, `lower`, or `zero` (closer to 0).

    Raises:
        ValueError: No case, or unequal lengths.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.size == 0 or first.shape != second.shape:
        raise ValueError(f"{first.size} and {second.size} scores, expected the same number of at least 1")
    difference = second - first
    low, high = bootstrap_interval(difference, seed=seed)
    gain = {"higher": difference, "lower": -difference, "zero": np.abs(first) - np.abs(second)}[better]
    return PairedDifference(
        difference.size,
        float(first.mean()),
        float(second.mean()),
        float(difference.mean()),
        low,
        high,
        wilcoxon_p(second, first),
        int((gain > 0).sum()),
    )
