"""IMPACT in Jacobian mode: patches of the warped moving image go through the network at every iteration.

S(T) = Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) (Boussot et al., arXiv 2503.24121), with gradients through the network: right for
strided layers, and slower than `features.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sctlab.features import FeatureExtractor, Statistics
from sctlab.registration.engine.distances import ScaledDistance
from sctlab.registration.engine.lattice import Lattice, chunk_count, sample_at
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import FeatureTerm, Preset
from sctlab.registration.engine.terms.features import random_channels
from sctlab.registration.engine.terms.registry import Term, register_term
from sctlab_model.errors import InputError


@register_term("patches", position=3)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """A term for each of the preset's extractors in Jacobian mode."""
    fixed, moving = (level.fixed, level.lattice), (level.moving, level.moving_lattice)
    for term, extractor in zip(preset.features, level.extractors, strict=True):
        if term.mode == "jacobian":
            yield JacobianFeatures(term, extractor, fixed, moving, generator)


class JacobianFeatures(Term):
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
        self.distances = [ScaledDistance(weight, term.distance) for weight in term.weights]
        self.fixed_statistics, self.moving_statistics = Statistics.of(fixed[0]), Statistics.of(moving[0])
        reach = (torch.arange(self.patch, dtype=torch.float32) - (self.patch - 1) / 2) * fixed[1].spacing
        flat = torch.zeros(1) if extractor.dimension == 2 else reach
        offsets = torch.stack(torch.meshgrid(flat, reach, reach, indexing="ij"), dim=-1)
        self.offsets = offsets.reshape(-1, 3).to(fixed[0].device)
        self.shape = (self.patch,) * extractor.dimension

    def __call__(self, sample: Sample) -> Tensor:
        """Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) at the centres of patches around some of the sample's points."""
        usable = torch.nonzero(sample.weights > 0)[:, 0]
        count = min(self.term.points, len(usable))
        chosen = usable[torch.randperm(len(usable), generator=self.generator)[:count].to(usable.device)]
        centres = sample.points[chosen]
        every = (centres[:, None, :] + self.offsets).reshape(-1, 3)
        shape = (len(centres), 1, *self.shape)
        chunks = chunk_count(every)
        with torch.no_grad():
            patches = sample_at(self.fixed, self.lattice, every, chunks=chunks).reshape(shape)
            fixed_maps = self.extractor(patches, layers=self.term.layers, statistics=self.fixed_statistics)
        patches = sample_at(self.moving, self.moving_lattice, sample.field(every), chunks=chunks).reshape(shape)
        moving_maps = self.extractor(patches, layers=self.term.layers, statistics=self.moving_statistics)
        total = sample.points.new_zeros(())
        for fixed_map, moving_map, distance in zip(fixed_maps, moving_maps, self.distances, strict=True):
            fixed, moving = _centre(fixed_map), _centre(moving_map)
            fixed, moving = random_channels(fixed, moving, self.term.channels, self.generator)
            total = total + distance(fixed, moving, None)
        return total

    def restart(self) -> None:
        """Scale the layers by the next values that come."""
        for distance in self.distances:
            distance.restart()


def _centre(features: Tensor) -> Tensor:
    """Feature vector at the middle of each patch: [C, B] of [B, C, *spatial]."""
    middle: tuple[Any, ...] = (..., *(n // 2 for n in features.shape[2:]))  # two or three axes
    return features[middle].T
