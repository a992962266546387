"""IMPACT in static mode: distances between frozen features that are computed once a level and warped.

S(T) = Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) (Boussot et al., arXiv 2503.24121). Fast; wrong for strongly strided layers, for
which `patches.py` has the Jacobian mode.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sctlab.features import FeatureExtractor
from sctlab.registration.engine.distances import ScaledDistance
from sctlab.registration.engine.feature_maps import feature_lattice, principal_components, volume_features
from sctlab.registration.engine.lattice import Lattice, chunk_count, sample_at
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.one_side import features_by_side, own_features
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import FeatureTerm, Preset
from sctlab.registration.engine.terms.registry import Term, register_term


@register_term("features", position=1)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """A term for each of the preset's extractors in static mode."""
    for term, extractor in zip(preset.features, level.extractors, strict=True):
        if term.mode == "static":
            fixed, moving = level.images_at(term.voxel_mm)
            depths = level.depths(fixed[1], moving[1])
            yield StaticFeatures(term, extractor, fixed, moving, generator, level.lattice, depths)


class StaticFeatures(Term):
    """Feature maps of both images at one level, sampled at the same points.

    Args:
        term: What to compare and how.
        extractor: The frozen network; it sees the whole images, never the masks.
        fixed, moving: Images [1, 1, z, y, x] on their lattices.
        generator: Draws the channels.
        sampled: The lattice whose voxels samples are drawn from; the fixed image's when left out.
        depths: Signed distances of both images' voxels to the surface along which organs slide; None without one.
    """

    def __init__(
        self,
        term: FeatureTerm,
        extractor: FeatureExtractor,
        fixed: tuple[Tensor, Lattice],
        moving: tuple[Tensor, Lattice],
        generator: torch.Generator,
        sampled: Lattice | None = None,
        depths: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.term, self.generator = term, generator
        self.sampled = sampled or fixed[1]
        layers = [extractor.layers[i] for i in term.layers]
        self.distances = [ScaledDistance(weight, term.distance) for weight in term.weights]
        self.by_side = depths is not None
        moving_maps: tuple[list[Tensor], ...]
        if depths is None:
            fixed_maps = volume_features(extractor, fixed[0], term.layers)
            moving_maps = (volume_features(extractor, moving[0], term.layers),)
        else:
            fixed_maps = own_features(extractor, *fixed, depths[0], term.layers)
            moving_maps = features_by_side(extractor, *moving, depths[1], term.layers)
        self.maps = []
        for layer, f, *every in zip(layers, fixed_maps, *moving_maps, strict=True):
            if term.pca:
                projected = [principal_components(f, m, term.pca) for m in every]
                f, every = projected[0][0], [m for _, m in projected]
            self.maps.append(
                (
                    _channels_last(f),
                    feature_lattice(fixed[1], layer, extractor.dimension),
                    [_channels_last(m) for m in every],
                    feature_lattice(moving[1], layer, extractor.dimension),
                )
            )

    def fixed_samples(self, points: Tensor, index: Tensor | None = None) -> list[Tensor]:
        """Fixed features [C, N] at points [N, 3] (mm, z y x); by flat voxel index where a layer is at full resolution."""
        found = []
        for features, lattice, *_ in self.maps:
            if index is not None and lattice == self.sampled:
                rows = features.permute(0, 2, 3, 4, 1).reshape(-1, features.shape[1])  # a view: channels lie together
                found.append(rows.index_select(0, index).T)
            else:
                found.append(sample_at(features, lattice, points, chunks=chunk_count(points)))
        return found

    def __call__(self, sample: Sample) -> Tensor:
        """Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) over this extractor's layers."""
        total = sample.moved.new_zeros(())
        points, index, weights, moved = sample.points, sample.index, sample.weights, [sample.moved]
        if self.by_side and sample.domains is not None:  # each side has a moving map of its own
            inner = sample.domains.flat[index] > 0
            sides = [torch.nonzero(inner == side)[:, 0] for side in (False, True)]
            order = torch.cat(sides)
            points, index, weights = points[order], index[order], weights[order]
            moved = [sample.moved[side] for side in sides]
        fixed_samples = self.fixed_samples(points, index)
        for fixed, (_, _, maps, lattice), distance in zip(fixed_samples, self.maps, self.distances, strict=True):
            found = [sample_at(m, lattice, p, chunks=chunk_count(p)) for m, p in zip(maps, moved, strict=True)]
            moving = found[0] if len(found) == 1 else torch.cat(found, dim=1)
            fixed, moving = random_channels(fixed, moving, self.term.channels, self.generator)
            total = total + distance(fixed, moving, weights)
        return total

    def restart(self) -> None:
        """Scale the layers by the next values that come."""
        for distance in self.distances:
            distance.restart()


def random_channels(fixed: Tensor, moving: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random subset of the channels of features [C, N], the same of both; all of them when `count` is 0."""
    if not 0 < count < len(fixed):
        return fixed, moving
    chosen = torch.randperm(len(fixed), generator=generator)[:count].to(fixed.device)
    return fixed[chosen], moving[chosen]


def _channels_last(features: Tensor) -> Tensor:
    return features.contiguous(memory_format=torch.channels_last_3d)
