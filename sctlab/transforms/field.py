"""Transforms as dense fields: the vectors at the voxels of a grid, by the cheapest exact way."""

from __future__ import annotations

import numpy as np

from sctlab.transforms.data import (
    LINEAR,
    AffineTransform,
    BSplineTransform,
    Composite,
    DisplacementField,
    Sum,
    Transform,
    as_affine,
    flatten,
    is_linear,
)
from sctlab_model.volume import Geometry


def grid_points(grid: Geometry) -> np.ndarray:
    """Physical points [z, y, x, 3] of the voxel centres, mm."""
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float64) for n in grid.shape_zyx], indexing="ij")
    return grid.to_physical(np.stack([x, y, z], axis=-1))


def displacement_field(transform: Transform, grid: Geometry) -> DisplacementField:
    """The transform as vectors at the voxels of `grid`, float64 mm."""
    steps = tuple(flatten(transform))
    first = _at_voxels(steps[0], grid) if steps else None
    if isinstance(transform, Sum):
        vectors = (
            displacement_field(transform.initial, grid).vectors + displacement_field(transform.current, grid).vectors
        )
    elif first is not None and len(steps) == 1:
        vectors = first
    elif first is not None and all(isinstance(step, LINEAR) for step in steps[1:]):
        vectors = _linear_displacement(as_affine(Composite(steps[1:])), grid, first)
    elif is_linear(transform):
        vectors = _linear_displacement(as_affine(transform), grid, None)
    elif any(isinstance(step, Sum) for step in steps):
        start = grid_points(grid)
        vectors = np.moveaxis(transform(start) - start, -1, 0)
    else:
        vectors = _displacement_with_itk(transform, grid)
    return DisplacementField(grid, np.ascontiguousarray(vectors))


def _at_voxels(step: Transform, grid: Geometry) -> np.ndarray | None:
    """Vectors [3, z, y, x] in mm where a step has them at the voxels of a grid, or nearly for nothing; else None."""
    if isinstance(step, BSplineTransform):
        return step.displacement(grid)
    if isinstance(step, DisplacementField) and step.grid.same_grid(grid, 1e-9):
        return np.asarray(step.vectors, dtype=np.float64)
    return None


def _linear_displacement(linear: AffineTransform, grid: Geometry, first: np.ndarray | None) -> np.ndarray:
    """linear(x + first(x)) − x on a grid [3, z, y, x], summed axis by axis: no array of points is needed."""
    change = linear.matrix - np.eye(3)
    slopes = change @ grid.matrix
    start = change @ np.array(grid.origin_xyz) + linear.offset
    x, y, z = (np.arange(n, dtype=np.float64) for n in grid.size_xyz)
    vectors = np.empty((3, *grid.shape_zyx))
    for axis in range(3):
        across = start[axis] + slopes[axis, 0] * x[None, :] + slopes[axis, 1] * y[:, None]
        np.add(across[None], slopes[axis, 2] * z[:, None, None], out=vectors[axis])
        if first is not None:
            for component in range(3):
                vectors[axis] += linear.matrix[axis, component] * first[component]
    return vectors


def _displacement_with_itk(transform: Transform, grid: Geometry) -> np.ndarray:
    """Vectors [3, z, y, x] by ITK, which is multithreaded."""
    import SimpleITK as sitk

    image = sitk.TransformToDisplacementField(
        transform.to_sitk(), sitk.sitkVectorFloat64, grid.size_xyz, grid.origin_xyz, grid.spacing_xyz, grid.direction
    )
    return np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
