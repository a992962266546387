"""Tissues, depth, slices, banding, calibration and path lengths against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab.evaluation.calibration import spread_calibration
from sctlab.evaluation.profiles import banded_axes, banding, error_by_depth, error_by_slice
from sctlab.evaluation.tissues import electron_density, tissue_errors
from sctlab.evaluation.water_equivalent import path_difference, stopping_power
from sctlab_model.volume import Geometry


def test_electron_density_is_thomas_curve_and_never_falls() -> None:
    assert electron_density(np.array([-1000, -500, 0, 50])) == pytest.approx([0, 0.5, 1, 1.05])
    assert electron_density(np.array([975, 1950])) == pytest.approx([1.5, 2])
    assert electron_density(np.array([-1024])) == 0
    assert (np.diff(electron_density(np.arange(-1024, 3072))) >= 0).all()


def test_tissues_are_told_by_the_reference() -> None:
    ct = np.array([-1000, -700, -100, 50, 200, 1000]).reshape(1, 1, 6)
    sct = ct + np.array([24, -100, 10, -10, 39, 195]).reshape(1, 1, 6)
    errors = tissue_errors(sct, ct, np.ones(ct.shape, bool))
    assert list(errors) == ["air", "lung", "fat", "soft tissue", "spongy bone", "cortical bone"]
    assert [e.mean_error_hu for e in errors.values()] == pytest.approx([24, -100, 10, -10, 39, 195])
    assert errors["lung"].mae_density == pytest.approx(0.1)
    assert errors["cortical bone"].mean_error_density == pytest.approx(0.1)
    assert "fat" not in tissue_errors(sct, ct, ct > 0)


def test_depth_is_measured_in_mm_from_the_mask_s_border() -> None:
    mask = np.zeros((30, 30, 30), bool)
    mask[5:25, 5:25, 5:25] = True
    ct, sct = np.zeros(mask.shape), np.zeros(mask.shape)
    sct[5:25, 5:25, 5:25] = 10  # the outer layer
    sct[6:24, 6:24, 6:24] = 3  # deeper
    shells = error_by_depth(sct, ct, mask, (6.0, 6.0, 6.0))
    # the outer layer lies 6 mm deep, the next 12 mm
    assert (shells[0].from_mm, shells[0].mae_hu, shells[0].voxels) == (5, 10, 20**3 - 18**3)
    assert shells[1].mae_hu == 3
    assert sum(s.voxels for s in shells) == mask.sum()


def test_the_image_s_border_is_not_the_mask_s() -> None:
    mask = np.zeros((10, 21, 21), bool)
    mask[:, 5:16, 5:16] = True  # runs through all slices
    shells = error_by_depth(np.ones(mask.shape), np.zeros(mask.shape), mask, (4.0, 4.0, 4.0))
    assert shells[-1].from_mm == 20  # the axis lies 6 voxels deep


def test_slices() -> None:
    mask = np.zeros((6, 8, 8), bool)
    mask[1:5, 2:6, 2:6] = True
    sct = np.zeros(mask.shape)
    sct[2], sct[3, :, :4] = -40, 8
    slices = error_by_slice(sct, np.zeros(mask.shape), mask, (3.0, 1.0, 1.0))["z"]
    assert slices.position_mm == (3, 6, 9, 12)
    assert slices.mae_hu == (0, 40, 4, 0)
    assert slices.mean_error_hu == (0, -40, 4, 0)


def test_bands_between_slices_are_found_and_measured() -> None:
    random = np.random.default_rng(0)
    shape = (80, 40, 44)
    mask = np.ones(shape, bool)
    smooth = 50 * np.sin(np.linspace(0, 6, 80))[:, None, None] + random.normal(0, 30, shape)
    offsets = random.normal(0, 12, 80)[:, None, None]
    clean = banding(smooth, np.zeros(shape), mask)
    banded = banding(smooth + offsets, np.zeros(shape), mask)
    assert banded_axes(clean) == []
    assert banded_axes(banded) == ["z"]
    assert banded["z"] == pytest.approx(12, rel=0.35)
    assert banded["y"] == pytest.approx(clean["y"], abs=0.5)


def test_a_shifted_skin_is_no_band() -> None:
    ct = np.full((30, 60, 60), -1000.0)
    ct[:, 10:50, 10:50] = 0
    mask = np.zeros(ct.shape, bool)
    mask[:, 6:54, 6:54] = True
    assert banded_axes(banding(np.roll(ct, 2, axis=1), ct, mask)) == []


def test_few_slices_have_no_bands() -> None:
    mask = np.ones((2, 20, 20), bool)
    assert banding(np.ones(mask.shape), np.zeros(mask.shape), mask)["z"] == 0


def test_a_calibrated_spread() -> None:
    random = np.random.default_rng(0)
    spread = random.uniform(5, 80, 100_000)
    error = random.normal(0, spread)
    result = spread_calibration(error, spread)
    assert result.calibration_error < 0.03
    assert result.covered == pytest.approx(0.954, abs=0.01)
    assert result.rank_correlation > 0.4
    overconfident = spread_calibration(error, spread / 4)
    assert overconfident.calibration_error == pytest.approx(3, abs=0.15)
    unrelated = spread_calibration(error, random.permutation(spread))
    assert abs(unrelated.rank_correlation) < 0.02


def test_no_spread_no_calibration() -> None:
    assert spread_calibration(np.ones(100), np.zeros(100)) is None


def _water(shape=(20, 60, 80)) -> tuple[np.ndarray, np.ndarray, Geometry]:
    mask = np.zeros(shape, bool)
    mask[:, 10:50, 10:70] = True
    return np.where(mask, 0.0, -1024.0), mask, Geometry(shape[::-1], (2.0, 2.0, 3.0))


def test_path_lengths_of_a_slab_that_is_too_dense() -> None:
    ct, mask, geometry = _water()
    sct = ct.copy()
    sct[:, 12:17] = np.where(mask[:, 12:17], 100.0, -1024.0)  # 10 mm in front
    target = np.zeros(mask.shape, bool)
    target[8:12, 28:32, 38:42] = True
    extra = 10 * float(stopping_power(np.array(100.0)) - stopping_power(np.array(0.0)))
    front = path_difference(sct, ct, mask, geometry, target=target, angles_deg=(0,))
    assert front.mean_mm == pytest.approx(extra, rel=0.02)
    assert front.p95_absolute_mm == pytest.approx(extra, rel=0.02)
    back = path_difference(sct, ct, mask, geometry, target=target, angles_deg=(180,))
    assert back.mean_absolute_mm == pytest.approx(0, abs=1e-6)
    left = path_difference(sct, ct, mask, geometry, target=target, angles_deg=(90,))
    assert left.mean_absolute_mm == pytest.approx(0, abs=1e-6)


def test_path_lengths_do_not_depend_on_the_grid() -> None:
    ct, mask, geometry = _water()
    sct = np.where(mask, 50.0, -1024.0)
    result = path_difference(sct, ct, mask, geometry)
    fine = [np.repeat(np.repeat(a, 2, 1), 2, 2) for a in (sct, ct, mask)]
    same = path_difference(*fine, Geometry((160, 120, 20), (1.0, 1.0, 3.0)))
    assert same.mean_mm == pytest.approx(result.mean_mm, rel=0.03)
    assert result.rays == 8 * 400


def test_an_empty_target_has_no_paths() -> None:
    ct, mask, geometry = _water()
    assert path_difference(ct, ct, mask, geometry, target=np.zeros(mask.shape, bool)) is None
