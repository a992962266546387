"""Organs slide along the wall, but neither leave it nor enter it: both splines agree across the surface."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.sliding import share_of
from sctlab.registration.engine.terms.registry import Term, register_term

NEAR_MM = 4.0  # the surface's points are the sample's within that distance


@register_term("gap", position=7)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """One term where the preset lets organs slide."""
    if preset.sliding is not None:
        yield Gap(preset.sliding.gap)


class Gap(Term):
    """weight · mean squared distance in mm² between both splines' images of a surface point, along its normal."""

    regularises = True

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, sample: Sample) -> Tensor:
        """The term's value."""
        if sample.apart is None or sample.domains is None:
            return sample.moved.new_zeros(())  # one spline moves everything
        near = torch.nonzero(sample.domains.flat[sample.index].abs() < NEAR_MM)[:, 0]
        if not len(near):
            return sample.moved.new_zeros(())
        index, apart = sample.index[near], sample.apart[near]
        share = share_of(sample.domains.flat[index], sample.domains.blend_mm)[:, None]
        wall = sample.moved[near] - share * apart
        return self.weight * sample.domains.gap(index, wall, wall + apart).square().mean()
