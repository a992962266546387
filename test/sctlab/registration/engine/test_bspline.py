"""The separable spline against ITK's own, refinement, derivatives and bending."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sctlab.measures.jacobian import determinant, jacobian_determinant
from sctlab.registration.engine.bspline import ControlGrid, evaluate, evaluate_at, jacobian, refine
from sctlab.registration.engine.terms.bending import bending_energy
from sctlab.transforms.data import BSplineTransform, DisplacementField
from sctlab_model.volume import Geometry

EXTENT = (70.0, 50.0, 90.0)


@pytest.fixture
def spline() -> tuple[ControlGrid, torch.Tensor]:
    """A grid of control points over 70 x 50 x 90 mm and random coefficients in mm."""
    grid = ControlGrid.covering(EXTENT, 25.0)
    generator = torch.Generator().manual_seed(0)
    return grid, 3 * torch.randn(3, *grid.size_zyx, generator=generator)


def positions(count: int = 9) -> tuple[np.ndarray, ...]:
    return tuple(np.linspace(0, e, count) for e in EXTENT)


def values(grid: ControlGrid, coefficients: torch.Tensor, at: tuple[np.ndarray, ...]) -> torch.Tensor:
    return evaluate(coefficients, tuple(grid.basis(a, at[a]) for a in range(3)))


def test_values_agree_with_itk(spline) -> None:
    grid, coefficients = spline
    control = Geometry(grid.size_zyx[::-1], grid.spacing_zyx[::-1], grid.start_zyx[::-1])
    transform = BSplineTransform(control, coefficients.numpy()[::-1].copy()).to_sitk()
    found = values(grid, coefficients, positions())
    for i, j, k in ((0, 0, 0), (3, 4, 5), (8, 8, 8)):
        point = np.array([p[n] for p, n in zip(positions(), (i, j, k), strict=True)])[::-1]
        expected = np.array(transform.TransformPoint(point.tolist())) - point
        np.testing.assert_allclose(found[:, i, j, k].numpy()[::-1], expected, atol=1e-5)


def test_scattered_points_agree_with_the_separable_products(spline) -> None:
    grid, coefficients = spline
    found = values(grid, coefficients, positions(5))
    points = np.stack(np.meshgrid(*positions(5), indexing="ij"), -1).reshape(-1, 3)
    scattered = evaluate_at(coefficients, grid, torch.tensor(points, dtype=torch.float32))
    torch.testing.assert_close(scattered.T.reshape(found.shape), found, rtol=0, atol=1e-4)


def test_refinement_changes_nothing(spline) -> None:
    grid, coefficients = spline
    finer = grid.refined()
    again = refine(coefficients)
    assert again.shape[1:] == finer.size_zyx
    torch.testing.assert_close(
        values(finer, again, positions()), values(grid, coefficients, positions()), rtol=0, atol=1e-5
    )


def test_determinant_agrees_with_differences_of_the_field(spline) -> None:
    grid, coefficients = spline
    fine = tuple(np.arange(0, e, 0.5) for e in (10, 9, 11))
    exact = determinant(jacobian(coefficients, grid, fine)).numpy()
    field = values(grid, coefficients, fine).numpy()[::-1].astype(np.float64)
    geometry = Geometry(field.shape[:0:-1], (0.5, 0.5, 0.5))
    numeric = jacobian_determinant(DisplacementField(geometry, field))
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(exact[inner], numeric[inner], atol=2e-3)


def test_bending_is_zero_for_an_affine_field_only() -> None:
    grid = ControlGrid.covering(EXTENT, 10.0)
    z, y, x = np.meshgrid(*[np.arange(n) * 10.0 for n in grid.size_zyx], indexing="ij")
    affine = torch.tensor(np.stack([0.1 * z + 0.2 * y, 3 + 0 * z, 0.05 * x]), dtype=torch.float32)
    assert float(bending_energy(affine, grid.spacing_zyx)) < 1e-10
    curved = torch.tensor(np.stack([0 * z, 0.01 * y**2, 0 * z]), dtype=torch.float32)
    assert float(bending_energy(curved, grid.spacing_zyx)) == pytest.approx(0.02**2, rel=1e-3)


def test_an_axis_shorter_than_the_knots_is_covered() -> None:
    grid = ControlGrid.covering((6.0, 300.0, 300.0), 40.0)
    assert grid.size_zyx[0] == 4
    for axis, extent in enumerate((6.0, 300.0, 300.0)):
        basis = grid.basis(axis, np.array([0.0, extent]))
        np.testing.assert_allclose(basis.sum(1), 1, atol=1e-6)
