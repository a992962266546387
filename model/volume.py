"""An image in physical space: `Geometry` (the grid) and `Volume` (voxels on it)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR_HU = -1024
Item = TypeVar("Item")


def triple(values: Iterable[Item]) -> tuple[Item, Item, Item]:
    """Three values as a tuple whose length the types know."""
    first, second, third = values
    return first, second, third


@dataclass(frozen=True)
class Geometry:
    """A regular grid in patient space (ITK convention: LPS, millimetres, axes x, y, z).

    Args:
        size_xyz: Voxels along x, y, z.
        spacing_xyz: Voxel pitch in mm along x, y, z.
        origin_xyz: Centre of the first voxel in mm.
        direction: Row-major 3x3 matrix; column j is the physical direction of index axis j.

    Example:
        >>> grid = Geometry((4, 3, 2), (1.0, 1.0, 3.0))
        >>> grid.shape_zyx
        (2, 3, 4)
        >>> grid.to_physical(np.array([[1, 0, 1]])).tolist()
        [[1.0, 0.0, 3.0]]
    """

    size_xyz: tuple[int, int, int]
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_xyz", tuple(int(n) for n in self.size_xyz))
        for name, length in (("spacing_xyz", 3), ("origin_xyz", 3), ("direction", 9)):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != length:
                raise ValueError(f"{name} has {len(values)} values, expected {length}: {values}")
            object.__setattr__(self, name, values)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Array shape: z, y, x."""
        return self.size_xyz[::-1]

    @property
    def axes(self) -> np.ndarray:
        """Direction cosines, 3x3 float64; columns are the index axes x, y, z in physical space."""
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def matrix(self) -> np.ndarray:
        """Index (x, y, z) to physical offset in mm, 3x3 float64: direction times spacing."""
        return self.axes * np.array(self.spacing_xyz)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel in mm^3."""
        return float(np.prod(self.spacing_xyz))

    @property
    def centre_xyz(self) -> np.ndarray:
        """Physical centre of the grid in mm."""
        return self.to_physical((np.array(self.size_xyz) - 1) / 2)

    def to_physical(self, index_xyz: np.ndarray) -> np.ndarray:
        """Continuous indices [..., 3] (x, y, z) to physical points in mm."""
        return np.asarray(index_xyz, dtype=np.float64) @ self.matrix.T + np.array(self.origin_xyz)

    def to_index(self, points_xyz: np.ndarray) -> np.ndarray:
        """Physical points [..., 3] in mm to continuous indices (x, y, z)."""
        offsets = np.asarray(points_xyz, dtype=np.float64) - np.array(self.origin_xyz)
        return offsets @ np.linalg.inv(self.matrix).T

    def same_grid(self, other: Geometry, tolerance_mm: float | None = None) -> bool:
        """Whether every voxel centre of both grids agrees within a tolerance.

        Without `tolerance_mm` the one rule of all stages holds: a tenth of the smallest voxel edge.
        Headers that different programs wrote of one grid differ by less, because files keep numbers with few digits, and a
        mask that is off by so little marks the same voxels. Only stricter questions give a value of their own.
        """
        if self.size_xyz != other.size_xyz:
            return False
        if tolerance_mm is None:
            tolerance_mm = self.tolerance_mm(other)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.size_xyz])).reshape(3, -1).T
        return bool(np.abs(self.to_physical(corners) - other.to_physical(corners)).max() <= tolerance_mm)

    def tolerance_mm(self, other: Geometry) -> float:
        """How far voxel centres of one grid may lie apart in two headers: the rule of `same_grid`."""
        return 0.1 * min(*self.spacing_xyz, *other.spacing_xyz)

    def resized(self, spacing_xyz: tuple[float, float, float]) -> Geometry:
        """The grid with another spacing that covers the same extent, on the same centre.

        Every voxel centre lies inside the old extent, even where one old voxel is thinner than a new one.
        """
        old, new = np.array(self.spacing_xyz), np.array(spacing_xyz, dtype=np.float64)
        size = np.maximum(1, np.ceil(np.array(self.size_xyz) * old / new - 1e-6)).astype(int)
        origin = self.centre_xyz - self.axes @ (new * (size - 1) / 2)
        return Geometry(tuple(size), tuple(new), tuple(origin), self.direction)

    def cropped(self, start_xyz: tuple[int, int, int], size_xyz: tuple[int, int, int]) -> Geometry:
        """The sub-grid (or, with negative starts, the larger grid) from index `start_xyz`."""
        return replace(self, size_xyz=size_xyz, origin_xyz=tuple(self.to_physical(np.array(start_xyz))))


@dataclass(frozen=True)
class Volume:
    """Voxels on a grid.

    Args:
        array: Values, axes z, y, x.
        geometry: The grid; its `shape_zyx` is the array's shape.
        name: Where the volume came from (a path), for messages.
        notes: What a reader repaired or assumed, for the user.
    """

    array: np.ndarray
    geometry: Geometry
    name: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if tuple(self.array.shape) != self.geometry.shape_zyx:
            raise ValueError(
                f"{self.name or 'volume'}: array of shape {self.array.shape} (z, y, x) "
                f"on a grid of shape {self.geometry.shape_zyx}"
            )

    def with_array(self, array: np.ndarray) -> Volume:
        """Other voxels on the same grid."""
        return replace(self, array=array)

    def to_sitk(self) -> sitk.Image:
        """The same image for SimpleITK (booleans as uint8)."""
        import SimpleITK as sitk

        array = self.array.astype(np.uint8) if self.array.dtype == bool else self.array
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(self.geometry.spacing_xyz)
        image.SetOrigin(self.geometry.origin_xyz)
        image.SetDirection(self.geometry.direction)
        return image

    @classmethod
    def from_sitk(cls, image: sitk.Image, name: str = "") -> Volume:
        """A 3D scalar SimpleITK image."""
        import SimpleITK as sitk

        geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        return cls(sitk.GetArrayFromImage(image), geometry, name)


def resample(
    volume: Volume, grid: Geometry, *, interpolation: str = "linear", outside: float = 0.0, transform: object = None
) -> Volume:
    """Resample onto `grid`; voxels outside the source get `outside`. Keeps the element type.

    Args:
        interpolation: `linear`, `nearest` or `bspline` (cubic).
        transform: SimpleITK transform from points of `grid` to points of `volume` (ITK's resampling
            direction); identity when left out.
    """
    import SimpleITK as sitk

    kinds = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline3}
    image = volume.to_sitk()
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.size_xyz)
    resampler.SetOutputSpacing(grid.spacing_xyz)
    resampler.SetOutputOrigin(grid.origin_xyz)
    resampler.SetOutputDirection(grid.direction)
    resampler.SetInterpolator(kinds[interpolation])
    resampler.SetDefaultPixelValue(float(outside))
    resampler.SetTransform(transform or sitk.Transform(3, sitk.sitkIdentity))
    array = sitk.GetArrayFromImage(resampler.Execute(image))
    if volume.array.dtype == bool:
        array = array.astype(bool)
    return Volume(array, grid, volume.name)
