"""A fair trial of the mirrored image: how well the solution would agree if left and right (or another axis' ends) were exchanged.

A body is nearly its own mirror image, but about a plane that is its own: the plane is looked for. The solution itself gets
the same small rotations, so that a better place is no evidence of a mirrored one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from sctlab.registration.judge.view import FINEST_MM, LEAST_VOXELS, View
from sctlab_model.volume import Geometry, triple

OFFSETS_MM = (-24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0)  # of the plane, or of the solution along left-right
STEPS = ((8.0, 6.0), (4.0, 3.0))  # mm and degrees by which the best one is changed in turn
COARSER = 2  # the search's grid
_BLUR = 0.8  # voxels of the fine grid, against aliasing

Agreement = Callable[[View], float]


def coarser(view: View) -> View:
    """Every second voxel, after a little smoothing."""
    thin = (slice(None, None, COARSER),) * 3
    fixed, moving = (ndimage.gaussian_filter(image, _BLUR)[thin] for image in (view.fixed, view.moving))
    masks = {name: getattr(view, name)[thin] for name in ("data", "mask", "region")}
    size = triple(reversed(fixed.shape))
    grid = Geometry(size, triple([view.spacing_mm * COARSER] * 3), view.grid.origin_xyz, view.grid.direction)
    return replace(view, fixed=fixed, moving=moving, grid=grid, **masks)


@dataclass(frozen=True)
class Motion:
    """How the moving image of a view is moved, and mirrored before.

    Args:
        along_mm: Along `axis`: of the plane, where it is mirrored.
        degrees: About the two other axes.
        axis: Of the arrays.
        mirror: Whether about a plane across that axis.
    """

    along_mm: float = 0.0
    degrees: tuple[float, float] = (0.0, 0.0)
    axis: int = 2
    mirror: bool = False

    def stepped(self, which: int, sign: float, millimetres: float, degrees: float) -> Motion:
        """Another one a step away: the place (0), the first (1) or the second angle (2)."""
        if which == 0:
            return replace(self, along_mm=self.along_mm + sign * millimetres)
        first, second = self.degrees
        changed = (first + sign * degrees, second) if which == 1 else (first, second + sign * degrees)
        return replace(self, degrees=changed)

    def of(self, view: View) -> View:
        """The view under it."""
        axis = self.axis
        matrix = np.diag([-1.0 if self.mirror and k == axis else 1.0 for k in range(3)])
        for about, degrees in zip((k for k in range(3) if k != axis), self.degrees, strict=True):
            a, b = (k for k in range(3) if k != about)
            turn, angle = np.eye(3), np.radians(degrees)
            turn[a, a] = turn[b, b] = np.cos(angle)
            turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
            matrix = matrix @ turn
        centre = np.array(ndimage.center_of_mass(view.region & view.data))
        offset = centre - matrix @ centre
        offset[axis] += self.along_mm / view.spacing_mm
        return moved_by(view, matrix, offset)


def best_mirrored(view: View, agreement: Agreement, axis: int | None = None) -> Motion:
    """The plane about which the mirrored moving image agrees best.

    Args:
        view: Coarse, see `coarser`.
        agreement: Of a view; larger is better.
        axis: Of the arrays, across the plane; left-right when left out.
    """
    return _search(view, agreement, OFFSETS_MM, axis, mirror=True)


def best_turned(
    view: View, agreement: Agreement, axis: int | None = None, offsets: tuple[float, ...] = (0.0,)
) -> Motion:
    """How the moving image, moved along an axis and turned a little, agrees best: the mirrored one's rival.

    Args:
        view, agreement, axis: As for `best_mirrored`.
        offsets: Of the starts along the axis, mm.
    """
    return _search(view, agreement, offsets, axis, mirror=False)


def _search(view: View, agreement: Agreement, offsets: tuple[float, ...], axis: int | None, *, mirror: bool) -> Motion:
    voxel_share = (view.spacing_mm / FINEST_MM) ** 3  # a coarse view has fewer voxels of the same body

    def value(motion: Motion) -> float:
        other = motion.of(view)
        return agreement(other) if (other.data & other.region).sum() * voxel_share >= LEAST_VOXELS else -1.0

    axis = view.left_right if axis is None else axis
    found = max((Motion(offset, axis=axis, mirror=mirror) for offset in offsets), key=value)
    best = value(found)
    for millimetres, degrees in STEPS:
        for which in range(3):
            for sign in (-1.0, 1.0):
                candidate = found.stepped(which, sign, millimetres, degrees)
                if (now := value(candidate)) > best:
                    best, found = now, candidate
    return found if best >= 0 else Motion(axis=axis)


def moved_by(view: View, matrix: np.ndarray, offset: np.ndarray) -> View:
    """The view with its moving image taken from `matrix @ index + offset` (voxels z, y, x)."""
    moving = ndimage.affine_transform(view.moving, matrix, offset, order=1, mode="nearest")
    covered = ndimage.affine_transform(view.data.astype(np.float32), matrix, offset, order=1, mode="constant") > 0.5
    return replace(view, moving=moving, data=view.data & covered)
