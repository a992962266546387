"""pyRadPlan itself on a slab of water: skipped where neither this environment nor that of SCTLAB_DOSE_PYTHON has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import gamma, pbdv

from sctlab.evaluation.dose.calculation import Anatomy, calculate_doses, dose_python
from sctlab.evaluation.dose.metrics import dose_metrics
from sctlab.evaluation.dose.plan import Plan, default_plan
from sctlab.evaluation.tissues import electron_density
from sctlab.evaluation.water_equivalent import stopping_power
from sctlab_model.cases import Region
from sctlab_model.errors import InputError

MM = 4.0
SHAPE = (20, 48, 20)
SKIN_MM = 12.0  # air before it
SSD_MM = 1000.0 - 115.0  # of the photons: the target's centre, 115 mm deep, lies at the isocentre
ENERGY_FIT = (
    0.022,
    1.77,
)  # Bragg-Kleeman in water: range in mm is 0.022 E^1.77, E in MeV (Bortfeld, Med Phys 24:2024, 1997)
NOZZLE_AIR_MM = 0.97  # pyRadPlan counts the air between nozzle and skin: 0.0011 of 885 mm


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> None:
    try:
        dose_python()
    except InputError as error:
        pytest.skip(str(error))


def _depths() -> np.ndarray:
    return (np.arange(SHAPE[1]) + 0.5) * MM - SKIN_MM


def _water() -> tuple[np.ndarray, Anatomy]:
    """A slab from the skin to the end; the target is a box of 32 x 32 mm, 100 to 130 mm deep."""
    z, _, x = np.indices(SHAPE)
    depth = _depths()[None, :, None]
    body = np.broadcast_to(depth > 0, SHAPE)
    near = (np.abs(z - 9.5) * MM < 16) & (np.abs(x - 9.5) * MM < 16)
    target = near & (depth > 100) & (depth < 130)
    return np.where(body, 0, -1024).astype(np.float32), Anatomy(target, body.copy(), (MM, MM, MM))


def _plan(modality: str) -> Plan:
    return default_plan(modality, Region.AB).model_copy(update={"gantry_angles": (0.0,), "bixel_mm": 8.0})


def _central(dose: np.ndarray) -> np.ndarray:
    return dose[9:11, :, 9:11].mean(axis=(0, 2)).astype(float)


def _fall_mm(dose: np.ndarray, level: float) -> float:
    """Depth of the last point with `level` of the prescription."""
    k = int(np.flatnonzero(dose >= level * 60)[-1])
    return _depths()[k] + MM * (dose[k] - level * 60) / (dose[k] - dose[k + 1])


def _bragg_curve(depth_mm: np.ndarray, range_mm: float) -> np.ndarray:
    """Bortfeld's depth dose of monoenergetic protons in water (1997, equation 27), arbitrary unit, with range straggling only."""
    z, r0 = depth_mm / 10, range_mm / 10
    p, alpha, beta, tail = 1.77, 0.0022, 0.012, 0.1
    sigma = 0.012 * r0**0.935
    u = (r0 - z) / sigma
    q = 1 / p
    factor = sigma**q * gamma(q) / (np.sqrt(2 * np.pi) * alpha**q * p * (1 + beta * r0))
    near = np.clip(u, -12, 12)
    peak = pbdv(-q, -near)[0] / sigma + (beta / p + 0.6 * beta + tail / r0) * pbdv(-q - 1, -near)[0]
    residual = np.maximum(r0 - z, 1e-3)
    plateau = (17.93 * residual ** (q - 1) + (0.444 + 31.7 * tail / r0) * residual**q) / (1 + beta * r0)
    return np.where(u > 12, plateau, factor * np.exp(-(near**2) / 4) * peak)


@pytest.fixture(scope="module")
def protons(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Central depth doses on water and on 3 % more stopping power; energies and weights of the pencil beams."""
    ct, anatomy = _water()
    hu = np.interp(1.03 * stopping_power(np.float64(0)), stopping_power(np.arange(200.0)), np.arange(200.0))
    cache = tmp_path_factory.mktemp("dose")
    doses = calculate_doses(ct, [ct, np.where(anatomy.body, hu, ct)], anatomy, _plan("protons"), cache)
    with np.load(next(cache.glob("*.npz"))) as file:
        energies, weights = file["energies"], file["weights"]
    return _central(doses[0]), _central(doses[1]), energies, weights


@pytest.mark.heavy
def test_protons_in_water_stop_where_bortfeld_says(protons: tuple[np.ndarray, ...]) -> None:
    dose, _, energies, weights = protons
    assert dose[(_depths() > 104) & (_depths() < 126)] == pytest.approx(60, rel=0.04)
    fine = np.arange(0, 180, 0.25)
    factor, power = ENERGY_FIT
    layers = [(weights[energies == e].sum(), factor * e**power) for e in np.unique(energies)]
    analytic = sum(w * _bragg_curve(fine, r) for w, r in layers)
    analytic *= 60 / analytic[(fine > 104) & (fine < 126)].mean()
    for level in (0.8, 0.5):
        expected = fine[np.flatnonzero(analytic >= level * 60)[-1]] - NOZZLE_AIR_MM
        assert _fall_mm(dose, level) == pytest.approx(expected, abs=1.5), level
    plateau = (_depths() > 40) & (_depths() < 90)
    assert dose[plateau] == pytest.approx(np.interp(_depths()[plateau], fine, analytic), rel=0.15)


@pytest.mark.heavy
def test_three_percent_more_density_shortens_the_proton_range_as_the_stopping_power_says(
    protons: tuple[np.ndarray, ...],
) -> None:
    dose, denser, _, _ = protons
    for level in (0.8, 0.5, 0.2):
        range_mm = _fall_mm(dose, level)
        assert range_mm - _fall_mm(denser, level) == pytest.approx(range_mm * (1 - 1 / 1.03), abs=0.5), level


@pytest.mark.heavy
def test_photons_in_water_build_up_and_fall_exponentially(tmp_path: Path) -> None:
    ct, anatomy = _water()
    plan = _plan("photons")
    hu = np.interp(1.03, electron_density(np.arange(100.0)), np.arange(100.0))
    doses = calculate_doses(ct, [ct, ct, np.where(anatomy.body, hu, ct)], anatomy, plan, tmp_path)
    assert np.median(doses[0][anatomy.target]) == pytest.approx(plan.prescription_gy, rel=0.1)
    scores = dose_metrics(doses[1], doses[0], plan.prescription_gy, anatomy.target, {"body": anatomy.body})
    assert (scores.mae, scores.dvh) == (0, 0), "identical images"
    same, _, denser = map(_central, doses)
    depth = _depths()
    assert 8 < depth[same.argmax()] < 20, "6 MV: 15 mm"
    deep = depth > 50
    parallel = np.log(same[deep] * (SSD_MM + depth[deep]) ** 2)  # without the inverse square law
    slope, offset = np.polyfit(depth[deep], parallel, 1)
    assert np.abs(parallel - slope * depth[deep] - offset).max() < 0.01, "exponential within 1 %"
    # TPR(20, 10) of 6 MV beams of 10 cm is 0.66 to 0.68 (IAEA TRS 398); a field of 3 cm has a little less
    assert 0.62 < np.exp(100 * slope) < 0.69
    at = int(np.abs(depth - 100).argmin())
    assert denser[at] / same[at] == pytest.approx(np.exp(slope * 0.03 * depth[at]), abs=0.003)
