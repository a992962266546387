"""Quality measures: known values, and the truth scores better than no registration and than a wrong one."""

from dataclasses import replace

import numpy as np
import pytest

import sctlab.registration.assess as assess_module
from sctlab.measures.overlap import dice
from sctlab.measures.similarity import edge_agreement, normalised_mutual_information
from sctlab.registration.judge.verdict import NOT_FAILED
from sctlab.registration.methods import MethodResult
from sctlab.registration.pairs import Pair, PairFiles, load_pair
from sctlab.registration.quality import (
    feature_distances,
    field_measures,
    label_dice,
    local_gain,
    measure,
)
from sctlab.registration.records import Judgement, Verdict
from sctlab.registration.settings import Convention, Method, RegistrationSettings
from sctlab.transforms.data import AffineTransform, DisplacementField, EulerTransform, compose
from sctlab.transforms.field import displacement_field, grid_points
from sctlab_model.cases import find_cohort
from sctlab_model.volume import Geometry, Volume

IDENTITY = AffineTransform(np.eye(3))


def bump(grid: Geometry, centre: tuple[int, int, int], length_mm: float) -> DisplacementField:
    """An error in one place: a Gaussian of 20 mm around a voxel (x, y, z), along x."""
    points = grid_points(grid) - grid.to_physical(np.array(centre))
    vectors = np.zeros((3, *grid.shape_zyx))
    vectors[0] = length_mm * np.exp(-((points / 20.0) ** 2).sum(-1) / 2)
    return DisplacementField(grid, vectors)


@pytest.fixture(scope="module")
def pairs(cohort) -> dict[str, Pair]:
    found = [c for c in find_cohort(cohort) if c.id != "2THA002"]
    return {c.id: load_pair(PairFiles.of(c), Convention.CT_TO_SOURCE) for c in found}


def test_nmi_is_two_for_the_same_values_and_one_for_independent_ones():
    rng = np.random.default_rng(0)
    a = rng.normal(size=400_000)
    assert normalised_mutual_information(a, -3 * a + 5) == pytest.approx(2, abs=0.02)
    assert normalised_mutual_information(a, rng.normal(size=a.size)) == pytest.approx(1, abs=0.005)


def test_feature_distance_and_edges_ignore_inverted_contrast():
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    grid = Geometry((24, 24, 24), (3, 3, 3))
    image = Volume(gaussian_filter(rng.normal(size=grid.shape_zyx), 1.5).astype(np.float32), grid)
    inverted, other = image.with_array(-image.array), image.with_array(np.roll(image.array, 9, 0))
    region = np.ones(grid.shape_zyx, dtype=bool)
    same, different = feature_distances(image, [inverted, other], region)
    assert same.max() < 1e-3
    assert different.mean() > 0.05
    assert edge_agreement(image, inverted, region) > 2 * edge_agreement(image, other, region)


def test_edges_of_one_slice():
    rng = np.random.default_rng(0)
    grid = Geometry((30, 20, 1), (1.0, 2.0, 3.0))
    a, b = (Volume(rng.normal(0, 100, grid.shape_zyx).astype(np.float32), grid) for _ in range(2))
    region = np.ones(grid.shape_zyx, bool)
    assert edge_agreement(a, a.with_array(-a.array), region) > 2 * edge_agreement(a, b, region) > 0


def test_dice():
    a = np.array([True, True, False, False])
    assert dice(a, a) == 1
    assert dice(a, np.array([True, False, True, False])) == 0.5
    assert np.isnan(dice(a & False, a & False))


def test_negative_labels_are_background(pairs, cbct_sample):
    pair = pairs["2THA001"]
    expected = label_dice(pair, cbct_sample.truth)
    unknown = {
        name: labels.with_array(np.where(labels.array == 0, -1, labels.array.astype(np.int16)))
        for name, labels in (("moving_labels", pair.moving_labels), ("fixed_labels", pair.fixed_labels))
    }
    assert label_dice(replace(pair, **unknown), cbct_sample.truth) == expected
    assert expected["mean"] > 0.97


def test_rigid_motion_is_displacement_but_no_deformation():
    grid = Geometry((20, 18, 16), (4, 4, 4))
    motion = EulerTransform((0.1, 0, 0), (5, 0, 0), tuple(grid.centre_xyz))
    mask = np.ones(grid.shape_zyx, dtype=bool)
    found = field_measures(displacement_field(motion, grid), mask)
    assert found["displacement_mm"]["mean"] > 4
    assert found["deformation_mm"]["max"] < 1e-9
    assert found["jacobian"]["minimum"] == pytest.approx(1)
    assert found["jacobian"]["folds"] == 0


def test_a_fold_is_counted(samples):
    grid = Geometry((30, 30, 30), (4, 4, 4))
    found = field_measures(displacement_field(samples[2](grid, 150.0), grid), np.ones(grid.shape_zyx, dtype=bool))
    assert found["jacobian"]["folds"] > 0
    assert found["jacobian"]["minimum"] < 0


@pytest.mark.parametrize("case_id", ["1ABA001", "2THA001"])
def test_truth_scores_better_than_nothing_and_worse_is_worse(pairs, cbct_sample, mr_sample, case_id):
    truth = {"1ABA001": mr_sample, "2THA001": cbct_sample}[case_id].truth
    pair = pairs[case_id]
    right = measure(pair, truth)
    before, after = right.similarity.before, right.similarity.after
    assert after.nmi > before.nmi
    assert after.feature_distance < before.feature_distance
    assert after.edges > before.edges
    assert right.overlap.after.label_dice["mean"] > 0.97
    assert right.overlap.after.label_dice["mean"] > right.overlap.before.label_dice["mean"] + 0.1
    assert right.overlap.after.body_dice > 0.9
    assert right.inverse_consistency_mm is None

    wrong = measure(
        pair,
        compose(truth, AffineTransform(np.eye(3), (25.0, 0, 0))),
        backward=IDENTITY,
        spread=pair.fixed.with_array(np.full(pair.fixed.array.shape, 2.5, np.float32)),
    )
    assert wrong.similarity.after.nmi < after.nmi
    assert wrong.similarity.after.feature_distance > after.feature_distance
    assert wrong.inverse_consistency_mm.mean > 15
    assert wrong.preset_spread_mm.p95 == pytest.approx(2.5)


@pytest.mark.parametrize("case_id", ["1ABA001", "2THA001"])
def test_an_error_in_one_place_shows_as_a_loss_there(pairs, cbct_sample, mr_sample, case_id):
    truth = {"1ABA001": mr_sample, "2THA001": cbct_sample}[case_id].truth
    pair = pairs[case_id]
    grid = pair.fixed.geometry
    side = (grid.size_xyz[0] // 5, grid.size_xyz[1] // 2, grid.size_xyz[2] // 2)  # skin and ribs
    right = measure(pair, truth).local_gain
    wrong = measure(pair, compose(bump(grid, side, 20.0), truth)).local_gain
    assert wrong.worst < right.worst - 0.3
    assert abs(wrong.median - right.median) < 0.5 * (right.worst - wrong.worst)
    assert right.worst <= right.worst_5_percent <= right.median
    assert right.median > 0


def test_the_local_gain_of_known_distances():
    """A step of one distance unit in half of the region: windows far from the step see it whole."""
    grid = Geometry((40, 20, 20), (6, 6, 6))
    region = np.ones(grid.shape_zyx, dtype=bool)
    before, after = np.full(region.sum(), 2.0, np.float32), np.ones(grid.shape_zyx, np.float32)
    after[:, :, 20:] = 3.0
    found = local_gain(before, after.ravel(), region, grid)
    assert found["worst"] == pytest.approx(-1 / 2, abs=1e-3)  # 2 before, 3 after, mean after 2
    assert found["median"] == pytest.approx(0, abs=0.2)
    assert local_gain(before[:0], before[:0], ~region, grid) is None


def test_what_fails_for_its_anatomy_is_not_called_unsure_beside_it(
    monkeypatch: pytest.MonkeyPatch, pairs: dict[str, Pair]
) -> None:
    reasons = ["edges are apart", f"{NOT_FAILED}, because the judge has not seen such pairs: voxels of 6 mm"]
    unsure = Judgement(
        verdict=Verdict.DOUBTFUL, reasons=reasons, error_mm=30, interval_mm=(9, 90), failure_probability=0.9
    )
    monkeypatch.setattr(assess_module, "judge_registration", lambda *_: (unsure, None))
    settings = RegistrationSettings(method=Method.RIGID)
    said = {}
    for anatomy in ("", "mirrored anatomy"):
        monkeypatch.setattr(assess_module, "different_parts", lambda *_, a=anatomy: a)
        said[anatomy], _ = assess_module.assess(next(iter(pairs.values())), MethodResult(IDENTITY), settings)
    assert said[""].verdict is Verdict.DOUBTFUL
    assert said[""].reasons == reasons
    failed = said["mirrored anatomy"]
    assert failed.verdict is Verdict.FAILED
    assert failed.reasons == failed.judgement.reasons == ["mirrored anatomy", "edges are apart"]
