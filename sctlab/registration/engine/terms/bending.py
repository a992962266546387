"""Bending energy of the control points (Rueckert et al., IEEE TMI 18(8), 1999)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.terms.registry import Term, register_term


@register_term("bending", position=5)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """The term of every preset."""
    yield Bending(preset.bending)


class Bending(Term):
    """weight · h² · bending energy, h the knot spacing: one weight then means the same smoothness at every level."""

    regularises = True

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, sample: Sample) -> Tensor:
        """The term's value."""
        return self.of(sample.coefficients, sample.grid)

    def of(self, coefficients: Tensor, grid: ControlGrid) -> Tensor:
        """The value for control points [3, z, y, x]."""
        return self.weight * grid.spacing_zyx[0] ** 2 * bending_energy(coefficients, grid.spacing_zyx)


def bending_energy(coefficients: Tensor, spacing_zyx: tuple[float, float, float]) -> Tensor:
    """Mean squared second differences of the control points, mm² per mm⁴ (Rueckert et al., IEEE TMI 18(8), 1999).

    Differences of control points stand in for the spline's second derivatives: a cubic spline's are weighted
    means of them, so that one vanishes where the others do.
    """
    energy = coefficients.new_zeros(())
    for first in range(3):
        for second in range(first, 3):
            if coefficients.shape[first + 1] < 3 or coefficients.shape[second + 1] < 3:
                continue
            step = spacing_zyx[first] * spacing_zyx[second]
            difference = coefficients.diff(dim=first + 1).diff(dim=second + 1) / step
            energy = energy + (1 if first == second else 2) * difference.square().sum(0).mean()
    return energy
