"""Dose metrics on given doses, and the calculation with a stand-in; pyRadPlan itself in `test_dose_calculation`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.commands.evaluate import modalities
from sctlab.evaluation.dose import calculation
from sctlab.evaluation.dose.calculation import Anatomy, calculate_doses, dose_python
from sctlab.evaluation.dose.metrics import dose_at, dose_metrics, volume_histogram
from sctlab.evaluation.dose.plan import GANTRY_ANGLES, default_plan
from sctlab_model.cases import Region
from sctlab_model.errors import InputError

PRESCRIPTION = 60.0


def _doses() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    z, y, x = np.indices((12, 24, 24))
    distance = np.sqrt((z - 6.0) ** 2 + (y - 12.0) ** 2 + (x - 12.0) ** 2)
    dose = PRESCRIPTION * 1.02 / (1 + np.exp((distance - 5) / 0.8))
    organs = {
        "near": (x >= 17) & (x < 20), "far": x >= 22, "left": x < 6, "front": y < 6, "none": np.zeros_like(dose, bool),
    }  # fmt: skip
    return dose.astype(np.float32), distance < 4, organs


def test_identical_doses() -> None:
    dose, target, organs = _doses()
    result = dose_metrics(dose, dose, PRESCRIPTION, target, organs)
    assert (result.mae, result.dvh, result.coverage_difference) == (0, 0, 0)
    assert len(result.organs) == 3
    assert result.organs[0] == "near"
    assert "none" not in result.organs


def test_a_planted_error_gives_what_the_definition_says() -> None:
    dose, target, organs = _doses()
    result = dose_metrics(dose * 0.97, dose, PRESCRIPTION, target, organs)
    high = dose >= 0.9 * PRESCRIPTION
    assert result.mae == pytest.approx(0.03 * dose[high].mean() / PRESCRIPTION, rel=1e-5)
    covered = [(d[target] >= 0.95 * PRESCRIPTION).mean() for d in (dose * np.float32(0.97), dose)]
    # D98, D2 and Dmean all fall by 3 %
    expected = 0.03 + abs(covered[0] - covered[1]) / covered[1] + 0.03 + 0.03
    assert result.dvh == pytest.approx(expected, rel=1e-4)
    assert result.coverage_difference == pytest.approx(100 * (covered[0] - covered[1]), rel=1e-6)
    alone = dose_metrics(dose * 0.97, dose, PRESCRIPTION, target, {})
    assert alone.dvh == pytest.approx(expected - 0.06, rel=1e-4)
    with pytest.raises(ValueError, match="target is empty"):
        dose_metrics(dose, dose, PRESCRIPTION, target & False, organs)


def test_histograms() -> None:
    values = np.arange(1, 101, dtype=float)
    assert dose_at(values, 98) == pytest.approx(np.percentile(values, 2))
    assert volume_histogram(values, np.array([0, 1, 51, 100, 101])).tolist() == [100, 100, 50, 1, 0]


def test_gamma_refers_to_the_prescription() -> None:
    pytest.importorskip("pymedphys")
    from sctlab.evaluation.dose import gamma_pass_rate
    from sctlab_model.volume import Geometry, Volume

    dose, _, _ = _doses()
    grid = Geometry(dose.shape[::-1], (3.0, 3.0, 3.0))
    same = gamma_pass_rate(Volume(dose, grid), Volume(dose, grid), prescription=PRESCRIPTION)
    assert same.pass_rate == 100
    shifted = Volume(dose + np.float32(0.05 * PRESCRIPTION) * (dose > 1), grid)
    flat = gamma_pass_rate(shifted, Volume(dose, grid), prescription=PRESCRIPTION)
    generous = gamma_pass_rate(shifted, Volume(dose, grid), prescription=4 * PRESCRIPTION)
    assert flat.pass_rate < generous.pass_rate == 100  # 3 Gy is more than 2 % of 60, less than 2 % of 240


@pytest.mark.parametrize("modality", ["photons", "protons"])
def test_every_region_has_a_plan(modality: str) -> None:
    for region in Region:
        plan = default_plan(modality, region)
        assert plan.gantry_angles == GANTRY_ANGLES[modality, region]
        density = dict(plan.hlut)
        assert np.interp(0, list(density), list(density.values())) == pytest.approx(1, abs=0.01)
        assert list(density.values()) == sorted(density.values())


WORKER = """
import sys, json
import numpy as np
with np.load(sys.argv[1]) as f:
    count = sum(n.startswith("ct_") for n in f.files)
    doses = {f"dose_{i}": np.where(f["target"] > 0, 60 + f[f"ct_{i}"] / 100, 1).astype(np.float32) for i in range(count)}
assert json.loads(str(np.load(sys.argv[1])["settings"]))["modality"] == "protons"
np.savez(sys.argv[2], **doses)
"""


def test_doses_are_kept_by_the_content_of_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(calculation, "WORKER", tmp_path / "worker.py")
    monkeypatch.setenv(calculation.PYTHON_VARIABLE, sys.executable)
    (tmp_path / "worker.py").write_text(WORKER)
    ct = np.zeros((4, 6, 6), np.float32)
    anatomy = Anatomy(ct[:] == 0, ct == 0, (3.0, 3.0, 3.0))
    plan, cache = default_plan("protons", Region.AB), tmp_path / "cache"
    first = calculate_doses(ct, [ct, ct + 100], anatomy, plan, cache)
    assert [float(d.mean()) for d in first] == [60, 61]
    monkeypatch.setattr(calculation.subprocess, "run", None)  # any call would fail now
    again = calculate_doses(ct, [ct, ct + 100], anatomy, plan, cache)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    with pytest.raises(TypeError):
        calculate_doses(ct, [ct, ct + 101], anatomy, plan, cache)
    assert len(list(cache.iterdir())) == 1


def test_a_worker_that_fails_is_an_error_with_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(calculation, "WORKER", tmp_path / "worker.py")
    monkeypatch.setenv(calculation.PYTHON_VARIABLE, sys.executable)
    (tmp_path / "worker.py").write_text("raise ValueError('no beam reaches it')")
    ct = np.zeros((4, 6, 6), np.float32)
    with pytest.raises(InputError, match="no beam reaches it"):
        calculate_doses(ct, [ct], Anatomy(ct == 0, ct == 0, (3.0, 3.0, 3.0)), default_plan("protons", None))


def test_without_pyradplan_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(calculation.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(calculation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"requirements-dose\.txt"):
        dose_python()
    monkeypatch.setenv(calculation.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(InputError, match="no file"):
        dose_python()


def test_modalities() -> None:
    assert modalities("protons, photons") == ("photons", "protons")
    assert modalities("") == ()
    with pytest.raises(InputError, match="electrons"):
        modalities("electrons")
