"""Images on the grids of a level: isotropic voxels in the fixed image's own axes, the moving image carried over rigidly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from sctlab_model.resampling import alias_sigma
from sctlab_model.volume import Geometry, Volume, triple


@dataclass(frozen=True)
class Lattice:
    """Voxels of an image along the fixed image's index axes.

    Args:
        start_zyx: Centre of the first voxel, mm from the centre of the fixed image's first voxel.
        spacing: Voxel pitch in mm, the same along every axis.
        size_zyx: Voxels.
    """

    start_zyx: tuple[float, float, float]
    spacing: float
    size_zyx: tuple[int, int, int]

    @classmethod
    def between(cls, low_zyx: npt.ArrayLike, high_zyx: npt.ArrayLike, spacing: float) -> Lattice:
        """The lattice that covers [low, high] mm, centred on it."""
        low, high = np.asarray(low_zyx), np.asarray(high_zyx)
        size = [max(2, math.floor(extent / spacing + 1e-6) + 1) for extent in high - low]
        start = (low + high - (np.array(size) - 1) * spacing) / 2
        return cls(triple(float(s) for s in start), float(spacing), triple(size))

    def positions(self, axis: int) -> np.ndarray:
        """Positions of the voxel centres along an axis, mm."""
        return self.start_zyx[axis] + self.spacing * np.arange(self.size_zyx[axis])

    def to_normalised(self, points_zyx: Tensor) -> Tensor:
        """Points [..., 3] (z, y, x; mm) to grid_sample's coordinates [..., 3] (x, y, z in −1…1 of the centres)."""
        start = points_zyx.new_tensor(self.start_zyx)
        half = points_zyx.new_tensor([max(n - 1, 1) * self.spacing / 2 for n in self.size_zyx])
        return ((points_zyx - start) / half - 1).flip(-1)

    def geometry(self, fixed: Geometry) -> Geometry:
        """The lattice as a physical grid."""
        origin = np.array(fixed.origin_xyz) + fixed.axes @ np.array(self.start_zyx[::-1])
        return Geometry(self.size_zyx[::-1], (self.spacing,) * 3, tuple(origin), fixed.direction)


def grid_positions(axes_zyx: Sequence[npt.ArrayLike], device: torch.device) -> Tensor:
    """Points [N, 3] (z, y, x; mm) of a rectilinear grid, x fastest, from its positions along z, y and x."""
    axes = [torch.as_tensor(np.asarray(a), dtype=torch.float32, device=device) for a in axes_zyx]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def extent_zyx(geometry: Geometry) -> np.ndarray:
    """Distance between the centres of the first and last voxel along z, y, x in mm."""
    return (np.array(geometry.shape_zyx) - 1) * np.array(geometry.spacing_xyz[::-1])


def reach_of(image: Geometry, fixed: Geometry, rigid: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest position of an image's voxels along the fixed image's z, y, x axes, mm from its first voxel.

    Args:
        image: The image's own grid.
        fixed: The grid that the axes belong to.
        rigid: Matrix and offset of a linear map from fixed points to the image's points (physical, x, y, z).
    """
    corners = image.to_physical(np.array(list(itertools.product(*[(0, n - 1) for n in image.size_xyz])), dtype=float))
    back = np.linalg.solve(rigid[0], (corners - rigid[1]).T).T
    along = (back - np.array(fixed.origin_xyz)) @ np.linalg.inv(fixed.axes).T
    return along.min(0)[::-1], along.max(0)[::-1]


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a float32 tensor [1, 1, z, y, x]."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None].to(device)


def smoothed(image: Tensor, spacing_zyx: np.ndarray, target: float) -> Tensor:
    """Gaussian against aliasing before sampling [1, 1, z, y, x] at a pitch of `target` mm; none when it is finer."""
    for axis, sigma in enumerate(alias_sigma(spacing_zyx, target, 0.5).tolist()):
        radius = math.ceil(3 * sigma)
        if sigma < 0.3 or image.shape[axis + 2] < 2:
            continue
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = 2 * radius + 1
        pads = [0] * 6
        pads[2 * (2 - axis)] = pads[2 * (2 - axis) + 1] = radius
        image = functional.conv3d(functional.pad(image, pads, mode="replicate"), (kernel / kernel.sum()).view(shape))
    return image


def carry(
    image: Tensor,
    geometry: Geometry,
    lattice: Lattice,
    fixed: Geometry,
    rigid: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    mode: str = "bilinear",
    outside: str = "border",
) -> Tensor:
    """An image [1, 1, z, y, x] sampled on a lattice.

    Args:
        image: Voxels on `geometry`.
        geometry: The image's own grid.
        lattice: Where it is wanted.
        fixed: The grid that the lattice's axes belong to.
        rigid: Matrix and offset of a linear map from fixed points to the image's points (physical, x, y, z).
        mode: `bilinear` (trilinear) or `nearest`.
        outside: `border` repeats the last voxel, `zeros`.
    """
    matrix, offset = rigid if rigid is not None else (np.eye(3), np.zeros(3))
    # lattice index (x, y, z) → physical fixed point → physical point of the image → its continuous index
    target = lattice.geometry(fixed)
    to_index = np.linalg.inv(geometry.matrix)
    linear = to_index @ matrix @ target.matrix
    constant = to_index @ (matrix @ np.array(target.origin_xyz) + offset - np.array(geometry.origin_xyz))
    # affine_grid wants both sides normalised to −1…1 over the centres
    half_in = (np.maximum(np.array(geometry.size_xyz), 2) - 1) / 2
    half_out = (np.maximum(np.array(target.size_xyz), 2) - 1) / 2
    theta = np.zeros((1, 3, 4))
    theta[0, :, :3] = linear * half_out[None, :] / half_in[:, None]
    theta[0, :, 3] = (linear @ half_out + constant) / half_in - 1
    grid = functional.affine_grid(
        torch.tensor(theta, dtype=torch.float32, device=image.device), [1, 1, *lattice.size_zyx], align_corners=True
    )
    return functional.grid_sample(image, grid, mode=mode, padding_mode=outside, align_corners=True)


def inside(
    geometry: Geometry,
    lattice: Lattice,
    fixed: Geometry,
    device: torch.device,
    rigid: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tensor:
    """1 where a lattice voxel lies within the image's grid, else 0: [1, 1, z, y, x]."""
    ones = torch.ones(1, 1, *[max(n, 2) for n in geometry.shape_zyx], device=device)
    covered = carry(ones, geometry, lattice, fixed, rigid, outside="zeros")
    return (covered > 0.999).float()


def bounds_mm(mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of a mask along z, y, x in mm of its own grid."""
    spacing = np.array(mask.geometry.spacing_xyz[::-1])
    low, high = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.array.any(axis=tuple(a for a in range(3) if a != axis)))
        low.append(hit[0])
        high.append(hit[-1])
    return np.array(low) * spacing, np.array(high) * spacing


class Positions(Protocol):
    """Where the voxels of a map lie: `Lattice`, or `StridedLattice` of a strided feature map."""

    def to_normalised(self, points_zyx: Tensor) -> Tensor:
        """Points [..., 3] (z, y, x; mm) to grid_sample's coordinates [..., 3] (x, y, z)."""
        ...


def sample_at(features: Tensor, lattice: Positions, points_zyx: Tensor, *, chunks: int = 1) -> Tensor:
    """Trilinear samples [C, N] of [1, C, z, y, x] at points [N, 3] (mm, z, y, x); outside, the border's value.

    Args:
        features: Best in channels-last memory: the eight corners of a point then lie together.
        chunks: The CPU kernel runs one thread a batch element: points are split into that many.
    """
    count = points_zyx.shape[0]
    share = -(-count // chunks)
    grid = lattice.to_normalised(points_zyx)
    if share * chunks > count:
        grid = functional.pad(grid, (0, 0, 0, share * chunks - count))
    grid = grid.view(chunks, 1, 1, share, 3)
    source = features.expand(chunks, *features.shape[1:])
    found = functional.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found.reshape(chunks, features.shape[1], share).transpose(0, 1).reshape(features.shape[1], -1)[:, :count]


def chunk_count(points: Tensor) -> int:
    """The CPU kernel of grid_sample runs one thread a batch element."""
    if points.device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), math.ceil(len(points) / 4096)))
