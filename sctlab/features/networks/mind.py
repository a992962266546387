"""MIND-SSC: self-similarity of an image with itself, comparable across modalities; no weights."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics, min_max

# Least patch distance that counts as structure, as a share of the fixed range squared: 10 HU of 4095.
FIXED_FLOOR = (10 / 4095) ** 2


class MindSSC(FeatureExtractor):
    """Self-similarity context (Heinrich et al., MICCAI 2013), in 3D (12 channels) or in the plane (4 channels).

    Each channel compares two neighbours of a voxel that are `dilation` away from it and share an edge of the
    neighbourhood: exp(-D / V), D the patch distance less the smallest of the channels, V the mean of D. V is
    kept within a factor 1000 of its mean over the image; with given statistics the floor is fixed instead, so
    that two images (prediction and target) are measured with one scale.

    Args:
        dimension: 2 or 3.
        radius: Patch radius in voxels.
        dilation: Distance of the neighbours in voxels.

    Example:
        >>> extractor = MindSSC(dimension=2)
        >>> [tuple(f.shape) for f in extractor(torch.rand(1, 1, 16, 20))]
        [(1, 4, 16, 20)]
    """

    def __init__(self, dimension: int = 3, *, radius: int = 1, dilation: int = 2) -> None:
        if dimension not in (2, 3) or radius < 0 or dilation < 1:
            raise ValueError(f"MIND-SSC with dimension {dimension}, radius {radius}, dilation {dilation}")
        self.pairs = _neighbour_pairs(dimension)
        layer = Layer("mind_ssc", len(self.pairs), 1, 2 * (radius + dilation) + 1)
        super().__init__(
            f"mind-ssc-{dimension}d-r{radius}-d{dilation}",
            dimension=dimension,
            channels=1,
            layers=[layer],
            normalisation="min-max",
            minimum_size=2,
        )
        self.radius, self.dilation = radius, dilation

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        x = min_max(x, statistics)
        padded = functional.pad(x, [self.dilation] * (2 * self.dimension), mode="replicate")
        distances = (
            self._patch_mean((self._shifted(padded, a, x.shape) - self._shifted(padded, b, x.shape)).square())
            for a, b in self.pairs
        )
        if x.requires_grad and torch.is_grad_enabled():
            distance = torch.cat(tuple(distances), dim=1)
            distance = distance - distance.amin(dim=1, keepdim=True)
            return [torch.exp(-distance / self._variance(distance, statistics))]
        # Of a whole volume: every copy of twelve channels would be felt.
        layout = torch.channels_last_3d if self.dimension == 3 else torch.channels_last
        shape = (len(x), len(self.pairs), *x.shape[2:])
        distance = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        for channel, values in enumerate(distances):
            distance[:, channel : channel + 1] = values
        distance -= distance.amin(dim=1, keepdim=True)
        variance = self._variance(distance, statistics)
        return [distance.neg_().div_(variance).exp_()]

    def _variance(self, distance: Tensor, statistics: Statistics | None) -> Tensor:
        """Mean distance of a voxel, kept away from zero."""
        variance = distance.mean(dim=1, keepdim=True)
        if statistics is not None:
            return variance.clamp_min(FIXED_FLOOR)
        typical = variance.detach().flatten(1).mean(1).reshape(-1, *[1] * (distance.ndim - 1)).clamp_min(1e-12)
        return torch.maximum(torch.minimum(variance, 1000 * typical), typical / 1000)

    def _shifted(self, padded: Tensor, offset: tuple[int, ...], shape: torch.Size) -> Tensor:
        start = [self.dilation * (1 + o) for o in offset]
        box = [slice(s, s + n) for s, n in zip(start, shape[2:], strict=True)]
        return padded[(slice(None), slice(None), *box)]

    def _patch_mean(self, x: Tensor) -> Tensor:
        """Box mean over (2 radius + 1)^dimension voxels, one axis at a time; edges repeat the last voxel."""
        if self.radius == 0:
            return x
        size = 2 * self.radius + 1
        x = functional.pad(x, [self.radius] * (2 * self.dimension), mode="replicate")
        for axis in range(2, x.ndim):
            count = x.shape[axis] - size + 1
            total = x.narrow(axis, 0, count)
            for step in range(1, size):
                total = total + x.narrow(axis, step, count)
            x = total
        return x / size**self.dimension


def _neighbour_pairs(dimension: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of the face neighbours of a voxel that lie the square root of two apart."""
    steps = [tuple(sign * (axis == k) for k in range(dimension)) for axis in range(dimension) for sign in (-1, 1)]
    pairs = itertools.combinations(steps, 2)
    return [(a, b) for a, b in pairs if sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) == 2]
