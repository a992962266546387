"""Rigidity of bone: the orthonormality condition of Staring et al., Medical Physics 34(11), 2007."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sctlab.registration.engine.bspline import jacobian
from sctlab.registration.engine.lattice import sample_at
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.terms.registry import Term, register_term


@register_term("rigidity", position=4)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """One term where the preset gives it a weight and the moving image's bone is known."""
    if preset.rigidity and level.bone is not None:
        yield Rigidity(level, level.bone, preset.rigidity)


class Rigidity(Term):
    """weight · mean |JᵀJ − I|² where the warped bone is."""

    def __init__(self, level: LevelImages, bone: Tensor, weight: float) -> None:
        self.level, self.bone, self.weight = level, bone, weight

    def __call__(self, sample: Sample) -> Tensor:
        """The term's value."""
        lattice = self.level.lattice
        positions = tuple(lattice.positions(a)[w] for a, w in zip(range(3), sample.window, strict=True))
        # Bone belongs to the wall.
        matrix = jacobian(sample.coefficients[:3], sample.grid, positions).flatten(2).index_select(2, sample.chosen)
        with torch.no_grad():
            bone = sample_at(self.bone, self.level.moving_lattice, sample.moved)[0]
        product = torch.einsum("kin,kjn->ijn", matrix, matrix)
        excess = product - torch.eye(3, device=product.device)[:, :, None]
        return self.weight * ((excess.square().sum((0, 1)) * bone).sum() / bone.sum().clamp_min(1.0))
