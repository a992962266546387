"""A displacement field on voxels that folds nowhere in the body: smoothed where it would, and left alone elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sctlab.measures.jacobian import determinant

NEIGHBOURS = ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))  # itself included
ROUNDS = 300
# Share of the neighbours' mean that is taken in the first round, how much more in each further one, and at most.
GENTLEST, RISE, MOST = 0.1, 0.01, 0.5


def unfolded(vectors: Tensor, body: Tensor, steps: list[float], *, least: float) -> Tensor:
    """The field without folds in the body, as far as `ROUNDS` rounds of smoothing reach.

    The neighbours of voxels where the determinant falls short, and these themselves, go part of the way to the mean of their own
    neighbours, again and again until none falls short: it spreads like heat as far as it must, and no border of a repaired
    place jumps.

    Args:
        vectors: Displacements along z, y, x in mm [3, z, y, x].
        body: Where folds count (bool) [z, y, x].
        steps: Voxels along z, y, x in mm.
        least: Smallest determinant that is allowed, by the differences of `jacobian_determinant`.
    """
    field = vectors.flatten(1).clone()
    counts, shape = body.flatten(), tuple(body.shape)
    chosen = torch.nonzero(counts)[:, 0]
    for number in range(ROUNDS):
        short = chosen[_determinants_at(field, shape, chosen, steps) < least]
        if not len(short):
            break
        touched = _with_neighbours(short, shape)
        mean = torch.stack([field[:, _beside(touched, shape, offset)] for offset in NEIGHBOURS]).mean(0)
        field[:, touched] += min(MOST, GENTLEST + RISE * number) * (mean - field[:, touched])
        chosen = _with_neighbours(touched, shape)
        chosen = chosen[counts[chosen]]
    return field.reshape(vectors.shape)


def _determinants_at(field: Tensor, shape: tuple[int, ...], chosen: Tensor, steps: list[float]) -> Tensor:
    """As `jacobian_determinant`, at some voxels alone (flat indices [N]) of a field [3, voxels]: [N]."""
    columns = []
    for axis, step in enumerate(steps):
        ahead, behind = tuple(int(k == axis) for k in range(3)), tuple(-int(k == axis) for k in range(3))
        high, low = _beside(chosen, shape, ahead), _beside(chosen, shape, behind)
        apart = (high - low) // _stride(shape, axis)  # 2, at a face 1
        columns.append((field[:, high] - field[:, low]) / (apart * step))
    matrix = torch.stack(columns, dim=1)
    for k in range(3):
        matrix[k, k] += 1
    found: Tensor = determinant(matrix)
    return found


def _stride(shape: tuple[int, ...], axis: int) -> int:
    return (shape[1] * shape[2], shape[2], 1)[axis]


def _beside(chosen: Tensor, shape: tuple[int, ...], offset: tuple[int, ...]) -> Tensor:
    """Flat indices of the voxels at an offset of one; at a face the voxel itself."""
    for axis, step in enumerate(offset):
        if step:
            stride = _stride(shape, axis)
            place = chosen // stride % shape[axis] + step
            chosen = torch.where((place >= 0) & (place < shape[axis]), chosen + step * stride, chosen)
    return chosen


def _with_neighbours(chosen: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Flat indices of voxels and their six neighbours, each once."""
    return torch.cat([_beside(chosen, shape, offset) for offset in NEIGHBOURS]).unique()
