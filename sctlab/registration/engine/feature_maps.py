"""Feature maps of whole images: where their voxels lie, and their principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sctlab.features import FeatureExtractor, Layer, Statistics
from sctlab.registration.engine.lattice import Lattice


def volume_features(extractor: FeatureExtractor, image: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    """Features of a whole image [1, 1, z, y, x] without gradient: [1, C, z', y', x'] a layer.

    A 2D extractor sees the axial slices in batches, each with the statistics of the whole image; its features
    keep every slice.
    """
    with torch.no_grad():
        if extractor.dimension == 3:
            return extractor(image, layers=layers)
        statistics = Statistics.of(image)
        slices = image[0, 0][:, None]
        parts = [extractor(s, layers=layers, statistics=statistics) for s in slices.split(8)]
        return [torch.cat(maps).transpose(0, 1)[None] for maps in zip(*parts, strict=True)]


def feature_lattice(lattice: Lattice, layer: Layer, dimension: int) -> Lattice | StridedLattice:
    """Where the voxels of a feature map lie."""
    if layer.stride == 1 and not layer.offset:
        return lattice
    strides = (1 if dimension == 2 else layer.stride, layer.stride, layer.stride)
    offsets = (0.0 if dimension == 2 else layer.offset, layer.offset, layer.offset)
    return StridedLattice(lattice, strides, offsets)


@dataclass(frozen=True)
class StridedLattice:
    """The voxels of a strided feature map; the same conversion as `Lattice`.

    Args:
        base: Lattice of the network's input.
        strides_zyx, offsets_zyx: Voxel i lies on the input's voxel stride * i + offset.
    """

    base: Lattice
    strides_zyx: tuple[int, int, int]
    offsets_zyx: tuple[float, float, float]

    def positions(self, axis: int) -> np.ndarray:
        """Positions of the map's voxel centres along an axis, mm."""
        count = -(-self.base.size_zyx[axis] // self.strides_zyx[axis])
        voxels = self.strides_zyx[axis] * np.arange(count) + self.offsets_zyx[axis]
        return self.base.start_zyx[axis] + self.base.spacing * voxels

    def to_normalised(self, points_zyx: Tensor) -> Tensor:
        """Points [..., 3] (z, y, x; mm) to grid_sample's coordinates [..., 3] (x, y, z)."""
        start = points_zyx.new_tensor(self.base.start_zyx)
        index = (points_zyx - start) / self.base.spacing - points_zyx.new_tensor(self.offsets_zyx)
        size = [-(-n // s) for n, s in zip(self.base.size_zyx, self.strides_zyx, strict=True)]
        half = points_zyx.new_tensor([s * max(n - 1, 1) / 2 for n, s in zip(size, self.strides_zyx, strict=True)])
        return (index / half - 1).flip(-1)


def principal_components(fixed: Tensor, moving: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Both feature maps [1, C, ...] projected on the first components of the fixed one's channels."""
    flat = fixed.flatten(2)[0]
    picked = flat[:, :: max(1, flat.shape[1] // 200_000)]
    mean = picked.mean(1, keepdim=True)
    covariance = (picked - mean) @ (picked - mean).T / picked.shape[1]
    _, vectors = torch.linalg.eigh(covariance.double())
    basis = vectors.flip(1)[:, : min(count, len(vectors))].to(fixed)
    # The sign of a component is arbitrary: fix it, so that a run is the same on every machine.
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))

    def project(features: Tensor) -> Tensor:
        values = basis.T @ (features.flatten(2)[0] - mean)
        return values.reshape(1, -1, *features.shape[2:])

    return project(fixed), project(moving)
