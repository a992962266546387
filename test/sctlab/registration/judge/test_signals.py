"""Evidence on phantoms with a known truth: sound solutions are sharp optima, wrong ones are none, and places are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sctlab.registration.judge.mirror import best_mirrored, best_turned, coarser
from sctlab.registration.judge.signals import collect_evidence, question
from sctlab.registration.judge.view import Looker, View
from sctlab.registration.judge.witnesses import Edges, LocalCorrelation, witnesses
from sctlab.registration.pairs import Pair, make_pair
from sctlab.transforms.data import AffineTransform, DisplacementField, EulerTransform, compose
from sctlab.transforms.field import grid_points
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry

BOTH = frozenset({"mutual information", "mind"})


@pytest.fixture(scope="module")
def pair(cbct_sample) -> Pair:
    sample = cbct_sample
    return make_pair(sample.source, sample.ct, task=sample.task, region=Region.TH, mask=sample.mask)


def test_what_the_engine_optimised_stays_silent(pair, cbct_sample):
    assert set(witnesses(BOTH)) == {"edges", "correlation"}
    assert set(witnesses(frozenset({"mutual information"}))) == {"edges", "correlation", "self-similarity"}
    evidence = collect_evidence(pair, cbct_sample.truth, BOTH)
    assert evidence.left_out == ("information", "self-similarity")
    assert not [n for n in evidence.signals if n.startswith(evidence.left_out)]


def test_a_sound_solution_is_a_sharp_optimum_and_wrong_ones_are_none(pair, cbct_sample):
    centre = tuple(pair.fixed.geometry.centre_xyz)
    mirrored = replace(pair, moving=pair.moving.with_array(np.ascontiguousarray(pair.moving.array[:, :, ::-1])))
    right = collect_evidence(pair, cbct_sample.truth, BOTH).signals
    wrong = [
        collect_evidence(pair, compose(AffineTransform(np.eye(3), (30, 20, 0)), cbct_sample.truth), BOTH).signals,
        collect_evidence(pair, EulerTransform((0, 0, np.pi / 2), centre_xyz=centre), BOTH).signals,
    ]
    # The phantom's outline is symmetric: mirrored it stays an optimum of a kind, and its own mirror image is a better one.
    flipped = collect_evidence(mirrored, cbct_sample.truth, BOTH).signals
    for witness in ("edges", "correlation"):
        assert right[f"{witness} shift"] < 0.9
        for signals in wrong:
            assert signals[f"{witness} shift"] > right[f"{witness} shift"] + 0.05
            assert signals[f"{witness} lost"] > right[f"{witness} lost"]
        assert flipped[f"{witness} mirror"] > right[f"{witness} mirror"] + 0.1
        assert flipped[f"{witness} lost"] > right[f"{witness} lost"]
    assert right["elsewhere mean mm"] < min(signals["elsewhere mean mm"] for signals in wrong)
    assert right["body gap mm"] < 5


def test_the_search_finds_how_far_a_shifted_solution_is_off(pair, cbct_sample):
    off = compose(AffineTransform(np.eye(3), (10.0, 0, 0)), cbct_sample.truth)
    evidence = collect_evidence(pair, off, BOTH)
    assert 5 < evidence.signals["elsewhere mean mm"] < 18
    assert evidence.residual_mm.array.shape == evidence.residual_mm.geometry.shape_zyx


def test_an_error_in_one_place_shows_where_the_image_tells(pair, cbct_sample):
    grid = pair.fixed.geometry
    index = np.argwhere(pair.fixed_mask.array)
    centre = grid.to_physical(np.round(index.mean(0))[::-1])
    weight = np.exp(-(((grid_points(grid) - centre) / 25.0) ** 2).sum(-1) / 2)
    error = DisplacementField(grid, np.stack([0 * weight, 14 * weight, 14 * weight]))
    right, wrong = (
        collect_evidence(pair, t, BOTH).signals for t in (cbct_sample.truth, compose(error, cbct_sample.truth))
    )
    assert wrong["place gain"] > right["place gain"] + 0.5
    assert wrong["place mm"] > 7


def test_the_solution_is_blunt_only_by_what_the_image_itself_would_lose(pair, cbct_sample):
    """An image against itself loses all that it can; a constant image can lose nothing, and no ratio runs away."""
    view = Looker(pair).look(cbct_sample.truth)
    perfect = question(replace(view, moving=view.fixed), BOTH).signals
    off = question(replace(view, moving=np.roll(view.moving, 4, axis=1)), BOTH).signals
    for witness in ("edges", "correlation"):
        assert perfect[f"{witness} blunt shift"] == pytest.approx(0, abs=1e-6)
        assert perfect[f"{witness} blunt mirror"] == pytest.approx(0, abs=1e-6)
        assert off[f"{witness} blunt shift"] > 0.5
    flat = question(replace(view, moving=np.ones_like(view.moving)), BOTH).signals
    assert all(np.isfinite(value) for value in flat.values())


def test_a_mirrored_image_gets_the_plane_that_suits_it():
    """A tilted, shifted, nearly symmetric body: its mirror image is found again, and is no better than the body itself."""
    rng = np.random.default_rng(3)
    from scipy.ndimage import gaussian_filter, rotate

    half = gaussian_filter(rng.normal(size=(32, 40, 24)), 2.0)
    image = np.concatenate([half[:, :, ::-1], half], axis=2)
    image[10:16, 10:18, 30:36] += 3 * half.std()  # what tells left from right
    image = rotate(np.roll(image, 3, axis=2), 5, axes=(1, 2), reshape=False, order=1, mode="nearest")
    image = (image / image.std()).astype(np.float32)
    inside = np.zeros(image.shape, bool)
    inside[4:-4, 6:-6, 6:-6] = True
    grid = Geometry(image.shape[::-1], (5.0, 5.0, 5.0))

    def agreement(view: View) -> float:
        return Edges(view.fixed, view.moving, view.spacing_mm).score((0, 0, 0), view.region & view.data)

    def trial(moving: np.ndarray) -> tuple[float, float]:
        view = coarser(View(image, moving, np.ones_like(inside), inside, inside, grid))
        return tuple(agreement(best(view, agreement).of(view)) for best in (best_mirrored, best_turned))

    mirrored, solution = trial(image)
    assert 0.5 * solution < mirrored < solution
    mirrored, solution = trial(np.ascontiguousarray(image[:, :, ::-1]))
    assert mirrored > solution


@pytest.mark.parametrize("witness", [Edges, LocalCorrelation])
def test_a_shift_of_the_array_is_undone_by_the_same_shift(witness):
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    image = gaussian_filter(rng.normal(size=(24, 26, 28)), 2).astype(np.float32)
    asked = witness(image, np.roll(image, (3, -2, 4), (0, 1, 2)), 5.0)
    region = np.zeros(image.shape, bool)
    region[8:-8, 8:-8, 8:-8] = True
    scores = {shift: asked.score(shift, region) for shift in ((0, 0, 0), (3, -2, 4), (-3, 2, -4))}
    assert max(scores, key=scores.get) == (3, -2, 4)
    assert scores[3, -2, 4] > 0.5
