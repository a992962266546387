"""Mutual information of the intensities (Mattes et al., IEEE TMI 22(1), 2003)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.terms.registry import Term, register_term
from sctlab.transforms.cubic import cubic_weights


@register_term("mutual information", position=2)
def build(level: LevelImages, preset: Preset, generator: torch.Generator) -> Iterator[Term]:
    """One term where the preset gives it a weight."""
    if preset.mutual_information:
        yield MutualInformation(level, preset.mutual_information, preset.bins)


class MutualInformation(Term):
    """−weight · MI of the scaled intensities of both images at the sample's points."""

    def __init__(self, level: LevelImages, weight: float, bins: int) -> None:
        self.level, self.weight, self.bins = level, weight, bins

    def __call__(self, sample: Sample) -> Tensor:
        """The term's value."""
        fixed, moving = self.level.intensities(sample.index, sample.moved)
        return -self.weight * mutual_information(fixed, moving, sample.weights, bins=self.bins)


def parzen_histogram(
    fixed: Tensor, moving: Tensor, weights: Tensor | None = None, *, bins: int = 32, chunk: int = 1 << 18
) -> Tensor:
    """Joint histogram [bins, bins] of samples in [0, 1], cubic Parzen window in the moving axis, nearest in the fixed.

    Each sample touches four cells, so memory grows with the samples of a chunk, not with samples times bins
    (Mattes et al., IEEE TMI 22(1), 2003). Differentiable in `moving`.

    Args:
        fixed, moving: Intensities scaled to [0, 1], [N]; values beyond are put into the border bins.
        weights: Weight of each sample, [N]; 1 when left out.
        chunk: Samples processed at a time.
    """
    joint = moving.new_zeros(bins * bins)
    inner = bins - 3  # one bin on either side for the window's tails
    for start in range(0, len(fixed), chunk):
        part = slice(start, start + chunk)
        row = (fixed[part].clamp(0, 1) * (bins - 1)).round().long() * bins
        t = moving[part].clamp(0, 1) * inner + 1
        base = t.detach().floor().clamp(1, bins - 3)
        f = t - base
        weight = 1.0 if weights is None else weights[part]
        for step, value in enumerate(cubic_weights(f)):
            joint = joint.index_add(0, row + base.long() + (step - 1), value * weight)
    return joint.view(bins, bins)


def mutual_information(fixed: Tensor, moving: Tensor, weights: Tensor | None = None, *, bins: int = 32) -> Tensor:
    """Mutual information in nats of samples in [0, 1] ([N] each); larger is better."""
    joint = parzen_histogram(fixed, moving, weights, bins=bins)
    joint = joint / joint.sum().clamp_min(1e-12)
    of_fixed, of_moving = joint.sum(1), joint.sum(0)
    together = _entropy(joint)
    return _entropy(of_fixed) + _entropy(of_moving) - together


def _entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-12).log()).sum()
