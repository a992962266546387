"""Errors against a simulated truth, under both conventions, with changed content left out."""

import numpy as np
import pytest

from sctlab.registration.pairs import PairFiles, load_pair
from sctlab.registration.settings import Convention
from sctlab.registration.truth import measure_truth, target_registration_error, tissue_edges
from sctlab.transforms.data import AffineTransform, compose
from sctlab_model.cases import find_cohort
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


@pytest.fixture
def own_case(tmp_path, samples, cbct_sample):
    samples[1](cbct_sample, tmp_path / "Task2/TH/2THA001")
    return PairFiles.of(find_cohort(tmp_path)[0])


def test_the_truth_itself_has_no_error(own_case, cbct_sample):
    pair = load_pair(own_case, Convention.CT_TO_SOURCE)
    found = measure_truth(pair, cbct_sample.truth)
    assert found["tre_mm"]["body"]["p95"] < 1e-6
    assert found["hu_floor"]["mae"] < 20  # cubic against the linear interpolation that made the truth


def test_a_shift_is_its_length_everywhere(own_case, cbct_sample):
    pair = load_pair(own_case, Convention.CT_TO_SOURCE)
    found = measure_truth(pair, compose(cbct_sample.truth, AffineTransform(np.eye(3), (3.0, 4.0, 0))))
    assert found["tre_mm"]["body"] == pytest.approx({"mean": 5, "median": 5, "p95": 5})
    assert found["tre_mm"]["edges"]["mean"] == pytest.approx(5)
    assert found["hu_floor"]["mae"] > 30


def test_the_other_convention_inverts_the_truth(own_case, cbct_sample):
    from sctlab.transforms.invert import invert

    pair = load_pair(own_case, Convention.SOURCE_TO_CT)
    inverse, _ = invert(cbct_sample.truth, pair.fixed.geometry)
    found = measure_truth(pair, inverse)
    assert found["tre_mm"]["body"]["p95"] < 1e-6
    assert found["inverse_of_truth_mm"]["p95"] < 0.2
    assert "hu_floor" not in found
    wrong = measure_truth(pair, compose(inverse, AffineTransform(np.eye(3), (0, 0, 6.0))))
    assert wrong["tre_mm"]["body"]["median"] == pytest.approx(6)


def test_changed_content_is_left_out(own_case, cbct_sample):
    pair = load_pair(own_case, Convention.CT_TO_SOURCE)
    left = np.zeros(pair.fixed.array.shape, dtype=bool)
    left[:, :, : left.shape[2] // 2] = True
    wrong = compose(cbct_sample.truth, AffineTransform(np.eye(3), (5.0, 0, 0)))
    whole = measure_truth(pair, wrong)["hu_floor"]["mae"]
    aligned = cbct_sample.ct_aligned.array.copy()
    aligned[left] += 1000  # gas that came: no transform can bring it
    write_volume(cbct_sample.ct_aligned.with_array(aligned), own_case.truth / "ct_aligned.mha")
    assert measure_truth(pair, wrong)["hu_floor"]["mae"] > whole + 300
    write_volume(pair.fixed.with_array(left), own_case.truth / "content_changed.mha")
    assert measure_truth(pair, wrong)["hu_floor"]["mae"] < whole + 100


def test_no_truth_no_error(own_case, cbct_sample):
    from dataclasses import replace

    pair = load_pair(replace(own_case, truth=None), Convention.CT_TO_SOURCE)
    assert measure_truth(pair, cbct_sample.truth) is None


def test_edges_lie_where_tissue_changes():
    grid = Geometry((20, 20, 20), (2, 2, 2))
    array = np.full(grid.shape_zyx, 40.0, dtype=np.float32)
    array[:, :, 10:] = -100
    mask = np.ones(grid.shape_zyx, dtype=bool)
    edges = tissue_edges(Volume(array, grid), mask)
    assert set(np.flatnonzero(edges.any((0, 1)))) == {9, 10}
    errors = target_registration_error(
        AffineTransform(np.eye(3), (1.0, 0, 0)), AffineTransform(np.eye(3)), Volume(array, grid), mask
    )
    assert errors["edges"]["mean"] == pytest.approx(1)
