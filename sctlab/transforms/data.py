"""Spatial transforms as plain data: each maps points of the fixed image to points of the moving image (mm, LPS).

That is ITK's resampling direction: the registered image at x is the moving image at `transform(x)`.
Files are read in `files.py` and the modules it names, dense fields made in `field.py`, images resampled in `apply.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, triple

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True, eq=False)
class AffineTransform:
    """x ↦ matrix (x − centre) + centre + translation.

    Args:
        matrix: 3x3.
        translation_xyz: mm.
        centre_xyz: The fixed point of the linear part, mm.
    """

    matrix: np.ndarray
    translation_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        matrix = np.asarray(self.matrix, dtype=np.float64)
        if matrix.shape != (3, 3):
            raise ValueError(f"matrix of shape {matrix.shape}, expected (3, 3)")
        object.__setattr__(self, "matrix", matrix)

    @property
    def offset(self) -> np.ndarray:
        """The image of the origin, mm: x ↦ matrix x + offset."""
        centre = np.array(self.centre_xyz)
        return centre + np.array(self.translation_xyz) - self.matrix @ centre

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        return np.asarray(points_xyz, dtype=np.float64) @ self.matrix.T + self.offset

    def inverse(self) -> AffineTransform:
        """The exact inverse."""
        inverse = np.linalg.inv(self.matrix)
        return AffineTransform(inverse, tuple(-inverse @ self.offset))

    def to_sitk(self) -> sitk.Transform:
        """SimpleITK's AffineTransform."""
        import SimpleITK as sitk

        return sitk.AffineTransform(self.matrix.ravel().tolist(), list(self.translation_xyz), list(self.centre_xyz))


@dataclass(frozen=True, eq=False)
class EulerTransform:
    """A rigid transform by three angles: x ↦ R (x − centre) + centre + translation, R = Rz Rx Ry (ITK's order).

    Args:
        angles_xyz: Rotations about x, y, z in radians.
        translation_xyz: mm.
        centre_xyz: Centre of rotation, mm.
        zyx: The order is Rz Ry Rx instead (elastix's and ITK's `ComputeZYX`).
    """

    angles_xyz: tuple[float, float, float]
    translation_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    zyx: bool = False

    def affine(self) -> AffineTransform:
        """The same map with its rotation matrix."""
        (cx, cy, cz), (sx, sy, sz) = np.cos(self.angles_xyz), np.sin(self.angles_xyz)
        about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        rotation = about_z @ about_y @ about_x if self.zyx else about_z @ about_x @ about_y
        return AffineTransform(rotation, triple(self.translation_xyz), triple(self.centre_xyz))

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        return self.affine()(points_xyz)

    def inverse(self) -> AffineTransform:
        """The exact inverse."""
        return self.affine().inverse()

    def to_sitk(self) -> sitk.Transform:
        """SimpleITK's Euler3DTransform."""
        import SimpleITK as sitk

        transform = sitk.Euler3DTransform()
        transform.SetCenter(list(self.centre_xyz))
        transform.SetComputeZYX(self.zyx)
        transform.SetRotation(*self.angles_xyz)
        transform.SetTranslation(list(self.translation_xyz))
        return transform


@dataclass(frozen=True, eq=False)
class BSplineTransform:
    """x ↦ x + Σ coefficients · B(x): a uniform B-spline of control points, as ITK and elastix define it.

    Where the support of a point leaves the grid of control points, the displacement is zero, as in ITK. A voxel
    exactly on that limit falls on either side by rounding (in ITK too): give the grid a little room.

    Args:
        grid: The control points, the border ones that the support needs included.
        coefficients: [3 (x, y, z), z, y, x] in mm.
        order: Spline order, 1 to 3.
        recursive: elastix's RecursiveBSplineTransform: the same map under another name.
    """

    grid: Geometry
    coefficients: np.ndarray
    order: int = 3
    recursive: bool = False

    def __post_init__(self) -> None:
        if tuple(self.coefficients.shape) != (3, *self.grid.shape_zyx):
            raise ValueError(
                f"coefficients {self.coefficients.shape} on control points {self.grid.shape_zyx} (z, y, x)"
            )
        if self.order not in (1, 2, 3):
            raise ValueError(f"spline order {self.order}, expected 1, 2 or 3")
        if min(self.grid.size_xyz) < self.order + 1:
            raise ValueError(f"{self.grid.size_xyz} control points, expected at least {self.order + 1} along each axis")

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        from scipy.ndimage import map_coordinates

        points = np.asarray(points_xyz, dtype=np.float64)
        index = self.grid.to_index(points).reshape(-1, 3)
        inside = np.all([self._inside(index[:, axis], axis) for axis in range(3)], axis=0)
        moved = points.reshape(-1, 3).copy()
        where = index[inside].T[::-1]
        for axis in range(3):
            moved[inside, axis] += map_coordinates(
                np.asarray(self.coefficients[axis], dtype=np.float64),
                where,
                order=self.order,
                prefilter=False,
                mode="nearest",
            )
        return moved.reshape(points.shape)

    def displacement(self, grid: Geometry) -> np.ndarray | None:
        """Displacement [3, z, y, x] in mm at the voxels of a grid whose axes are parallel to the control points'.

        A cubic B-spline on a parallel grid is three separable products, which is far cheaper than point by
        point. None when the axes aren't parallel.
        """
        to_control = np.linalg.inv(self.grid.matrix) @ grid.matrix
        diagonal = np.diag(to_control)
        if np.abs(to_control - np.diag(diagonal)).max() * max(grid.size_xyz) > 1e-6:
            return None
        start = self.grid.to_index(np.array(grid.origin_xyz))
        weights = [self._weights(start[a] + diagonal[a] * np.arange(grid.size_xyz[a]), a) for a in range(3)]
        field = np.einsum("Xx,czyx->czyX", weights[0], self.coefficients, optimize=True)
        field = np.einsum("Yy,czyX->czYX", weights[1], field, optimize=True)
        return np.einsum("Zz,czYX->cZYX", weights[2], field, optimize=True)

    def to_sitk(self) -> sitk.Transform:
        """SimpleITK's BSplineTransform."""
        import SimpleITK as sitk

        transform = sitk.BSplineTransform(3, self.order)
        transform.SetFixedParameters(
            [*self.grid.size_xyz, *self.grid.origin_xyz, *self.grid.spacing_xyz, *self.grid.direction]
        )
        transform.SetParameters(np.asarray(self.coefficients, dtype=np.float64).ravel().tolist())
        return transform

    def _inside(self, index: np.ndarray, axis: int) -> np.ndarray:
        """Whether the whole support of continuous indices along one axis lies in the grid (ITK's valid region)."""
        margin = 0.5 * (self.order - 1)
        return (index >= margin) & (index <= self.grid.size_xyz[axis] - 1 - margin)

    def _weights(self, index: np.ndarray, axis: int) -> np.ndarray:
        """Basis values [len(index), control points] along one axis; rows outside the valid region are zero."""
        from scipy.interpolate import BSpline

        count = self.grid.size_xyz[axis]
        basis = BSpline.basis_element(np.arange(self.order + 2) - (self.order + 1) / 2, extrapolate=False)
        weights = np.nan_to_num(basis(index[:, None] - np.arange(count)[None, :]))
        return weights * self._inside(index, axis)[:, None]


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """x ↦ x + u(x), u linearly interpolated between voxels and zero outside the grid.

    Args:
        grid: Where the vectors are known.
        vectors: [3 (x, y, z), z, y, x] in mm.
    """

    grid: Geometry
    vectors: np.ndarray

    def __post_init__(self) -> None:
        if tuple(self.vectors.shape) != (3, *self.grid.shape_zyx):
            raise ValueError(f"vectors {self.vectors.shape} on a grid of {self.grid.shape_zyx} (z, y, x)")

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        from scipy.ndimage import map_coordinates

        points = np.asarray(points_xyz, dtype=np.float64)
        index = self.grid.to_index(points).reshape(-1, 3)
        # A voxel belongs to the grid up to its face, half a pitch from its centre, as in ITK.
        inside = np.all((index >= -0.5) & (index <= np.array(self.grid.size_xyz) - 0.5), axis=1)
        moved = points.reshape(-1, 3).copy()
        for axis in range(3):
            moved[inside, axis] += map_coordinates(
                self.vectors[axis], index[inside].T[::-1], order=1, mode="nearest", output=np.float64
            )
        return moved.reshape(points.shape)

    def to_sitk(self) -> sitk.Transform:
        """SimpleITK's DisplacementFieldTransform."""
        import SimpleITK as sitk

        return sitk.DisplacementFieldTransform(self.to_sitk_image())

    def to_sitk_image(self) -> sitk.Image:
        """The vectors as an image (float64, three components)."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(np.moveaxis(self.vectors, 0, -1).astype(np.float64), isVector=True)
        image.SetSpacing(self.grid.spacing_xyz)
        image.SetOrigin(self.grid.origin_xyz)
        image.SetDirection(self.grid.direction)
        return image


@dataclass(frozen=True, eq=False)
class Composite:
    """Transforms applied one after the other: `steps[0]` to the point first, `steps[-1]` last.

    Example:
        >>> shift = AffineTransform(np.eye(3), (1.0, 0.0, 0.0))
        >>> double = AffineTransform(2 * np.eye(3))
        >>> Composite((shift, double))(np.array([1.0, 1.0, 1.0])).tolist()
        [4.0, 2.0, 2.0]
    """

    steps: tuple[Transform, ...] = ()

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        points = np.asarray(points_xyz, dtype=np.float64)
        for step in self.steps:
            points = step(points)
        return points

    def to_sitk(self) -> sitk.Transform:
        """SimpleITK's CompositeTransform, which applies the transform that was added last first."""
        import SimpleITK as sitk

        composite = sitk.CompositeTransform(3)
        for step in reversed(tuple(flatten(self))):
            composite.AddTransform(step.to_sitk())
        return composite


@dataclass(frozen=True, eq=False)
class Sum:
    """x ↦ initial(x) + current(x) − x: elastix's `HowToCombineTransforms "Add"`.

    ITK has no such transform; writing one as an ITK file goes through a displacement field.
    """

    initial: Transform
    current: Transform

    def __call__(self, points_xyz: np.ndarray) -> np.ndarray:
        """Points [..., 3] in mm to points [..., 3]."""
        points = np.asarray(points_xyz, dtype=np.float64)
        return self.initial(points) + self.current(points) - points

    def to_sitk(self) -> sitk.Transform:
        """Refused: see `displacement_field`."""
        raise InputError(
            "transform",
            found="initial and current transform combined by Add",
            expected="Compose",
            advice="write it as a displacement field",
        )


Transform: TypeAlias = AffineTransform | EulerTransform | BSplineTransform | DisplacementField | Composite | Sum
LINEAR = (AffineTransform, EulerTransform)


def compose(*transforms: Transform) -> Composite:
    """The transform that applies `transforms` from first to last, without nested composites."""
    return Composite(tuple(flatten(Composite(transforms))))


def flatten(transform: Transform) -> Iterator[Transform]:
    """The steps of a transform in the order in which they are applied."""
    if isinstance(transform, Composite):
        for step in transform.steps:
            yield from flatten(step)
    else:
        yield transform


def is_linear(transform: Transform) -> bool:
    """Whether the transform is affine as a whole."""
    return all(isinstance(step, LINEAR) for step in flatten(transform))


def as_affine(transform: Transform) -> AffineTransform:
    """The product of affine steps as one."""
    offset = np.asarray(transform(np.zeros(3)))
    matrix = np.stack([transform(axis) - offset for axis in np.eye(3)], axis=1)
    return AffineTransform(matrix, tuple(offset))


def rotation_degrees(transform: AffineTransform | EulerTransform) -> float:
    """Angle of the rotation in degrees (of the closest rotation, for an affine transform)."""
    matrix = transform.affine().matrix if isinstance(transform, EulerTransform) else transform.matrix
    u, _, vt = np.linalg.svd(matrix)
    cosine = (np.trace(u @ vt) - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
