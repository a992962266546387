"""The IMPACT metric: distances between frozen features of the fixed image and of the moving image under a field.

S(T) = Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) (Boussot et al., arXiv 2503.24121). Static mode computes the features of both
images once a level and warps those of the moving one; Jacobian mode passes patches of the warped moving image
through the network every iteration, with gradients, which is right for strided layers and slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sctlab.features import FeatureExtractor, Layer, Statistics
from sctlab.registration.engine.frame import Lattice, sample_at
from sctlab.registration.engine.metrics import DISTANCES, SCALED_BY_START
from sctlab_model.errors import InputError


@dataclass(frozen=True)
class FeatureTerm:
    """One extractor in the metric.

    Args:
        extractor: Name or file, see `sctlab.features.load_extractor`.
        weight: Of the whole extractor.
        layers: Indices of its layers; the first when left out.
        layer_weights: A weight each; 1 when left out.
        distance: One of `metrics.DISTANCES`.
        mode: `static` or `jacobian`.
        pca: Keep that many principal components, fitted on the fixed features; 0 keeps all channels.
        channels: Random subset of the channels, new at every iteration; 0 takes all.
        patch: Edge of a patch in the Jacobian mode in voxels; the deepest layer's field of view when 0.
        points: Patches per iteration in the Jacobian mode.
    """

    extractor: str = "mind"
    weight: float = 1.0
    layers: tuple[int, ...] = (0,)
    layer_weights: tuple[float, ...] = ()
    distance: str = "l1"
    mode: str = "static"
    pca: int = 0
    channels: int = 0
    patch: int = 0
    points: int = 500

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise InputError("IMPACT", found=f"distance '{self.distance}'", expected="one of " + ", ".join(DISTANCES))
        if self.mode not in ("static", "jacobian"):
            raise InputError("IMPACT", found=f"mode '{self.mode}'", expected="static or jacobian")
        if self.layer_weights and len(self.layer_weights) != len(self.layers):
            raise InputError(
                "IMPACT",
                found=f"{len(self.layer_weights)} weights for {len(self.layers)} layers",
                expected="one a layer",
            )


class _Scale:
    """A layer's value divided by its value at the level's start, where its distance asks for that."""

    def __init__(self, weight: float, distance: str) -> None:
        self.weight, self.by_start, self.start = weight, distance in SCALED_BY_START, 0.0

    def __call__(self, value: Tensor) -> Tensor:
        if not self.by_start:
            return self.weight * value
        if not self.start:
            self.start = max(float(value.detach()), 1e-6)
        return self.weight * value / self.start


class StaticFeatures:
    """Feature maps of both images at one level, sampled at the same points.

    Args:
        term: What to compare and how.
        extractor: The frozen network; it sees the whole images, never the masks.
        fixed, moving: Images [1, 1, z, y, x] on their lattices.
        generator: Draws the channels.
    """

    def __init__(
        self,
        term: FeatureTerm,
        extractor: FeatureExtractor,
        fixed: tuple[Tensor, Lattice],
        moving: tuple[Tensor, Lattice],
        generator: torch.Generator,
    ) -> None:
        self.term, self.generator = term, generator
        self.fixed_lattice, self.moving_lattice = fixed[1], moving[1]
        layers = [extractor.layers[i] for i in term.layers]
        weights = term.layer_weights or (1.0,) * len(layers)
        self.scales = [_Scale(term.weight * w, term.distance) for w in weights]
        fixed_maps = volume_features(extractor, fixed[0], term.layers)
        moving_maps = volume_features(extractor, moving[0], term.layers)
        self.maps = []
        for layer, f, m in zip(layers, fixed_maps, moving_maps, strict=True):
            if term.pca:
                f, m = principal_components(f, m, term.pca)
            self.maps.append(
                (
                    _channels_last(f),
                    feature_lattice(fixed[1], layer, extractor.dimension),
                    _channels_last(m),
                    feature_lattice(moving[1], layer, extractor.dimension),
                )
            )

    def fixed_samples(self, points: Tensor, index: Tensor | None = None) -> list[Tensor]:
        """Fixed features [C, N] at points [N, 3] (mm, z y x); by flat voxel index where a layer is at full resolution."""
        found = []
        for features, lattice, *_ in self.maps:
            if index is not None and lattice == self.fixed_lattice:
                rows = features.permute(0, 2, 3, 4, 1).reshape(-1, features.shape[1])  # a view: channels lie together
                found.append(rows.index_select(0, index).T)
            else:
                found.append(sample_at(features, lattice, points, chunks=_chunks(points)))
        return found

    def __call__(self, points: Tensor, moved: Tensor, weights: Tensor | None, index: Tensor | None = None) -> Tensor:
        """The weighted distance of this extractor.

        Args:
            points: Fixed points [N, 3] (mm, z y x).
            moved: Where they go.
            weights: Of the points, [N].
            index: Flat voxel indices of `points` when they lie on the fixed lattice.
        """
        total = moved.new_zeros(())
        for fixed, (_, _, moving, lattice), scale in zip(
            self.fixed_samples(points, index), self.maps, self.scales, strict=True
        ):
            found = sample_at(moving, lattice, moved, chunks=_chunks(points))
            if 0 < self.term.channels < len(fixed):
                chosen = torch.randperm(len(fixed), generator=self.generator)[: self.term.channels].to(fixed.device)
                fixed, found = fixed[chosen], found[chosen]
            total = total + scale(DISTANCES[self.term.distance](fixed, found, weights))
        return total


class JacobianFeatures:
    """Patches around random points; those of the moving image go through the network at every iteration.

    Args:
        term, extractor, fixed, moving, generator: As for `StaticFeatures`. 2D extractors see axial patches.

    Raises:
        InputError: A patch doesn't fit into the fixed image.
    """

    def __init__(
        self,
        term: FeatureTerm,
        extractor: FeatureExtractor,
        fixed: tuple[Tensor, Lattice],
        moving: tuple[Tensor, Lattice],
        generator: torch.Generator,
    ) -> None:
        self.term, self.extractor, self.generator = term, extractor, generator
        self.fixed, self.lattice = fixed
        self.moving, self.moving_lattice = moving
        deepest = max(extractor.layers[i].field_of_view for i in term.layers)
        self.patch = max(term.patch or deepest, extractor.minimum_size)
        size = fixed[1].size_zyx[-extractor.dimension :]
        if self.patch > min(size):
            raise InputError(
                extractor.name,
                found=f"a field of view of {self.patch} voxels in a working image of {'x'.join(map(str, size))}",
                expected="a patch inside the image",
                advice="choose shallower layers, a smaller patch or finer voxels",
            )
        weights = term.layer_weights or (1.0,) * len(term.layers)
        self.scales = [_Scale(term.weight * w, term.distance) for w in weights]
        self.fixed_statistics, self.moving_statistics = Statistics.of(fixed[0]), Statistics.of(moving[0])
        reach = (torch.arange(self.patch, dtype=torch.float32) - (self.patch - 1) / 2) * fixed[1].spacing
        flat = torch.zeros(1) if extractor.dimension == 2 else reach
        offsets = torch.stack(torch.meshgrid(flat, reach, reach, indexing="ij"), dim=-1)
        self.offsets = offsets.reshape(-1, 3).to(fixed[0].device)
        self.shape = (self.patch,) * extractor.dimension

    def __call__(self, points: Tensor, field: object, weights: Tensor | None) -> Tensor:
        """The weighted distance at the centres of patches.

        Args:
            points: Centres [N, 3] (mm, z y x) in the fixed image.
            field: Callable: fixed points [M, 3] to moved points [M, 3], with gradient.
            weights: Of the points.
        """
        every = (points[:, None, :] + self.offsets).reshape(-1, 3)
        shape = (len(points), 1, *self.shape)
        with torch.no_grad():
            patches = sample_at(self.fixed, self.lattice, every, chunks=_chunks(every)).reshape(shape)
            fixed = self.extractor(patches, layers=self.term.layers, statistics=self.fixed_statistics)
        patches = sample_at(self.moving, self.moving_lattice, field(every), chunks=_chunks(every)).reshape(shape)
        moving = self.extractor(patches, layers=self.term.layers, statistics=self.moving_statistics)
        total = points.new_zeros(())
        for f, m, scale in zip(fixed, moving, self.scales, strict=True):
            f, m = _centre(f), _centre(m)
            if 0 < self.term.channels < len(f):
                chosen = torch.randperm(len(f), generator=self.generator)[: self.term.channels].to(f.device)
                f, m = f[chosen], m[chosen]
            total = total + scale(DISTANCES[self.term.distance](f, m, weights))
        return total


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


def _centre(features: Tensor) -> Tensor:
    """Feature vector at the middle of each patch: [C, B] of [B, C, *spatial]."""
    return features[(..., *(n // 2 for n in features.shape[2:]))].T


def _channels_last(features: Tensor) -> Tensor:
    return features.contiguous(memory_format=torch.channels_last_3d)


def _chunks(points: Tensor) -> int:
    """The CPU kernel of grid_sample runs one thread a batch element."""
    if points.device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), math.ceil(len(points) / 4096)))
