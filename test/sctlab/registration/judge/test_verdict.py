"""The shipped calibration on phantoms that it was not made of: gross failures are no trusted pairs, a sound one is none of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.signals import collect_evidence
from sctlab.registration.pairs import Pair, make_pair
from sctlab.registration.records import Verdict
from sctlab.transforms.data import EulerTransform, Transform, compose
from sctlab_model.cases import Region
from sctlab_model.volume import Volume

OPTIMISED = frozenset({"mutual information", "mind"})


def verdict(pair: Pair, transform: Transform):
    evidence = collect_evidence(pair, transform, OPTIMISED)
    return JudgeModel.shipped().judge(evidence.signals, frozenset(evidence.left_out))


@pytest.fixture(scope="module", params=["cbct", "mr"])
def sample_and_pair(request):
    sample = request.getfixturevalue(f"{request.param}_sample")
    return sample, make_pair(sample.source, sample.ct, task=sample.task, region=Region.TH, mask=sample.mask)


def test_the_truth_has_not_failed(sample_and_pair):
    sample, pair = sample_and_pair
    assert verdict(pair, sample.truth).verdict is not Verdict.FAILED


@pytest.mark.parametrize("degrees", [45, 90, 180])
@pytest.mark.parametrize("axis", [0, 1])  # the phantom is round about the third
def test_a_turn_is_not_trusted(sample_and_pair, degrees, axis):
    sample, pair = sample_and_pair
    angles = np.zeros(3)
    angles[axis] = np.radians(degrees)
    turned = compose(EulerTransform(tuple(angles), centre_xyz=tuple(pair.fixed.geometry.centre_xyz)), sample.truth)
    wrong, right = verdict(pair, turned), verdict(pair, sample.truth)
    assert wrong.verdict is not Verdict.TRUSTED
    assert wrong.failure_probability > right.failure_probability


def test_half_a_field_of_view_in_the_other_half_s_place_is_not_trusted(sample_and_pair):
    sample, pair = sample_and_pair
    half = pair.moving.array.shape[0] // 2
    grid = pair.moving.geometry.cropped((0, 0, 0), (*pair.moving.geometry.size_xyz[:2], half))
    wrong = Volume(np.ascontiguousarray(pair.moving.array[-half:]), grid)
    assert verdict(replace(pair, moving=wrong, moving_labels=None), sample.truth).verdict is not Verdict.TRUSTED


def test_a_nearly_symmetric_mirror_is_likelier_wrong_than_the_truth(sample_and_pair):
    sample, pair = sample_and_pair
    mirrored = pair.moving.with_array(np.ascontiguousarray(pair.moving.array[:, :, ::-1]))
    wrong = verdict(replace(pair, moving=mirrored, moving_labels=None), sample.truth)
    assert wrong.failure_probability > verdict(pair, sample.truth).failure_probability
