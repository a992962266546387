"""The aligned truth beside the registered reference, and the registration floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_phantom import make_phantom

from sctlab.evaluation.bias import find_transform, round_trip, truth_bias
from sctlab.transforms.data import AffineTransform
from sctlab.transforms.itk_files import write_itk
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry

SPACING = (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((24, 40, 44), SPACING, classes=(2, 26, 5, 27), seed=2)


def test_the_bias_is_what_the_registration_adds(tmp_path: Path, phantom) -> None:
    write_volume(phantom.ct, tmp_path / "ct_aligned.mha")
    registered = phantom.ct.with_array(np.roll(phantom.ct.array, 1, axis=2))
    mask = phantom.mask.array
    result = truth_bias(phantom.sct, registered, mask, tmp_path)
    aligned = np.abs(phantom.sct.array.astype(float) - phantom.ct.array)[mask].mean()
    against = np.abs(phantom.sct.array.astype(float) - registered.array)[mask].mean()
    itself = np.abs(registered.array.astype(float) - phantom.ct.array)[mask].mean()
    assert result.mae == pytest.approx(aligned)
    assert result.bias_hu == pytest.approx(against - aligned)
    assert result.reference_error_hu == pytest.approx(itself)
    assert result.bias_hu > 0
    assert result.excluded == 0


def test_a_biased_prediction_can_look_better_than_the_truth(tmp_path: Path, phantom) -> None:
    """A network that learnt the registration's error beats a perfect one on the registered references."""
    write_volume(phantom.ct, tmp_path / "ct_aligned.mha")
    registered = phantom.ct.with_array(np.roll(phantom.ct.array, 1, axis=2))
    copied = truth_bias(registered, registered, phantom.mask.array, tmp_path)
    assert copied.mae_registered == 0
    assert copied.bias_hu == -copied.mae < 0


def test_changed_content_is_left_out(tmp_path: Path, phantom) -> None:
    write_volume(phantom.ct, tmp_path / "ct_aligned.mha")
    changed = np.zeros(phantom.ct.array.shape, np.uint8)
    changed[5:15, 10:30, 10:30] = 1
    registered = phantom.ct.with_array(np.where(changed, -1000, phantom.ct.array).astype(np.int16))
    write_volume(phantom.ct.with_array(changed), tmp_path / "content_changed.mha")
    result = truth_bias(phantom.ct, registered, phantom.mask.array, tmp_path)
    assert result.reference_error_hu == 0
    assert result.excluded == pytest.approx(changed[phantom.mask.array].mean())


def test_truth_on_another_grid_is_not_compared(tmp_path: Path, phantom) -> None:
    assert truth_bias(phantom.sct, phantom.ct, phantom.mask.array, tmp_path) is None
    write_volume(make_phantom((20, 20, 20)).ct, tmp_path / "ct_aligned.mha")
    assert "another" in truth_bias(phantom.sct, phantom.ct, phantom.mask.array, tmp_path)


def test_the_floor_of_doing_nothing_is_zero(phantom) -> None:
    still = AffineTransform(np.eye(3))
    floor = round_trip(phantom.ct, phantom.mask.array, still, phantom.ct.geometry)
    assert floor.mae == 0
    assert floor.covered == 1


def test_the_floor_is_what_interpolation_costs(tmp_path: Path, phantom) -> None:
    half = AffineTransform(np.eye(3), (1.5, 1.5, 0.0))
    write_itk(half, tmp_path / "transform.h5")
    path = find_transform(tmp_path)
    floor = round_trip(phantom.ct, phantom.mask.array, path, phantom.ct.geometry)
    assert 1 < floor.mae < 60  # half a voxel twice: blurred edges, no displaced ones
    assert floor.inverse_error_mm == pytest.approx(0, abs=1e-6)
    misplaced = np.abs(np.roll(phantom.ct.array, 1, 2).astype(float) - phantom.ct.array)[phantom.mask.array].mean()
    assert floor.mae < misplaced


def test_what_leaves_the_view_does_not_count(phantom) -> None:
    away = AffineTransform(np.eye(3), (60.0, 0.0, 0.0))
    floor = round_trip(phantom.ct, phantom.mask.array, away, phantom.ct.geometry)
    assert 0.3 < floor.covered < 0.7
    far = Geometry(phantom.ct.geometry.size_xyz, SPACING, (1000.0, 0.0, 0.0))
    nothing = round_trip(phantom.ct, phantom.mask.array, AffineTransform(np.eye(3)), far)
    assert nothing.covered == 0
    assert np.isnan(nothing.mae)
