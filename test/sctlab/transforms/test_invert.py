"""Inverses, with the error that is reported for them."""

import numpy as np
import pytest

from sctlab.transforms.data import AffineTransform, EulerTransform, compose
from sctlab.transforms.invert import inverse_consistency, invert
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry

GRID = Geometry((40, 36, 30), (4, 4, 5), (-80, -70, -60))
EULER = EulerTransform((0.05, -0.03, 0.08), (6, -5, 4), (0, 0, 0))


def test_linear_inverse_is_exact():
    affine = AffineTransform(np.diag([1.1, 0.9, 1.0]), (1, 2, 3))
    inverse, error = invert(compose(EULER, affine), GRID)
    points = GRID.to_physical(np.random.default_rng(0).uniform(0, 30, (100, 3)))
    np.testing.assert_allclose(inverse(compose(EULER, affine)(points)), points, atol=1e-9)
    assert error.max_mm < 1e-9


@pytest.mark.parametrize("order", ["rigid first", "deformation first"])
def test_inverse_of_a_deformation_is_within_a_tenth_of_a_millimetre(samples, order):
    motion = samples[2](GRID, 12.0)
    transform = compose(EULER, motion) if order == "rigid first" else compose(motion, EULER)
    inverse, error = invert(transform, GRID)
    assert error.p95_mm < 0.1  # between the nodes the inverse is linear
    assert error.missing < 0.02
    points = GRID.to_physical(np.random.default_rng(0).uniform(8, 20, (500, 3)))
    assert np.linalg.norm(transform(inverse(points)) - points, axis=1).max() < 0.2


def test_folding_transform_reports_points_without_an_inverse(samples):
    _, error = invert(samples[2](GRID, 300.0), GRID)
    assert error.missing > 0.05


def test_singular_matrix_is_refused():
    with pytest.raises(InputError, match="determinant"):
        invert(AffineTransform(np.zeros((3, 3))), GRID)


def test_inverse_consistency_is_zero_for_a_true_inverse_and_the_shift_for_a_wrong_one():
    mask = np.ones(GRID.shape_zyx, dtype=bool)
    assert inverse_consistency(EULER, EULER.inverse(), GRID, mask).max() < 1e-9
    wrong = compose(EULER.inverse(), AffineTransform(np.eye(3), (3.0, 0, 0)))
    np.testing.assert_allclose(inverse_consistency(EULER, wrong, GRID, mask), 3.0)
