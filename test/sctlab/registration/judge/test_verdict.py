"""The shipped calibration on phantoms that it was not made of: gross failures are no trusted pairs, a sound one is none of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import sctlab.registration.judge.verdict as judging
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.signals import Evidence, collect_evidence
from sctlab.registration.judge.verdict import judge_registration
from sctlab.registration.pairs import Pair, make_pair
from sctlab.registration.records import Judgement, QualityRecord, Verdict
from sctlab.transforms.data import AffineTransform, EulerTransform, Transform, compose
from sctlab_model.cases import Region, Task
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

OPTIMISED = frozenset({"mutual information", "mind"})


def verdict(pair: Pair, transform: Transform) -> Judgement:
    evidence = collect_evidence(pair, transform, OPTIMISED)
    return JudgeModel.shipped().judge(evidence.signals, frozenset(evidence.left_out))


@pytest.fixture(scope="module", params=["cbct", "mr"])
def sample_and_pair(request):
    sample = request.getfixturevalue(f"{request.param}_sample")
    return sample, make_pair(sample.source, sample.ct, task=sample.task, region=Region.TH, mask=sample.mask)


@pytest.fixture(scope="module")
def right(sample_and_pair) -> Judgement:
    """Of the truth; asked once."""
    sample, pair = sample_and_pair
    return verdict(pair, sample.truth)


def test_the_truth_has_not_failed(right):
    assert right.verdict is not Verdict.FAILED


@pytest.mark.parametrize("degrees", [45, 90, 180])
@pytest.mark.parametrize("axis", [0, 1])  # the phantom is round about the third
def test_a_turn_is_not_trusted(sample_and_pair, right, degrees, axis):
    sample, pair = sample_and_pair
    angles = np.zeros(3)
    angles[axis] = np.radians(degrees)
    turned = compose(EulerTransform(tuple(angles), centre_xyz=tuple(pair.fixed.geometry.centre_xyz)), sample.truth)
    wrong = verdict(pair, turned)
    assert wrong.verdict is not Verdict.TRUSTED
    assert wrong.failure_probability > right.failure_probability


def test_half_a_field_of_view_in_the_other_half_s_place_is_not_trusted(sample_and_pair):
    sample, pair = sample_and_pair
    half = pair.moving.array.shape[0] // 2
    grid = pair.moving.geometry.cropped((0, 0, 0), (*pair.moving.geometry.size_xyz[:2], half))
    wrong = Volume(np.ascontiguousarray(pair.moving.array[-half:]), grid)
    assert verdict(replace(pair, moving=wrong, moving_labels=None), sample.truth).verdict is not Verdict.TRUSTED


def test_a_nearly_symmetric_mirror_is_likelier_wrong_than_the_truth(sample_and_pair, right):
    sample, pair = sample_and_pair
    mirrored = pair.moving.with_array(np.ascontiguousarray(pair.moving.array[:, :, ::-1]))
    wrong = verdict(replace(pair, moving=mirrored, moving_labels=None), sample.truth)
    assert wrong.failure_probability > right.failure_probability


def judged(pair: Pair, transform: Transform, share: float = 1.0) -> Judgement:
    """The verdict where nothing folds and everything has data: measures of the quality that would take seconds."""
    moved = {"mean": 5.0, "median": 5.0, "p95": 5.0, "max": 5.0}
    state = {"nmi": 1.2, "feature_distance": 0.1, "edges": 0.6}
    jacobian = {"minimum": 1.0, "p1": 1.0, "p99": 1.0, "maximum": 1.0, "log_std": 0.0, "folds": 0.0}
    quality = QualityRecord(
        similarity={"before": state, "after": state},
        overlap={"field_of_view": share, "before": {}, "after": {}},
        field={"displacement_mm": moved, "deformation_mm": moved, "jacobian": jacobian},
    )
    return judge_registration(pair, transform, quality, OPTIMISED)[0]


def test_a_body_that_is_its_own_mirror_image_is_no_mirrored_one():
    """An aligned phantom whose halves are one another's mirror image: left and right can't be told, and it is said."""
    rng = np.random.default_rng(4)
    grid = Geometry((44, 36, 32), (5.0, 5.0, 5.0))
    z, y, x = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in grid.shape_zyx], indexing="ij")
    body = (x / 18) ** 2 + (y / 15) ** 2 + (z / 14) ** 2 < 1
    organs = np.zeros(body.shape)
    for middle in ((7, 5, 3), (8, -5, -5), (0, 7, 0), (0, -4, 7), (6, 0, -9)):
        near = (abs(x) - middle[0]) ** 2 + (y - middle[1]) ** 2 + (z - middle[2]) ** 2 < 12
        organs[near] = rng.uniform(80, 300)
    ct = np.where(body, organs, AIR_HU).astype(np.float32)
    mr = np.where(body, 300 - 0.8 * organs, 0) + np.abs(rng.normal(0, 8, body.shape))
    pair = make_pair(
        Volume(mr.astype(np.float32), grid),
        Volume(ct, grid),
        task=Task.MRI,
        region=Region.AB,
        mask=Volume(body, grid),
    )
    still = AffineTransform(np.eye(3), (0.5, -0.5, 0.5))
    evidence = collect_evidence(pair, still, OPTIMISED)
    assert evidence.untold == ("mirror",)
    assert not [name for name in evidence.signals if name.endswith("mirror")]
    right = judged(pair, still)
    assert right.verdict is not Verdict.FAILED
    assert any("its own mirror image" in reason for reason in right.reasons)
    assert judged(pair, AffineTransform(np.eye(3), (25.0, 15.0, 20.0))).verdict is Verdict.FAILED


def test_voxels_coarser_than_the_calibration_s_are_no_failure_and_the_reason_is_said(mr_sample):
    sample, size_mm = mr_sample, 6.0

    def coarse(volume: Volume, outside: float) -> Volume:
        grid = volume.geometry.resized((size_mm,) * 3)
        smooth = anti_aliased(volume.with_array(volume.array.astype(np.float32)), size_mm)
        return resample(smooth, grid, interpolation="linear", outside=outside)

    source = coarse(sample.source, 0.0)
    mask = resample(
        sample.mask.with_array(sample.mask.array.astype(np.uint8)), source.geometry, interpolation="nearest"
    )
    pair = make_pair(
        source,
        coarse(sample.ct, AIR_HU),
        task=sample.task,
        region=Region.TH,
        mask=mask.with_array(mask.array > 0),
    )
    right = judged(pair, sample.truth)
    assert right.failure_probability > JudgeModel.shipped().calibrations["information+self-similarity"].gross_threshold
    assert right.verdict is Verdict.DOUBTFUL
    assert any("voxels of 6 mm" in reason for reason in right.reasons)
    wrong = judged(pair, compose(AffineTransform(np.eye(3), (25.0, 25.0, 0.0)), sample.truth))
    assert wrong.verdict is Verdict.FAILED


def test_a_body_thinner_than_the_calibration_s_is_no_failure_and_the_reason_is_said(samples):
    """Of 109 mm; turned by 10° a round phantom of few slices loses less than any patient that was seen."""
    sample = samples[0](Task.MRI, seed=2)
    pair = make_pair(sample.source, sample.ct, task=sample.task, region=Region.TH, mask=sample.mask)
    right = judged(pair, sample.truth)
    assert right.failure_probability > JudgeModel.shipped().calibrations["information+self-similarity"].gross_threshold
    assert right.verdict is Verdict.DOUBTFUL
    assert any("along one axis" in reason for reason in right.reasons)
    wrong = judged(pair, compose(AffineTransform(np.eye(3), (25.0, 25.0, 0.0)), sample.truth))
    assert wrong.verdict is Verdict.FAILED


@pytest.mark.parametrize(("share", "expected"), [(1.0, Verdict.FAILED), (0.5, Verdict.DOUBTFUL)])
def test_exchanged_ends_fail_but_not_of_half_a_body(monkeypatch, mr_sample, share, expected):
    """Half of a slab agreed better with its slices in reverse order, because the plane chose what was left in common."""
    signals = {"exchanged head-feet": 0.2}
    monkeypatch.setattr(judging, "collect_evidence", lambda *_: Evidence(signals, left_out=("information",)))
    pair = make_pair(mr_sample.source, mr_sample.ct, task=mr_sample.task, region=Region.TH, mask=mr_sample.mask)
    said = judged(pair, mr_sample.truth, share)
    assert said.verdict is expected
    assert any("reverse order" in reason for reason in said.reasons) is (expected is Verdict.FAILED)


THIN = {"edges lost": 0.75, "correlation lost": 0.88, "edges worst shift": 0.77}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Verdict.DOUBTFUL),
        ({"edges lost": 0.5}, Verdict.FAILED),  # the images do share something
        ({"edges worst shift": 0.95}, Verdict.FAILED),  # no optimum against shifts either
        ({"exchanged left-right": 0.2}, Verdict.FAILED),
    ],
)
def test_thin_evidence_is_doubtful_and_not_failed(monkeypatch, mr_sample, changed, expected):
    """Of a neck in fat-suppressed T2: turned and mirrored images agreed as well as the truth, which agreed badly, but best of all shifts."""
    wrong = {
        f"{w} {what}": 1.0 for w in ("edges", "correlation") for what in ("turn", "mirror", "blunt mirror", "slid")
    }
    monkeypatch.setattr(
        judging,
        "collect_evidence",
        lambda *_: Evidence(wrong | THIN | changed, left_out=("information", "self-similarity")),
    )
    pair = make_pair(mr_sample.source, mr_sample.ct, task=mr_sample.task, region=Region.TH, mask=mr_sample.mask)
    monkeypatch.setattr(judging, "_beyond_calibration", lambda *_: [])
    said = judged(pair, mr_sample.truth)
    assert said.failure_probability > JudgeModel.shipped().calibrations["information+self-similarity"].gross_threshold
    assert said.verdict is expected
    assert any("share too little" in reason for reason in said.reasons) is (expected is Verdict.DOUBTFUL)
