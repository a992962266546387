"""The rigid start: known rotations and shifts, other grids, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import InputError
from model.volume import Geometry, Volume, resample
from sctlab.registration.engine import register
from sctlab.registration.rigid import rotation
from sctlab.registration.transforms import EulerTransform


def test_rotation_is_that_of_itk() -> None:
    angles = (0.1, -0.2, 0.3)
    expected = EulerTransform(angles).affine().matrix
    found = rotation(torch.tensor(angles, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    parameters = torch.tensor(angles, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation, (parameters,))


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (42.0, -30.0, 25.0)], ids=["near", "far"])
def test_a_known_motion_is_recovered(cbct_sample, shift: tuple[float, float, float]) -> None:
    ct = cbct_sample.ct.with_array(cbct_sample.ct.array.astype(np.float32))
    truth = EulerTransform((0.06, -0.05, 0.08), shift, tuple(ct.geometry.centre_xyz))
    # The fixed image lies where the inverse of the truth puts the CT.
    origin = np.array(ct.geometry.origin_xyz) - np.array(shift)
    grid = Geometry(ct.geometry.size_xyz, ct.geometry.spacing_xyz, tuple(origin), ct.geometry.direction)
    fixed = resample(ct, grid, outside=-1024, transform=truth.to_sitk())
    mask = fixed.with_array(fixed.array > -400)
    fixed = fixed.with_array(1000 - np.abs(fixed.array - 100))  # another contrast
    result = register(fixed, ct, fixed_mask=mask, preset="rigid")
    points = grid.to_physical(np.argwhere(mask.array)[::50, ::-1])
    error = np.linalg.norm(result.rigid(points) - truth(points), axis=1)
    assert error.mean() < 1.0  # a quarter of a voxel


def test_images_that_never_meet_are_refused(cbct_sample) -> None:
    ct = cbct_sample.ct
    tiny = np.zeros(ct.array.shape, bool)
    tiny[0:2, 0:2, 0:2] = True
    apart = Volume(ct.array, ct.geometry)
    with pytest.raises(InputError, match="overlap"):
        register(ct, apart, moving_mask=ct.with_array(tiny), preset="rigid")
