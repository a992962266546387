"""Aggregates and paired comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sctlab.evaluation.definitions import METRICS
from sctlab.measures.statistics import aggregate, paired_difference


def test_aggregates_have_grand_challenge_s_names_and_skip_undefined_values() -> None:
    values = aggregate([1.0, None, 3.0, math.nan, 5.0, 7.0, math.inf])
    assert values == {
        "mean": 4,
        "max": 7,
        "min": 1,
        "std": pytest.approx(np.std([1, 3, 5, 7])),
        "25pc": 2.5,
        "50pc": 4,
        "75pc": 5.5,
        "count": 4,
    }


def test_aggregates_of_nothing_and_of_one() -> None:
    assert aggregate([None]) == {k: None for k in ("mean", "max", "min", "std", "25pc", "50pc", "75pc")} | {"count": 0}
    assert aggregate([2.0])["std"] == 0


def test_a_constant_gain_is_certain() -> None:
    a = np.linspace(50, 70, 12)
    result = paired_difference(a, a - 3 - np.linspace(0, 0.1, 12), better="lower")
    assert result.difference == pytest.approx(-3.05)
    assert result.low < result.difference < result.high < -3
    assert result.p_value == pytest.approx(2 / 2**12)  # every sign the same, exact distribution
    assert result.b_better == 12


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        d = random.normal(1, 2, 30)
        result = paired_difference(np.zeros(30), d, better="higher")
        hits += result.low <= 1 <= result.high
    assert 85 <= hits <= 100


def test_equal_scores_have_no_p() -> None:
    result = paired_difference([1.0, 2.0], [1.0, 2.0], better="higher")
    assert result.p_value is None
    assert result.b_better == 0


def test_directions() -> None:
    assert paired_difference([0.8], [0.9], better="higher").b_better == 1
    assert paired_difference([0.8], [0.9], better="lower").b_better == 0
    assert paired_difference([-5.0], [2.0], better="zero").b_better == 1
    assert METRICS["DICE"].better == "higher"
    assert METRICS["HD95"].better == "lower"
    assert all(m.better in ("higher", "lower", "zero") for m in METRICS.values())


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        paired_difference([], [], better="lower")
