"""The calibrated model on made-up registrations: fitted, written, read, and honest about what it was not told."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sctlab.registration.judge.calibrate import SILENT, fit_model, fit_places
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.verdict import optimised_metrics
from sctlab.registration.presets import PRESETS
from sctlab.registration.records import Verdict
from sctlab.registration.settings import Method


def rows(count: int, seed: int) -> list[dict]:
    """Signals that follow the error with noise; a third are gross failures."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        gross = number % 3 == 0
        error = rng.uniform(30, 80) if gross else 7.5 if number % 7 == 1 else rng.uniform(0.3, 4)
        bad = error / 80
        signals = {f"{w} shift": 0.5 + 0.5 * min(1, 3 * bad) + rng.normal(0, 0.03)
                   for w in ("edges", "correlation", "information", "self-similarity")}  # fmt: skip
        signals["elsewhere mean mm"] = min(error, 25) * np.exp(rng.normal(0, 0.2))
        signals["place gain"] = min(error, 25) / 5 + rng.normal(0, 0.2)
        made.append(
            {
                "case": f"C{number % 8}",
                "kind": "shifted 30+" if gross else "local" if error == 7.5 else "sound",
                "signals": signals,
                "error_mm": error,
                "anatomy": f"A{number % 4}",
                "worst_mm": 1.5 * error,
            }
        )
    return made


@pytest.fixture(scope="module")
def model() -> JudgeModel:
    return fit_model(rows(240, 0), gross=("shifted 30+",), command="a test")


def test_it_tells_failures_and_its_intervals_cover(model, tmp_path):
    model.write(tmp_path / "model.json")
    again = JudgeModel.read(tmp_path / "model.json")
    judged = [(again.judge(row["signals"]), row) for row in rows(240, 1)]
    assert all((j.verdict is Verdict.FAILED) == (r["kind"] == "shifted 30+") for j, r in judged)
    assert all(j.reasons for j, _ in judged if j.verdict is not Verdict.TRUSTED)


@pytest.mark.parametrize("count", [120, 240])
def test_nine_of_ten_intervals_cover_and_no_more(count):
    """Few registrations make no wide intervals, and small errors are covered as well as large ones."""
    model = fit_model(rows(count, 0), gross=("shifted 30+",), command="a test")
    judged = [(model.judge(row["signals"]), row["error_mm"]) for seed in range(1, 6) for row in rows(240, seed)]
    inside = np.array([j.interval_mm[0] <= error <= j.interval_mm[1] for j, error in judged])
    large = np.array([error > 20 for _, error in judged])
    assert 0.85 <= inside.mean() <= 0.95
    assert min(inside[large].mean(), inside[~large].mean()) > 0.75


def test_a_silent_witness_changes_nothing(model):
    for silent in SILENT:
        signals = rows(1, 2)[0]["signals"]
        loud = model.judge(signals | {f"{name} shift": 99.0 for name in silent}, frozenset(silent))
        assert loud.failure_probability == model.judge(signals, frozenset(silent)).failure_probability


def test_no_registration_fails_because_a_signal_got_better(model):
    for row in rows(30, 3):
        before = model.judge(row["signals"]).failure_probability
        for name, value in row["signals"].items():
            assert model.judge(row["signals"] | {name: value - 0.3}).failure_probability <= before


def test_what_an_image_can_t_tell_is_no_evidence_against_it(model):
    """A missing signal counts as in a sound registration; it counted as in an average one, most of which were failures."""
    sound = next(row["signals"] for row in rows(9, 4) if row["kind"] == "sound")
    for name in sound:
        left = {k: v for k, v in sound.items() if k != name}
        assert model.judge(left).verdict is Verdict.TRUSTED
    assert model.judge({}).failure_probability < 0.05


def test_what_each_method_optimised():
    both = {"mind", "mutual information"}
    assert optimised_metrics(Method.ELASTIX) == {"mutual information"}
    assert optimised_metrics(Method.IMPACT, [PRESETS["mri-ab"]]) == both
    assert optimised_metrics(Method.RIGID, [PRESETS["rigid"]]) == {"mind"}
    assert optimised_metrics(Method.IMPACT, [PRESETS["mind"].changed(discrete=None)]) == {"mind"}
    assert optimised_metrics(Method.IMPACT, [PRESETS["mind"]]) == both  # the coarse search asks mutual information


def test_the_model_of_one_place_is_fitted_apart_and_leaves_the_others_as_they_are(model):
    rng = np.random.default_rng(8)
    places = []
    for number in range(80):
        wrong = number % 2 == 1
        signals = {
            "refit place mm": rng.uniform(7, 14) if wrong else rng.uniform(1, 4),
            "place gain": rng.uniform(1, 4),
            "elsewhere mean mm": rng.uniform(1, 4),
        }
        kind, worst = ("local 10-20", 15.0) if wrong else ("sound", 2.0)
        places.append({"anatomy": f"A{number % 5}", "kind": kind, "worst_mm": worst, "signals": signals})
    fitted = fit_places(model, places)
    for key, calibration in fitted.calibrations.items():
        before = model.calibrations[key]
        assert (calibration.gross, calibration.error) == (before.gross, before.error)
        told = [calibration.local_probability(p["signals"]) >= calibration.local_threshold for p in places]
        assert np.mean(told[1::2]) > 0.9
        assert np.mean(told[::2]) < 0.2
    row = rows(1, 2)[0]
    assert fitted.judge(row["signals"]).error_mm == model.judge(row["signals"]).error_mm
