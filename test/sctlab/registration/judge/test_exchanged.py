"""Exchanged ends are told by the unbent image, whichever ends they are, and by no image that is its own mirror image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from sctlab.registration.judge.exchanged import ENDS, exchanged_ends, said_exchanged
from sctlab.registration.judge.view import View
from sctlab.registration.judge.witnesses import Edges, LocalCorrelation
from sctlab_model.volume import Geometry

SPEAKING = (Edges, LocalCorrelation)


def body(seed: int, shape: tuple[int, int, int], *, symmetric: bool = False) -> View:
    """A body in two contrasts, larger structures and noise; its halves are one another's mirror image where asked for."""
    rng = np.random.default_rng(seed)
    tissue = gaussian_filter(rng.normal(size=shape), 1.8)
    if symmetric:
        tissue = tissue + tissue[:, :, ::-1]
    tissue = np.clip(tissue / tissue.std(), -2, 2) / 2.5 + 1
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = (x / 0.85) ** 2 + (y / 0.85) ** 2 + (z / 1.5) ** 2 < 1
    fixed = np.where(inside, 2 - tissue, 0) + rng.normal(0, 0.02, shape)
    moving = np.where(inside, tissue, -0.75)
    data = np.ones(shape, bool)
    return View(
        fixed.astype(np.float32), moving.astype(np.float32), data, inside, inside, Geometry(shape[::-1], (5.0,) * 3)
    )


@pytest.mark.parametrize(
    ("slices", "ends", "axis"), [(20, "left-right", 2), (20, "front-back", 1), (10, "head-feet", 0)]
)
def test_exchanged_ends_are_told_and_which_they_are(slices, ends, axis):
    right = body(axis, (slices, 28, 26))
    mirrored = np.ascontiguousarray(np.flip(right.moving, axis))
    assert said_exchanged(exchanged_ends(right, SPEAKING)) == ""
    assert said_exchanged(exchanged_ends(replace(right, moving=mirrored), SPEAKING)) == ends


def test_the_patient_s_axes_count_and_not_the_array_s():
    """The same body with its slices stored from left to right."""
    right = body(4, (20, 28, 26))
    direction = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0)
    grid = Geometry(right.grid.size_xyz, right.grid.spacing_xyz, right.grid.origin_xyz, direction)
    mirrored = replace(right, moving=np.ascontiguousarray(right.moving[::-1]), grid=grid)
    assert said_exchanged(exchanged_ends(mirrored, SPEAKING)) == "left-right"


def test_a_shifted_body_is_no_mirrored_one():
    right = body(6, (20, 28, 26))
    moved = shift(right.moving, (0.0, 0.0, 4.0), order=1, mode="nearest")
    assert said_exchanged(exchanged_ends(replace(right, moving=moved), SPEAKING)) == ""


def test_of_a_body_that_is_its_own_mirror_image_nothing_is_said_about_its_sides():
    found = exchanged_ends(body(7, (20, 28, 26), symmetric=True), SPEAKING)
    assert "exchanged left-right" not in found
    assert set(found) == {f"exchanged {name}" for name in ENDS if name != "left-right"}


def test_witnesses_that_disagree_tell_nothing():
    assert said_exchanged({"exchanged left-right": -0.01, "exchanged head-feet": 0.02}) == ""
    assert said_exchanged({}) == ""


def test_a_solution_that_is_sharp_against_mirroring_is_none_of_a_mirror_image() -> None:
    """Of a phantom's exact truth an unbent mirror image agreed better by chance, and it was failed."""
    unbent = {"exchanged front-back": 0.05}
    assert said_exchanged(unbent | {"edges blunt mirror": 0.13, "correlation blunt mirror": 0.09}) == ""
    assert said_exchanged(unbent | {"edges blunt mirror": 0.58, "correlation blunt mirror": 0.54}) == "front-back"
