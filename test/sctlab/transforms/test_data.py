"""Transforms against SimpleITK, point by point."""

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    Composite,
    DisplacementField,
    EulerTransform,
    Sum,
    compose,
    rotation_degrees,
)
from sctlab.transforms.field import displacement_field, grid_points
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry

OBLIQUE = EulerTransform((0.3, -0.2, 0.5)).affine().matrix @ np.diag([-1.0, 1.0, 1.0])
KNOTS = Geometry((9, 8, 7), (20, 22, 25), (-50, -60, -70), tuple(OBLIQUE.ravel()))
EULER = EulerTransform((0.1, 0.2, -0.3), (5, -4, 3), (10, 20, 30))
AFFINE = AffineTransform(np.eye(3) + np.random.default_rng(1).normal(0, 0.02, (3, 3)), (1, 2, 3), (4, 5, 6))


def bspline(order: int = 3) -> BSplineTransform:
    return BSplineTransform(KNOTS, np.random.default_rng(0).normal(0, 5, (3, *KNOTS.shape_zyx)), order)


def field() -> DisplacementField:
    return DisplacementField(KNOTS, np.random.default_rng(2).normal(0, 5, (3, *KNOTS.shape_zyx)))


TRANSFORMS = {
    "euler": EULER,
    "euler zyx": EulerTransform((0.4, 0.2, -0.3), (5, -4, 3), (10, 20, 30), zyx=True),
    "affine": AFFINE,
    "inverse of euler": EULER.inverse(),
    "bspline": bspline(),
    "bspline of order 1": bspline(1),
    "bspline of order 2": bspline(2),
    "field": field(),
    "composite": compose(EULER, bspline(), AFFINE),
    "the other order": compose(bspline(), compose(EULER, AFFINE)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_points_agree_with_itk_inside_and_outside(transform):
    points = KNOTS.to_physical(np.random.default_rng(0).uniform(-1.5, 10, (800, 3)))
    itk_transform = transform.to_sitk()
    expected = np.array([itk_transform.TransformPoint(p) for p in points.tolist()])
    np.testing.assert_allclose(transform(points), expected, atol=1e-9)
    assert np.abs(expected - points).max() > 1


def test_composite_applies_its_first_step_first():
    shift, double = AffineTransform(np.eye(3), (1, 0, 0)), AffineTransform(2 * np.eye(3))
    assert compose(shift, double)(np.ones(3)).tolist() == [4, 2, 2]
    assert compose(double, shift)(np.ones(3)).tolist() == [3, 2, 2]
    assert len(compose(compose(shift, double), Composite((shift,))).steps) == 3


def test_sum_adds_displacements():
    total = Sum(EULER, bspline())
    points = KNOTS.to_physical(np.random.default_rng(0).uniform(1, 6, (50, 3)))
    np.testing.assert_allclose(total(points) - points, (EULER(points) - points) + (bspline()(points) - points))
    with pytest.raises(InputError, match="Add"):
        total.to_sitk()


@pytest.mark.parametrize("axes", ["parallel", "oblique"])
@pytest.mark.parametrize("steps", [(bspline(),), (bspline(), EULER), (EULER, bspline())])
def test_dense_field_equals_points(axes, steps):
    direction = KNOTS.direction if axes == "parallel" else tuple(np.eye(3).ravel())
    grid = Geometry((21, 17, 13), (4.2, 5, 6), tuple(KNOTS.to_physical(np.array([2.01, 2.3, 2.1]))), direction)
    transform = compose(*steps)
    points = grid_points(grid)
    vectors = np.moveaxis(displacement_field(transform, grid).vectors, 0, -1)
    np.testing.assert_allclose(vectors, transform(points) - points, atol=1e-9)


def test_separable_field_is_zero_outside_the_control_points():
    grid = Geometry((30, 4, 4), (20, 20, 20), tuple(KNOTS.to_physical(np.array([-5.0, 3, 3]))), KNOTS.direction)
    vectors = bspline().displacement(grid)
    assert np.abs(vectors[..., 0]).max() == 0
    assert np.abs(vectors[..., -1]).max() == 0
    assert np.abs(vectors[..., 8]).max() > 0.1


def test_jacobian_of_an_affine_field_is_its_determinant_on_an_oblique_grid():
    grid = Geometry((8, 7, 6), (2, 3, 4), (1, 2, 3), KNOTS.direction)
    determinant = jacobian_determinant(displacement_field(AFFINE, grid))
    np.testing.assert_allclose(determinant, np.linalg.det(AFFINE.matrix), rtol=1e-9)


def test_jacobian_finds_a_fold():
    grid = Geometry((20, 5, 5))
    vectors = np.zeros((3, 5, 5, 20))
    vectors[0, :, :, 10:] = -5.0  # points swap places across x = 10
    assert (jacobian_determinant(DisplacementField(grid, vectors)) <= 0).any()


def test_rotation_angle():
    assert rotation_degrees(EulerTransform((0.0, 0.0, np.radians(12)))) == pytest.approx(12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((KNOTS, np.zeros((3, 2, 2, 2))), "coefficients"), ((KNOTS, np.zeros((3, *KNOTS.shape_zyx)), 4), "order")],
)
def test_bspline_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        BSplineTransform(*arguments)


def test_itk_bspline_keeps_its_grid():
    fixed = sitk.BSplineTransform(bspline().to_sitk()).GetFixedParameters()
    assert fixed[:3] == (9, 8, 7)
    np.testing.assert_allclose(fixed[9:], KNOTS.direction)
