"""What an unknown network does to space, measured on a small image: strides, fields of view, offsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PROBE = 64  # voxels of the probe image's edge; a power of two shows the strides up to 64


def strides_of(maps: Sequence[Tensor]) -> list[int]:
    """Strides of the maps of a probe image."""
    return [max(1, round(PROBE / m.shape[-1])) for m in maps]


def measure_reach(
    call: Callable[[Tensor], Sequence[Tensor]], dimension: int, channels: int, strides: Sequence[int]
) -> list[tuple[int, float]]:
    """Field of view and offset of every layer: where the gradient of its central voxel arrives, along one axis.

    Where normalisation layers couple all voxels weakly, only gradients above 1 % of the largest count. A layer that
    sees the whole probe, or passes no gradient (a one-hot map), gets the probe's edge and no offset. A layer at full
    resolution has none either: what its voxels see may lie to one side of them (behind a transposed convolution to the
    left of one and to the right of the next), so its field of view reaches as far to both sides.

    Args:
        call: Maps of an input [1, channels, *spatial].
        dimension: Spatial axes.
        channels: Of the input.
        strides: Of the layers.
    """
    x = torch.rand(1, channels, *[PROBE] * dimension, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reach: list[tuple[int, float]] = []
    for feature, stride in zip(call(x), strides, strict=True):
        if not feature.requires_grad:
            reach.append((PROBE, 0.0))
            continue
        middle = feature.shape[2] // 2
        centre: tuple[slice | int, ...] = (slice(None), slice(None), *(n // 2 for n in feature.shape[2:]))
        (gradient,) = torch.autograd.grad(feature[centre].sum(), x, retain_graph=True)
        profile = gradient.abs().amax(dim=(0, 1, *range(3, gradient.ndim)))
        reached = torch.nonzero(profile > 0.01 * profile.max()).flatten().tolist() or [0, PROBE - 1]
        first, last = reached[0], reached[-1]
        inside = first > 0 and last < PROBE - 1
        if inside and stride == 1:
            reach.append((2 * max(middle - first, last - middle) + 1, 0.0))
        else:
            reach.append((last - first + 1, (first + last) / 2 - stride * middle if inside else 0.0))
    return reach


@torch.no_grad()
def multiple_of(
    call: Callable[[Tensor], Sequence[Tensor]], dimension: int, channels: int, strides: Sequence[int]
) -> int:
    """What the edges of an input must be a multiple of: 1 for a model that takes any size.

    The probe's edge less a power of two is a multiple of that and of no larger one. `call` may raise RuntimeError for
    a size that it doesn't take.
    """
    multiple = 1
    while multiple < PROBE:
        size = PROBE - multiple
        try:
            maps = call(torch.rand(1, channels, *[size] * dimension))
        except RuntimeError:  # torch.jit.Error is one, too
            maps = []
        if [m.shape[-1] for m in maps] == [-(-size // stride) for stride in strides]:
            return multiple
        multiple *= 2
    return PROBE
