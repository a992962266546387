"""Evidence on phantoms with a known truth: sound solutions are sharp optima, wrong ones are none, and places are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sctlab.registration.judge.signals import collect_evidence
from sctlab.registration.judge.witnesses import Edges, LocalCorrelation, witnesses
from sctlab.registration.pairs import Pair, make_pair
from sctlab.transforms.data import AffineTransform, EulerTransform, compose
from sctlab_model.cases import Region

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
