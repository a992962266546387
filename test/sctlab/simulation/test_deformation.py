"""No folding, rigid bones, the amplitude that was asked for, an exact inverse."""

import numpy as np
import pytest

from sctlab.simulation.deformation import corner_jacobian, invert, rotation_matrix, sample_motion
from sctlab_model.cases import Region
from sctlab_model.volume import Volume, resample


@pytest.fixture(scope="module", params=[4.0, 15.0])
def motion(request, abdomen):
    return request.param, sample_motion(abdomen, abdomen.geometry, Region.AB, request.param, np.random.default_rng(2))


def test_jacobian_of_a_known_field():
    z, y, x = np.meshgrid(*[np.arange(n, dtype=float) for n in (4, 5, 6)], indexing="ij")
    field = np.stack([0.1 * x * 2, -0.2 * y * 3, 0.05 * z * 4], -1)
    assert np.allclose(corner_jacobian(field, (2.0, 3.0, 4.0)), 1.1 * 0.8 * 1.05)


def test_nothing_folds(motion):
    _, found = motion
    assert found.jacobian().min() > 0.1


def test_the_amplitude_is_reached(motion, abdomen):
    """Within a few percent, by the motion itself; only where tissue would fold it is smaller, step by step of 0.8."""
    wanted, found = motion
    stated = found.facts["amplitude_mm"]
    steps = [wanted * 0.8**k for k in range(4)]
    assert any(stated == pytest.approx(step, rel=0.06) for step in steps)
    if wanted < 5:  # nothing folds there
        assert stated == pytest.approx(wanted, rel=0.06)
    points = abdomen.geometry.to_physical(np.argwhere(abdomen.label > 0)[::500, ::-1])
    moved = np.array([found.transform().TransformPoint(point) for point in points.tolist()])
    length = np.percentile(np.linalg.norm(moved - points, axis=1), 95)
    assert length == pytest.approx(stated, rel=0.25)  # stated for the motion from the CT, this is its inverse


def test_vertebrae_move_as_rigid_bodies(motion, abdomen):
    """Points of a vertebra keep their distances: the best rigid fit leaves less than 3 % of the motion."""
    wanted, found = motion
    label = resample(
        Volume(abdomen.label, abdomen.geometry), abdomen.geometry, interpolation="nearest", transform=found.transform()
    ).array
    transform = found.transform()
    tested = 0
    for vertebra in range(27, 33):
        index = np.argwhere(label == vertebra)
        if len(index) < 40:
            continue
        p = abdomen.geometry.to_physical(index[:, ::-1])
        q = np.array([transform.TransformPoint(point) for point in p])
        pc, qc = p - p.mean(0), q - q.mean(0)
        u, _, v = np.linalg.svd(pc.T @ qc)
        rotation = (u @ np.diag([1, 1, np.linalg.det(u @ v)]) @ v).T
        residual = np.linalg.norm(qc - pc @ rotation.T, axis=1)
        assert np.sqrt((residual**2).mean()) < max(0.03 * wanted, 0.15), vertebra
        tested += 1
    assert tested >= 2


def test_zero_amplitude_is_the_identity(abdomen):
    found = sample_motion(abdomen, abdomen.geometry, Region.AB, 0.0, np.random.default_rng(2))
    assert not found.field.any()
    point = (3.0, 4.0, 60.0)
    assert np.allclose(found.transform().TransformPoint(point), point)


def test_soft_tissue_is_not_a_rigid_motion(motion, abdomen):
    wanted, found = motion
    field = found.field.reshape(-1, 3)
    points = np.stack(np.meshgrid(*[np.arange(n) for n in found.field.shape[:3]], indexing="ij"), -1).reshape(-1, 3)
    design = np.column_stack([points, np.ones(len(points))])
    rest = field - design @ np.linalg.lstsq(design, field, rcond=None)[0]
    assert np.sqrt((rest**2).sum(1).mean()) > 0.05 * wanted


def test_the_inverse_undoes_the_field():
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*[np.linspace(0, np.pi, n) for n in (12, 14, 16)], indexing="ij")
    bump = np.sin(x) * np.sin(y) * np.sin(z)
    field = np.stack([2 * bump, -1.5 * bump, bump], -1) * rng.uniform(0.8, 1.2)
    inverse = invert(field, (5.0, 5.0, 5.0))
    back = invert(inverse, (5.0, 5.0, 5.0))
    assert np.abs(back - field).max() < 0.15


def test_rotations_are_rotations():
    matrix = rotation_matrix((3.0, -2.0, 5.0))
    assert np.allclose(matrix @ matrix.T, np.eye(3))
    assert np.isclose(np.linalg.det(matrix), 1)
