"""pyRadPlan itself on water: skipped where neither this environment nor that of SCTLAB_DOSE_PYTHON has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.evaluation.dose.calculation import Anatomy, calculate_doses, dose_python
from sctlab.evaluation.dose.metrics import dose_metrics
from sctlab.evaluation.dose.plan import default_plan
from sctlab.evaluation.water_equivalent import stopping_power
from sctlab_model.cases import Region
from sctlab_model.errors import InputError

SPACING = (6.0, 6.0, 6.0)
SHAPE = (14, 26, 26)


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    try:
        dose_python()
    except InputError as error:
        pytest.skip(str(error))


def _water() -> tuple[np.ndarray, Anatomy]:
    z, y, x = np.indices(SHAPE)
    body = (np.abs(y - 13) < 11) & (np.abs(x - 13) < 11)
    target = (z - 7) ** 2 + (y - 13) ** 2 + (x - 13) ** 2 <= 2.3**2
    return np.where(body, 0, -1024).astype(np.float32), Anatomy(target, body, SPACING)


def _distal_depth_mm(dose: np.ndarray) -> float:
    """Depth behind the skin where the central ray's dose falls to half of the target's."""
    ray = dose[7, :, 13].astype(float)
    level = ray[13] / 2
    last = int(np.flatnonzero(ray >= level)[-1])
    return (last + (ray[last] - level) / (ray[last] - ray[last + 1]) - 2.5) * SPACING[1]


@pytest.mark.heavy
def test_a_density_error_moves_the_proton_range_by_what_the_stopping_power_says() -> None:
    ct, anatomy = _water()
    denser = np.where(anatomy.body, 60, ct)
    plan = default_plan("protons", Region.AB).model_copy(update={"gantry_angles": (0.0,), "bixel_mm": 6.0})
    same, moved = calculate_doses(ct, [ct, denser], anatomy, plan)
    assert np.median(same[anatomy.target]) == pytest.approx(plan.prescription_gy, rel=0.05)
    ratio = float(stopping_power(np.float64(0)) / stopping_power(np.float64(60)))
    range_mm = _distal_depth_mm(same)
    expected = range_mm * (1 - ratio)
    assert expected > 3
    assert range_mm - _distal_depth_mm(moved) == pytest.approx(expected, abs=0.8)


@pytest.mark.heavy
def test_identical_images_have_identical_photon_doses(tmp_path: Path) -> None:
    ct, anatomy = _water()
    plan = default_plan("photons", Region.AB).model_copy(update={"gantry_angles": (0.0, 120.0), "bixel_mm": 8.0})
    first, second = calculate_doses(ct, [ct, ct], anatomy, plan, tmp_path)
    scores = dose_metrics(first, second, plan.prescription_gy, anatomy.target, {"body": anatomy.body})
    assert (scores.mae, scores.dvh) == (0, 0)
    assert np.median(first[anatomy.target]) == pytest.approx(plan.prescription_gy, rel=0.1)
