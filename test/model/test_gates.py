"""What may come out: results that no patient has are refused or named."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab_model.cases import Region
from sctlab_model.gates import Finding, Policy, ValidationStatistics, check_result, measure_result


def body(change=lambda hu: hu) -> tuple[np.ndarray, np.ndarray]:
    """A plausible trunk (muscle, fat, gas, bone) after a change, and its mask."""
    random = np.random.default_rng(0)
    hu = random.choice([45.0, -100.0, -900.0, 500.0], (10, 40, 40), p=[0.55, 0.3, 0.1, 0.05])
    return change(hu + random.normal(0, 15, hu.shape)).astype(np.float32), np.ones(hu.shape, bool)


def levels(change, region: Region | None = Region.AB, validation: ValidationStatistics | None = None) -> list[str]:
    return [f.level for f in check_result(measure_result(*body(change)), region, validation)]


def one_bad(value: float):
    def change(hu: np.ndarray) -> np.ndarray:
        hu[3, 4, 5] = value
        return hu

    return change


def test_a_plausible_body_passes() -> None:
    for region in (None, *Region):
        assert levels(lambda hu: hu, region) == []


@pytest.mark.parametrize(
    ("change", "level"),
    [
        (one_bad(np.nan), "impossible"),
        (one_bad(np.inf), "impossible"),
        (lambda hu: hu * 0 + 40, "worthless"),
        (lambda hu: hu + 910, "refuse"),
        (lambda hu: hu * 0 - 950 + np.arange(40) * 3, "refuse"),
        (lambda hu: np.where(hu > 0, 3071, hu), "refuse"),
        (lambda hu: np.where(hu > -50, hu + 120, hu), "warn"),
        (lambda hu: np.where(hu < -50, 45, hu), "warn"),
    ],
)
def test_what_no_patient_has_is_found(change, level: str) -> None:
    found = levels(change)
    assert level in found
    if level == "warn":
        assert "refuse" not in found


def test_a_body_has_bones() -> None:
    findings = check_result(measure_result(*body(lambda hu: np.where(hu > 250, 45, hu))), Region.AB)
    assert [f.level for f in findings] == ["warn"]
    assert "bone is missing" in findings[0].text


def test_a_thorax_has_lungs() -> None:
    assert levels(lambda hu: np.where(hu < -300, 45, hu), Region.TH) == ["warn"]


@pytest.mark.parametrize(
    ("level", "refused"), [("warn", "----"), ("refuse", "r---"), ("worthless", "rr--"), ("impossible", "rrrr")]
)
def test_what_follows_from_a_finding(level: str, refused: str) -> None:
    policies = [Policy(), Policy(lenient=True), Policy(accept=True), Policy(lenient=True, accept=True)]
    assert "".join("r" if p.refuses(Finding("x", level)) else "-" for p in policies) == refused


def test_results_are_held_to_the_bundle_s_own_validation() -> None:
    seen = [(Region.AB, measure_result(*body(lambda hu, k=k: hu + k))) for k in range(4)]
    validation = ValidationStatistics.of(seen)
    assert levels(lambda hu: hu, validation=validation) == []
    more_gas = levels(lambda hu: np.where(np.arange(40) % 4 == 0, -900, hu), validation=validation)
    assert "refuse" in more_gas
    assert "refuse" not in levels(lambda hu: np.where(np.arange(40) % 4 == 0, -900, hu))  # no absolute limit reached
    assert ValidationStatistics.of(seen[:2]).ranges_for(Region.AB) == {}  # too few cases to say anything


def test_a_doubt_about_the_spread_only_warns() -> None:
    hu, mask = body()
    seen = [(None, measure_result(hu, mask, np.full(hu.shape, 20.0 + k))) for k in range(3)]
    wide = measure_result(hu, mask, np.full(hu.shape, 400.0))
    findings = check_result(wide, None, ValidationStatistics.of(seen))
    assert [f.level for f in findings] == ["warn"]
    assert "folds differ" in findings[0].text
