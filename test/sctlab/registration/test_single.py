"""One pair in memory: volumes, SimpleITK images and arrays give the same, and what is no image is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab.registration import single
from sctlab.registration.methods import MethodResult
from sctlab.registration.settings import RegistrationSettings
from sctlab.registration.single import as_volume, guess_task, register
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume


def test_every_form_of_an_image_is_the_same_volume():
    direction = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    grid = Geometry((4, 5, 6), (1.0, 2.0, 3.0), (7.0, 8.0, 9.0), direction)
    volume = Volume(np.arange(120, dtype=np.float32).reshape(6, 5, 4), grid)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.matrix, grid.origin_xyz
    for form in (volume, volume.to_sitk(), (volume.array, affine)):
        same = as_volume(form)
        assert same.geometry.same_grid(grid, 1e-9)
        np.testing.assert_array_equal(same.array, volume.array)


@pytest.mark.parametrize("form", [np.zeros((3, 3, 3)), (np.zeros((3, 3)), np.eye(4)), "ct.mha", (np.zeros((3, 3, 3)), np.zeros((4, 4)))])  # fmt: skip
def test_what_is_no_image_is_refused(form):
    with pytest.raises(InputError):
        as_volume(form)


def test_the_task_follows_from_the_values(cbct_sample, mr_sample):
    assert (guess_task(cbct_sample.source), guess_task(mr_sample.source)) == (Task.CBCT, Task.MRI)


def test_a_notebook_gets_transform_image_and_verdict(cbct_sample, monkeypatch):
    sample = cbct_sample
    monkeypatch.setattr(single, "register_pair", lambda pair, settings: MethodResult(sample.truth))
    result = register(sample.source.to_sitk(), sample.ct, RegistrationSettings(), fixed_mask=sample.mask)
    assert np.abs(result.registered.array - sample.ct_aligned.array)[result.field_of_view.array].mean() < 15
    assert result.quality.verdict is not None
    low, high = result.quality.judgement.interval_mm
    assert low <= result.quality.judgement.error_mm <= high
