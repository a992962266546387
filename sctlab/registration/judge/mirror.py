"""A fair trial of the mirrored image: how well the solution would agree if left and right were exchanged.

A body is nearly its own mirror image, but about a plane that is its own: the plane is looked for. The solution itself gets
the same small rotations, so that a better place is no evidence of a mirrored one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from sctlab.registration.judge.view import LEAST_VOXELS, View
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


def best_mirrored(view: View, agreement: Agreement) -> View:
    """The view whose moving image is mirrored about the plane that agrees best.

    Args:
        view: Coarse, see `coarser`.
        agreement: Of a view; larger is better.
    """
    return _search(view, agreement, OFFSETS_MM, mirror=True)


def best_turned(view: View, agreement: Agreement) -> View:
    """The view whose moving image is moved along left-right and turned a little, as agrees best: the mirrored one's rival."""
    return _search(view, agreement, (0.0,), mirror=False)


def _search(view: View, agreement: Agreement, offsets: tuple[float, ...], *, mirror: bool) -> View:
    def moved(parameters: np.ndarray) -> View | None:
        other = _moved(view, parameters, mirror)
        return other if (other.data & other.region).sum() * COARSER**3 >= LEAST_VOXELS else None

    def value(other: View | None) -> float:
        return -1.0 if other is None else agreement(other)

    starts = [np.array((offset, 0.0, 0.0)) for offset in offsets]
    tried = [(value(moved(start)), k) for k, start in enumerate(starts)]
    best, number = max(tried)
    found = starts[number]
    for millimetres, degrees in STEPS:
        for k, step in enumerate((millimetres, degrees, degrees)):
            for sign in (-1.0, 1.0):
                candidate = found.copy()
                candidate[k] += sign * step
                if (now := value(moved(candidate))) > best:
                    best, found = now, candidate
    return moved(found) or view


def _moved(view: View, parameters: np.ndarray, mirror: bool) -> View:
    """Mirrored about (or moved along) left-right by `parameters[0]` mm, and turned about the two other axes by degrees."""
    axis = view.left_right
    matrix = np.diag([-1.0 if mirror and k == axis else 1.0 for k in range(3)])
    for about, degrees in zip((k for k in range(3) if k != axis), parameters[1:], strict=True):
        a, b = (k for k in range(3) if k != about)
        turn, angle = np.eye(3), np.radians(degrees)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    centre = np.array(ndimage.center_of_mass(view.region & view.data))
    offset = centre - matrix @ centre
    offset[axis] += parameters[0] / view.spacing_mm
    return moved_by(view, matrix, offset)


def moved_by(view: View, matrix: np.ndarray, offset: np.ndarray) -> View:
    """The view with its moving image taken from `matrix @ index + offset` (voxels z, y, x)."""
    moving = ndimage.affine_transform(view.moving, matrix, offset, order=1, mode="nearest")
    covered = ndimage.affine_transform(view.data.astype(np.float32), matrix, offset, order=1, mode="constant") > 0.5
    return replace(view, moving=moving, data=view.data & covered)
