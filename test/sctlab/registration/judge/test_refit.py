"""The judge's own registration finds an error in one place and leaves a right solution where it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from sctlab.registration.judge.refit import better_places, in_contrast_of, lengths_mm, refit_signals
from sctlab.registration.judge.view import View
from sctlab_model.volume import Geometry

SPACING_MM = 5.0


@pytest.fixture(scope="module")
def right() -> View:
    """A body with structure in two contrasts, one falling where the other rises."""
    rng = np.random.default_rng(5)
    shape = (30, 36, 34)
    tissue = gaussian_filter(rng.normal(size=shape), 2.0)
    tissue = np.clip(tissue / tissue.std(), -2, 2) / 4 + 1
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = (x / 0.85) ** 2 + (y / 0.85) ** 2 + (z / 0.9) ** 2 < 1
    fixed = np.where(body, 2 - tissue, 0) + rng.normal(0, 0.02, shape)
    moving = np.where(body, tissue, -0.75)
    grid = Geometry(shape[::-1], (SPACING_MM,) * 3)
    return View(fixed.astype(np.float32), moving.astype(np.float32), np.ones(shape, bool), body, body, grid)


def wrong_in_one_place(view: View, millimetres: float) -> tuple[View, np.ndarray]:
    """The view whose moving image is off along y around one place, and by how much at each voxel."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in view.fixed.shape], indexing="ij"))
    middle = np.array((15.0, 12.0, 17.0))[:, None, None, None]
    error = millimetres * np.exp(-(((index - middle) * SPACING_MM / 30.0) ** 2).sum(0) / 2)
    index[1] += error / SPACING_MM
    moved = map_coordinates(view.moving, index, order=1, mode="nearest")
    return replace(view, moving=moved.astype(np.float32)), error


def test_a_right_solution_stays_where_it_is(right):
    assert refit_signals(better_places(right), right)["refit place mm"] < 2


def test_an_error_in_one_place_is_found_with_its_size_and_its_place(right):
    view, error = wrong_in_one_place(right, 12.0)
    field = better_places(view)
    assert refit_signals(field, view)["refit place mm"] > 4
    shown = lengths_mm(field, view)
    assert np.isnan(shown[~view.mask]).all()
    at = np.unravel_index(np.nanargmax(shown), shown.shape)
    assert error[at] > 6
    assert np.corrcoef(shown[view.mask], error[view.mask])[0, 1] > 0.7
    assert field[1, 15, 12, 17] < -4  # back along y


def test_a_shift_of_the_whole_image_is_no_place_s(right):
    field = np.zeros((3, *right.fixed.shape), np.float32)
    field[2] = 3.0
    assert lengths_mm(field, right)[15, 17, 17] == pytest.approx(3.0)
    assert refit_signals(field, right)["refit place mm"] == pytest.approx(0.0, abs=1e-5)


def test_the_moving_image_gets_the_fixed_one_s_contrast(right):
    inside = right.mask
    assert np.corrcoef(right.moving[inside], right.fixed[inside])[0, 1] < -0.9
    assert np.corrcoef(in_contrast_of(right)[inside], right.fixed[inside])[0, 1] > 0.9


def test_a_constant_image_moves_nowhere_far_and_an_empty_one_says_nothing(right):
    flat = replace(right, moving=np.ones_like(right.moving))
    assert np.isfinite(better_places(flat)).all()
    nothing = replace(right, data=np.zeros_like(right.data))
    assert not better_places(nothing).any()
    assert refit_signals(better_places(nothing), nothing) == {}
