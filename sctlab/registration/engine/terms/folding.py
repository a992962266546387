"""A penalty that keeps the Jacobian determinant of the field above a margin while optimising."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.jacobian import determinant
from sctlab.registration.engine.bspline import ControlGrid, jacobian
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.terms.registry import Term, register_term
from sctlab_model.volume import triple


@register_term("folding", position=6)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """One term where the preset gives it a weight."""
    if preset.folding:
        yield FoldingPenalty(preset.folding, preset.least_determinant)


class FoldingPenalty(Term):
    """weight · mean squared shortfall of the determinant, on the control points and half-way between them."""

    regularises = True

    def __init__(self, weight: float, least: float) -> None:
        self.weight, self.least = weight, least

    def __call__(self, sample: Sample) -> Tensor:
        """The term's value."""
        positions = tuple(_between(sample.grid, axis) for axis in range(3))
        splines = sample.coefficients.split(3)
        return self.weight * sum(
            (penalty(spline, sample.grid, positions, self.least) for spline in splines), sample.moved.new_zeros(())
        )


def penalty(coefficients: Tensor, grid: ControlGrid, positions_zyx: tuple[np.ndarray, ...], least: float) -> Tensor:
    """Mean squared shortfall of the determinant below `least`: zero, without gradient, for a field with room to spare."""
    # Most fields of most steps fall short nowhere, or in few places: the gradient is wanted there alone.
    with torch.no_grad():
        short = determinant(jacobian(coefficients, grid, positions_zyx)) < least
    if not bool(short.any()):
        return coefficients.new_zeros(())
    axes = (short.any(2).any(1), short.any(2).any(0), short.any(1).any(0))
    near = triple(p[axis.cpu().numpy()] for p, axis in zip(positions_zyx, axes, strict=True))
    values = determinant(jacobian(coefficients, grid, near))
    return (least - values).clamp_min(0).square().sum() / short.numel()


def _between(grid: ControlGrid, axis: int) -> np.ndarray:
    """Positions half-way between the control points of the valid region and on them."""
    count = grid.size_zyx[axis] - 3
    return grid.start_zyx[axis] + grid.spacing_zyx[axis] * (1 + 0.5 * np.arange(2 * count + 1))
