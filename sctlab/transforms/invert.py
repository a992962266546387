"""Inverting a transform, with the error measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab.transforms.data import (
    LINEAR,
    AffineTransform,
    Composite,
    DisplacementField,
    EulerTransform,
    Transform,
    as_affine,
    compose,
    flatten,
    is_linear,
)
from sctlab.transforms.field import displacement_field, grid_points
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry


@dataclass(frozen=True)
class InverseError:
    """|transform(inverse(y)) − y| in mm over points y of the grid, off its voxels, where the inverse exists.

    `missing` is the fraction of points for which no inverse was found: their pre-image lies where the
    transform folds, or outside its grid.
    """

    mean_mm: float
    p95_mm: float
    max_mm: float
    missing: float


def invert(
    transform: Transform, grid: Geometry, *, iterations: int = 60, tolerance_mm: float = 1e-3, seed: int = 0
) -> tuple[Transform, InverseError]:
    """The inverse of a transform: exact for an affine one, otherwise a displacement field known on `grid`.

    The field is the fixed point of x ← A⁻¹(y − u(x)), with A the transform's linear part and u the rest, which
    converges where u is a contraction; steps are damped per point where the residual grows
    (Chen et al., Medical Physics 35(1), 2008, for the undamped scheme).

    Args:
        transform: From fixed points to moving points.
        grid: The moving image's grid (or a coarser one over it), on which the inverse is known.
        iterations: At most.
        tolerance_mm: Points closer than this are done.

    Raises:
        InputError: The transform's linear part is singular.
    """
    if is_linear(transform):
        inverse = compose(*[_invert_linear(step) for step in reversed(tuple(flatten(transform)))])
        return inverse, _measure(transform, inverse, grid, seed)
    targets = grid_points(grid).reshape(-1, 3)
    points, _ = _solve(transform, targets, iterations, tolerance_mm)
    vectors = (points - targets).T.reshape(3, *grid.shape_zyx)
    field = DisplacementField(grid, np.ascontiguousarray(vectors))
    return field, _measure(transform, field, grid, seed)


def invert_points(
    transform: Transform, points_xyz: np.ndarray, *, iterations: int = 60, tolerance_mm: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """Where points come from: `transform` of the result is `points_xyz`. No grid limits where they may lie.

    Args:
        transform: From fixed points to moving points.
        points_xyz: [n, 3] in mm.
        iterations, tolerance_mm: As for `invert`.

    Returns:
        Points [n, 3] in mm, and what `transform` misses each of the given ones by in mm [n]: 0 within rounding, and
        millimetres where the transform folds, so that no inverse was found.

    Raises:
        InputError: The transform's linear part is singular.
    """
    return _solve(transform, np.asarray(points_xyz, dtype=np.float64), iterations, tolerance_mm)


def _solve(
    transform: Transform, targets: np.ndarray, iterations: int, tolerance_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """The fixed point of `invert` for targets [n, 3] in mm, and |transform(points) − targets| in mm."""
    linear = as_affine(Composite(tuple(step for step in flatten(transform) if isinstance(step, LINEAR))))
    back = _invert_linear(linear)
    points = back(targets)
    residual = targets - transform(points)
    error = np.linalg.norm(residual, axis=1)
    damping = np.ones(len(points))
    for _ in range(iterations):
        active = np.flatnonzero((error > tolerance_mm) & (damping > 0.01))
        if not len(active):
            break
        step = (residual[active] @ back.matrix.T) * damping[active, None]
        tried = points[active] + step
        new = targets[active] - transform(tried)
        new_error = np.linalg.norm(new, axis=1)
        better = new_error < error[active]
        chosen = active[better]
        points[chosen], residual[chosen], error[chosen] = tried[better], new[better], new_error[better]
        damping[active[~better]] *= 0.5
    return points, error


def _invert_linear(step: Transform) -> AffineTransform:
    if not isinstance(step, AffineTransform | EulerTransform):
        raise TypeError(f"a {type(step).__name__} is not linear")
    matrix = step.matrix if isinstance(step, AffineTransform) else step.affine().matrix
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise InputError(
            "transform", found=f"a matrix with determinant {np.linalg.det(matrix):.2g}", expected="an invertible matrix"
        )
    return step.inverse()


def _measure(transform: Transform, inverse: Transform, grid: Geometry, seed: int, count: int = 20_000) -> InverseError:
    """Errors at random points of the grid's inner part."""
    random = np.random.default_rng(seed)
    size = np.array(grid.size_xyz) - 1
    points = grid.to_physical(random.uniform(0.05, 0.95, (count, 3)) * size)
    errors = np.linalg.norm(transform(inverse(points)) - points, axis=1)
    found = errors < 1.0
    kept = errors[found] if found.any() else errors
    return InverseError(float(kept.mean()), float(np.percentile(kept, 95)), float(kept.max()), float(1 - found.mean()))


def inverse_consistency(forward: Transform, backward: Transform, grid: Geometry, mask: np.ndarray) -> np.ndarray:
    """|backward(forward(x)) − x| in mm at the voxels of `mask` [z, y, x]: how far two registrations disagree."""
    points = grid_points(grid)[mask]
    forwards = np.moveaxis(displacement_field(forward, grid).vectors, 0, -1)[mask] + points
    return np.linalg.norm(backward(forwards) - points, axis=1)
