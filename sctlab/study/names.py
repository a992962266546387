"""The quantities of a study by key: what a person reads in its pages instead of a column's name."""

from __future__ import annotations

from sctlab.evaluation.definitions import FEATURE_PREFIX, METRICS, Metric

_OWN = (
    Metric("sharpness", "Sharpness, of the reference's", "", "zero", 3),
    Metric("bone_dice", "Dice of bone, by HU", "", "higher", 3),
    Metric("organ_error", "Error of the organs' means", "HU", "lower", 1),
    Metric("mae_same", "MAE without changed content", "HU", "lower", 1),
    Metric("ensemble_spread", "Spread of the ensemble", "HU", "lower", 2),
    Metric("spread_rho", "Rank correlation of the spread by voxel", "", "higher", 3),
    Metric("dx_mm", "Truth further to the left by", "mm", "zero", 2),
    Metric("dy_mm", "Truth further to the back by", "mm", "zero", 2),
    Metric("dz_mm", "Truth further to the head by", "mm", "zero", 2),
    Metric("spread_mm", "Variable displacement, RMS", "mm", "lower", 2),
    Metric("edge_dx_mm", "Edges of the truth further to the left by", "mm", "zero", 2),
    Metric("edge_dy_mm", "Edges of the truth further to the back by", "mm", "zero", 2),
    Metric("edge_dz_mm", "Edges of the truth further to the head by", "mm", "zero", 2),
    Metric("input_dx_mm", "Source further to the left by", "mm", "zero", 2),
    Metric("input_dy_mm", "Source further to the back by", "mm", "zero", 2),
    Metric("input_dz_mm", "Source further to the head by", "mm", "zero", 2),
    Metric("hu_distance", "Distance of all HU to those of the own CT", "HU", "lower", 1),
    Metric("organs_outside", "Organs' means outside their ranges by", "HU", "lower", 1),
    Metric("shift_mm", "Displacement along the planted direction", "mm", "zero", 2),
    Metric("edge_shift_mm", "Displacement of edges along it", "mm", "zero", 2),
)
_KNOWN = {m.key.lower(): m for m in (*METRICS.values(), *_OWN)}


def metric_of(key: str) -> Metric | None:
    """How to read a quantity, by its key in any case of letters; None for one that nobody here defined."""
    known = _KNOWN.get(key.lower())
    if known is None and key.startswith(FEATURE_PREFIX):
        return METRICS[key]
    return known


def label_of(key: str) -> str:
    """Title with unit; the key itself where it has none."""
    known = metric_of(key)
    return known.label if known is not None else key


def digits_of(key: str) -> int:
    """Decimals to show."""
    known = metric_of(key)
    return known.digits if known is not None else 3
