"""The rigid start: known rotations and shifts, other grids, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sctlab.registration.engine.register import register
from sctlab.registration.engine.rigid import euler_angles, quarter_rotations, rotation
from sctlab.registration.presets import PRESETS
from sctlab.transforms.data import EulerTransform
from sctlab_model.errors import RegistrationError
from sctlab_model.volume import Geometry, Volume, resample


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
    result = register(fixed, ct, fixed_mask=mask, preset=PRESETS["rigid"])
    points = grid.to_physical(np.argwhere(mask.array)[::50, ::-1])
    error = np.linalg.norm(result.rigid(points) - truth(points), axis=1)
    assert error.mean() < 1.0  # a quarter of a voxel


@pytest.mark.parametrize("exchanged", [False, True], ids=["long fixed image", "long moving image"])
@pytest.mark.parametrize("start", [3, 14, 25], ids=["low", "middle", "high"])
def test_an_image_much_shorter_than_the_other_is_found_in_it(cbct_sample, start: int, exchanged: bool) -> None:
    """Six slices of thirty-four can't cover a quarter of the body."""
    ct = cbct_sample.ct
    grid = ct.geometry.cropped((0, 0, start), (*ct.geometry.size_xyz[:2], 6))
    truth = EulerTransform((0.03, -0.02, 0.04), (4.0, -3.0, 5.0), tuple(grid.centre_xyz))  # short image to CT
    short = resample(ct.with_array(ct.array.astype(np.float32)), grid, outside=-1024, transform=truth.to_sitk())
    body = resample(cbct_sample.ct_labels, grid, interpolation="nearest", transform=truth.to_sitk())
    points = grid.to_physical(np.argwhere(body.array > 0)[::10, ::-1])
    if exchanged:
        found = register(short, ct, fixed_mask=body.with_array(body.array > 0), preset=PRESETS["rigid"]).rigid
        error = np.linalg.norm(found(points) - truth(points), axis=1)
    else:
        mask = ct.with_array(cbct_sample.ct_labels.array > 0)
        found = register(ct, short, fixed_mask=mask, preset=PRESETS["rigid"]).rigid
        error = np.linalg.norm(found(truth(points)) - points, axis=1)
    assert error.mean() < 2.0  # half a voxel


def test_images_that_never_meet_are_refused(cbct_sample) -> None:
    ct = cbct_sample.ct
    tiny = np.zeros(ct.array.shape, bool)
    tiny[0:2, 0:2, 0:2] = True
    apart = Volume(ct.array, ct.geometry)
    with pytest.raises(
        RegistrationError, match=r"at best 0\.\d% of the fixed mask .* don't overlap; expected at least 5%"
    ):
        register(ct, apart, moving_mask=ct.with_array(tiny), preset=PRESETS["rigid"])


def test_every_quarter_turn_has_angles_without_gimbal_lock() -> None:
    matrices = quarter_rotations()
    assert len({m.tobytes() for m in matrices}) == 24
    for matrix in matrices:
        angles, zyx = euler_angles(matrix)
        assert abs(angles[1 if zyx else 0]) < 1  # the middle one
        np.testing.assert_allclose(EulerTransform(angles, zyx=zyx).affine().matrix, matrix, atol=1e-9)
        np.testing.assert_allclose(rotation(torch.tensor(angles, dtype=torch.float64), zyx), matrix, atol=1e-9)


@pytest.mark.parametrize("turn", [np.diag([-1.0, -1.0, 1.0]), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])])
def test_a_wrong_header_is_undone(cbct_sample, turn: np.ndarray) -> None:
    """Prone, or turned by 90° about the left-right axis; as the header has it, nothing would be turned."""
    ct = cbct_sample.ct.with_array(cbct_sample.ct.array.astype(np.float32))
    grid = ct.geometry
    axes = turn @ grid.axes
    origin = grid.centre_xyz - axes @ (np.array(grid.spacing_xyz) * (np.array(grid.size_xyz) - 1) / 2)
    wrong = Volume(ct.array, Geometry(grid.size_xyz, grid.spacing_xyz, tuple(origin), tuple(axes.ravel())))
    result = register(cbct_sample.source, wrong, fixed_mask=cbct_sample.mask, preset=PRESETS["rigid"])
    right = register(cbct_sample.source, ct, fixed_mask=cbct_sample.mask, preset=PRESETS["rigid"])
    assert result.metrics["rigid_quarter_turns"] > 0
    assert right.metrics["rigid_quarter_turns"] == 0
    points = cbct_sample.source.geometry.to_physical(np.argwhere(cbct_sample.mask.array)[::50, ::-1])
    undone = (result.rigid(points) - grid.centre_xyz) @ turn + grid.centre_xyz  # turnᵀ on the left
    assert np.linalg.norm(undone - right.rigid(points), axis=1).mean() < 2.0


@pytest.mark.parametrize(("times", "plane"), [(2, (1, 2)), (1, (0, 2))])
def test_voxels_that_were_turned_under_a_sound_header_are_turned_back(
    cbct_sample, times: int, plane: tuple[int, int]
) -> None:
    """The array's axes are other axes of the patient then, and so are the directions of its features."""
    ct = cbct_sample.ct.with_array(cbct_sample.ct.array.astype(np.float32))
    array = np.rot90(ct.array, times, plane).copy()
    spacing = np.array(ct.geometry.spacing_xyz[::-1])
    if times == 1:
        spacing[list(plane)] = spacing[list(plane)[::-1]]
    size, pitch = array.shape[::-1], spacing[::-1]
    origin = np.array(ct.geometry.centre_xyz) - (np.array(size) - 1) / 2 * pitch
    turned = Volume(array, Geometry(size, tuple(pitch), tuple(origin)))
    wrong, right = (
        register(cbct_sample.source, image, fixed_mask=cbct_sample.mask, preset=PRESETS["rigid"])
        for image in (turned, ct)
    )
    assert wrong.metrics["rigid_quarter_turns"] == times
    assert right.metrics["rigid_quarter_turns"] == 0
    assert wrong.metrics["rigid_likeness"] == pytest.approx(right.metrics["rigid_likeness"], rel=0.05)


def test_how_an_image_is_stored_does_not_matter(cbct_sample) -> None:
    """Sagittal slices, from the right to the left and from below: the same image."""
    ct = cbct_sample.ct.with_array(cbct_sample.ct.array.astype(np.float32))
    axes = ct.geometry.axes
    array = np.ascontiguousarray(ct.array.transpose(2, 0, 1)[:, :, ::-1])  # index axes: y backwards, z, x
    direction = np.stack([-axes[:, 1], axes[:, 2], axes[:, 0]], axis=1)
    spacing = [ct.geometry.spacing_xyz[k] for k in (1, 2, 0)]
    origin = ct.geometry.to_physical(np.array([0, ct.geometry.size_xyz[1] - 1, 0]))
    stored = Volume(array, Geometry(array.shape[::-1], tuple(spacing), tuple(origin), tuple(direction.ravel())))
    found = [
        register(cbct_sample.source, image, fixed_mask=cbct_sample.mask, preset=PRESETS["rigid"])
        for image in (ct, stored)
    ]
    points = cbct_sample.source.geometry.to_physical(np.argwhere(cbct_sample.mask.array)[::50, ::-1])
    assert np.linalg.norm(found[0].rigid(points) - found[1].rigid(points), axis=1).max() < 0.5
