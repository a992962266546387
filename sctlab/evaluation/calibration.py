"""Does the ensemble's spread predict the error?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

BINS = 10
SAMPLE = 200_000


@dataclass(frozen=True)
class Calibration:
    """Spread against error over the mask.

    Args:
        spread_hu: Root mean square spread of each bin (equal counts, rising spread).
        error_hu: Root mean square error of each bin; equal to the spread where it is calibrated.
        calibration_error: Mean over bins of |error - spread| / spread (ENCE; Levi et al., Sensors 22(15), 2022).
        rank_correlation: Spearman's, spread against absolute error: does it say *where* the error is?
        covered: Fraction of voxels with |error| <= 2 spread; 0.95 for Gaussian errors.
    """

    spread_hu: tuple[float, ...]
    error_hu: tuple[float, ...]
    calibration_error: float
    rank_correlation: float
    covered: float


def spread_calibration(error: np.ndarray, spread: np.ndarray, *, seed: int = 0) -> Calibration | None:
    """Compare the spread (HU, >= 0) with the error (HU), both over the mask's voxels, 1D.

    A sample of at most 200,000 voxels is used. None when the spread is zero throughout (one fold, one view).
    """
    if error.size > SAMPLE:
        chosen = np.random.default_rng(seed).choice(error.size, SAMPLE, replace=False)
        error, spread = error[chosen], spread[chosen]
    error, spread = np.abs(error.astype(np.float64)), spread.astype(np.float64)
    if error.size < BINS or not spread.any():
        return None
    order = np.argsort(spread, kind="stable")
    parts = np.array_split(order, BINS)
    spreads = np.array([np.sqrt(np.mean(spread[p] ** 2)) for p in parts])
    errors = np.array([np.sqrt(np.mean(error[p] ** 2)) for p in parts])
    positive = spreads > 0
    return Calibration(
        tuple(spreads.tolist()),
        tuple(errors.tolist()),
        float(np.mean(np.abs(errors - spreads)[positive] / spreads[positive])),
        float(np.nan_to_num(spearmanr(spread, error).statistic)),
        float(np.mean(error <= 2 * spread)),
    )
