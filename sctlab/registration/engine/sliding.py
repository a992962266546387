"""Organs that slide: one spline for the wall and one for what slides inside it, with the surface between them.

Two splines share one grid of control points: channels 0 to 2 are the wall's (z, y, x), 3 to 5 those of the inside. The surface
belongs to the CT. Where the CT is the moving image, a fixed point lies inside when the field sends it inside, and so the
surface on the fixed side is found again at each level; sliding along it doesn't move it. Across half a blend on either side
one spline passes into the other, so that the field stays a map without holes: a thin sheet that is sheared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import Lattice, carry, extent_zyx, grid_positions, sample_at
from sctlab.registration.engine.settings import Sliding
from sctlab.transforms.data import EulerTransform
from sctlab_model.volume import triple

SURFACE_MM = 3.0  # voxels of the distance to the surface
AROUND_MM = 40.0  # around the fixed mask
SLAB = 16  # slices at a time
INVERSIONS = 6  # of a spline whose slopes stay well below 1


@dataclass(frozen=True)
class Surface:
    """Signed distance to the surface along which organs slide, in the fixed image's axes.

    Args:
        distance: mm, positive inside [1, 1, z, y, x].
        lattice: Its voxels; the moving image's are carried over rigidly.
        moves: It belongs to the moving image.
    """

    distance: Tensor
    lattice: Lattice
    moves: bool

    @classmethod
    def of(cls, images: Images, rigid: EulerTransform) -> Surface | None:
        """The surface of the images' cavity; None without one, or where it lies outside what is registered."""
        if images.cavity is None:
            return None
        affine = rigid.affine()
        extent = extent_zyx(images.fixed_geometry)
        low = np.maximum(images.low_zyx, 0) - AROUND_MM
        high = np.minimum(images.high_zyx, extent) + AROUND_MM
        lattice = Lattice.between(low, high, SURFACE_MM)
        own = images.moving_geometry if images.cavity_moves else images.fixed_geometry
        mapping = (affine.matrix, affine.offset) if images.cavity_moves else None
        # Beyond the image its last slices are repeated: a cavity goes on there.
        cavity = carry(images.cavity, own, lattice, images.fixed_geometry, mapping)[0, 0].cpu().numpy()
        distance = _signed_distance(cavity)
        if distance is None:
            return None
        return cls(torch.from_numpy(distance)[None, None].to(images.device), lattice, images.cavity_moves)

    def at(self, points: Tensor, moved: Tensor) -> Tensor:
        """Signed distance [N] in mm of fixed points [N, 3] (mm; z, y, x) that a field moves to `moved`."""
        return sample_at(self.distance, self.lattice, moved if self.moves else points)[0]

    def parted(self, points: Tensor, wall: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """How far apart, across the surface, both splines send fixed points: mm [N], with gradient; and the unit normals [N, 3].

        Args:
            points: Fixed points [N, 3] (mm; z, y, x).
            wall, inner: Where they are sent [N, 3].
        """
        if self.moves:  # exact on a curved surface: both must land at one distance from it
            found = sample_at(self._with_normals, self.lattice, inner)
            slopes = found[1:].detach()
            gap = found[0] - sample_at(self.distance, self.lattice, wall)[0]
        else:
            slopes = sample_at(self._with_normals, self.lattice, points)[1:]
            gap = ((inner - wall) * slopes.T).sum(1)
        return gap, unit(slopes).T

    @cached_property
    def _with_normals(self) -> Tensor:
        """The distance and its gradient (z, y, x), inwards: [1, 4, z, y, x]."""
        slopes = torch.stack(torch.gradient(self.distance[0, 0], spacing=self.lattice.spacing))
        return torch.cat((self.distance, slopes[None]), dim=1).contiguous(memory_format=torch.channels_last_3d)


@dataclass(frozen=True)
class Domains:
    """Which spline moves a fixed point.

    Args:
        distance: To the surface on the fixed side, mm, positive inside [1, 1, z, y, x].
        lattice: Its voxels.
        blend_mm: Thickness of the sheet in which one spline passes into the other.
        hold_mm: Depth down to which organs keep to the wall across the surface.
        surface: What the distance comes from.
        beyond: Distance to the surface where the field takes it, in the voxels of `surface` [1, 1, z, y, x].
    """

    distance: Tensor
    lattice: Lattice
    blend_mm: float
    hold_mm: float
    surface: Surface
    beyond: Tensor

    def at(self, points: Tensor) -> Tensor:
        """Signed distances [N] of fixed points [N, 3] (mm; z, y, x) to the surface."""
        return sample_at(self.distance, self.lattice, points)[0]

    def depth(self, lattice: Lattice) -> Tensor:
        """Signed distances of the voxels of a lattice of the fixed image, mm [1, 1, z, y, x]."""
        return self.distance if lattice == self.lattice else _on_lattice(self.distance, self.lattice, lattice)

    def moving_depth(self, lattice: Lattice) -> Tensor:
        """… of a lattice of the moving image, which is carried over rigidly."""
        return _on_lattice(self.beyond, self.surface.lattice, lattice)

    @cached_property
    def flat(self) -> Tensor:
        """Distances of the lattice's voxels [N]."""
        return self.distance.flatten()

    def sides(self, points: Tensor, field: Tensor, depth: Tensor, reach_mm: float) -> tuple[Tensor, Tensor]:
        """Where the wall's spline sends fixed points and where the inner one does ([N, 3] each), with gradient.

        Beside the surface organs go across it as the wall does, whatever their own spline says: what parts both is taken away
        there, all of it at the surface and ever less further inside. Along the surface they go as they like. So nothing has to
        hold them together, which would hold the slip back as well wherever the surface is rougher than a spline can follow.

        Args:
            points: Fixed points [N, 3] (mm; z, y, x).
            field: Displacements of both splines there [6, N].
            depth: The points' signed distances to the surface in mm [N].
            reach_mm: How far outside the surface the inner one is wanted.
        """
        wall, inner = points + field[:3].T, points + field[3:].T
        near = torch.nonzero((depth > -reach_mm) & (depth < self.hold_mm))[:, 0]
        if not len(near):
            return wall, inner
        gap, normals = self.surface.parted(points[near], wall[near], inner[near])
        hold = (1 - (depth[near].clamp_min(0) / self.hold_mm) ** 2) ** 2
        return wall, inner.index_add(0, near, -(hold * gap)[:, None] * normals)

    def joined(self, points: Tensor, field: Tensor, depth: Tensor) -> Tensor:
        """Where both splines together send fixed points: [N, 3], with gradient; arguments as those of `sides`."""
        wall, inner = self.sides(points, field, depth, self.blend_mm / 2)
        return wall + share_of(depth, self.blend_mm)[:, None] * (inner - wall)


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the first axis [3, …] divided by their length; those of no length stay."""
    # Not `norm`, whose loop over three numbers takes forty times as long on a CPU.
    return vectors / vectors.square().sum(0).sqrt().clamp_min(1e-6)


def _signed_distance(cavity: np.ndarray) -> np.ndarray | None:
    """Distance in mm, positive inside, to the level 0.5 of a mask in voxels of `SURFACE_MM` [z, y, x]; None without one."""
    soft = ndimage.gaussian_filter(cavity, 0.7)
    inside = soft > 0.5
    if inside.all() or not inside.any():
        return None
    within = ndimage.distance_transform_edt(inside, sampling=SURFACE_MM)
    beyond = ndimage.distance_transform_edt(~inside, sampling=SURFACE_MM)
    whole = np.where(inside, within - SURFACE_MM / 2, SURFACE_MM / 2 - beyond)
    # Near the surface the interpolated mask tells within a voxel where it lies.
    slope = np.sqrt(sum(s**2 for s in np.gradient(soft, SURFACE_MM)))
    near = np.clip((soft - 0.5) / np.maximum(slope, 1e-3), -SURFACE_MM, SURFACE_MM)
    distance = np.where(np.abs(whole) <= SURFACE_MM, near, whole)
    return ndimage.gaussian_filter(distance.astype(np.float32), 0.7)


def share_of(distance: Tensor, blend_mm: float | Tensor) -> Tensor:
    """Share of the inner spline at a signed distance in mm."""
    return (0.5 + distance / blend_mm).clamp(0, 1)


def distances(
    surface: Surface,
    coefficients: Tensor,
    grid: ControlGrid,
    positions_zyx: tuple[np.ndarray, ...],
    previous: Domains | None,
) -> Tensor:
    """Signed distance to the surface, under a field, at the points of a rectilinear grid [z, y, x].

    Args:
        surface: The surface.
        coefficients: Of one spline [3, …] or of both [6, …].
        grid: Their control points.
        positions_zyx: mm.
        previous: Which of both moved a point so far.
    """
    bases = [grid.basis(axis, positions_zyx[axis]).to(coefficients) for axis in range(3)]
    axes = [torch.as_tensor(p, dtype=torch.float32, device=coefficients.device) for p in positions_zyx]
    parts = []
    for start in range(0, len(axes[0]), SLAB):
        window = slice(start, start + SLAB)
        points = torch.stack(torch.meshgrid(axes[0][window], axes[1], axes[2], indexing="ij"), dim=-1).reshape(-1, 3)
        field = evaluate(coefficients, triple((bases[0][window], bases[1], bases[2]))).flatten(1)
        moved = points + field.T if previous is None else previous.joined(points, field, previous.at(points))
        parts.append(surface.at(points, moved).reshape(-1, len(axes[1]), len(axes[2])))
    return torch.cat(parts)


def domains(
    surface: Surface,
    coefficients: Tensor,
    grid: ControlGrid,
    lattice: Lattice,
    previous: Domains | None,
    settings: Sliding,
) -> Domains:
    """Which spline moves a point, for the voxels of a level's lattice."""
    positions = tuple(lattice.positions(axis) for axis in range(3))
    distance = distances(surface, coefficients, grid, positions, previous)[None, None]
    beyond = surface.distance if surface.moves else _carried_along(surface, coefficients[:3], grid)
    return Domains(distance, lattice, settings.blend_mm, settings.hold_mm, surface, beyond)


def _carried_along(surface: Surface, wall: Tensor, grid: ControlGrid) -> Tensor:
    """Distances to a surface of the fixed image where the wall's spline takes it: the spline is inverted point by point."""
    lattice = surface.lattice
    axes = [lattice.positions(axis) for axis in range(3)]
    z, y, x = (grid.basis(axis, axes[axis]).to(wall) for axis in range(3))
    field = evaluate(wall, (z, y, x))[None]
    goal = grid_positions(axes, wall.device)
    points = goal
    for _ in range(INVERSIONS):
        points = goal - sample_at(field, lattice, points).T
    return sample_at(surface.distance, lattice, points).reshape(1, 1, *lattice.size_zyx)


def _on_lattice(values: Tensor, own: Lattice, wanted: Lattice) -> Tensor:
    points = grid_positions([wanted.positions(axis) for axis in range(3)], values.device)
    return sample_at(values, own, points).reshape(1, 1, *wanted.size_zyx)
