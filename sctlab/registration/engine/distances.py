"""Distances between feature vectors of the fixed and the moving image: the d of IMPACT's equation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights).sum() / weights.sum().clamp_min(1e-12)


def l1(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean |f − m| of features [C, N], weights [N]."""
    return _mean((fixed - moving).abs().mean(0), weights)


def l2(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean (f − m)²."""
    return _mean((fixed - moving).square().mean(0), weights)


def _cosine(fixed: Tensor, moving: Tensor) -> Tensor:
    norms = (fixed.square().sum(0) * moving.square().sum(0)).clamp_min(1e-12).sqrt()
    return (fixed * moving).sum(0) / norms


def cosine(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the mean cosine of the angle between feature vectors."""
    return -_mean(_cosine(fixed, moving), weights)


def l1_cosine(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the mean of cos · exp(−0.1 |f − m|), |·| the sum over channels."""
    return -_mean(_cosine(fixed, moving) * torch.exp(-0.1 * (fixed - moving).abs().sum(0)), weights)


def dice(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the soft Dice, 2 Σ f m / Σ (f + m), over channels and samples; features in [0, 1]."""
    w = 1.0 if weights is None else weights
    return -2 * (fixed * moving * w).sum() / ((fixed + moving) * w).sum().clamp_min(1e-12)


def ncc(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the correlation over the samples, per channel, averaged over the channels."""
    w = (
        torch.full_like(fixed[:1], 1 / fixed.shape[1])
        if weights is None
        else (weights / weights.sum().clamp_min(1e-12))
    )
    f = fixed - (fixed * w).sum(-1, keepdim=True)
    m = moving - (moving * w).sum(-1, keepdim=True)
    scale = ((f.square() * w).sum(-1) * (m.square() * w).sum(-1)).clamp_min(1e-12).sqrt()
    return -((f * m * w).sum(-1) / scale).mean()


def dot_product(fixed: Tensor, moving: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the mean scalar product of feature vectors, per channel."""
    return -_mean((fixed * moving).mean(0), weights)


Distance = Callable[[Tensor, Tensor, Tensor | None], Tensor]
DISTANCES: dict[str, Distance] = {
    "l1": l1,
    "l2": l2,
    "cosine": cosine,
    "l1_cosine": l1_cosine,
    "dice": dice,
    "ncc": ncc,
    "dot": dot_product,
}
SCALED_BY_START = ("l1", "l2")  # divided by their own value at the start of a level, so that weights compare layers


class ScaledDistance:
    """A layer's weighted distance, divided by its value at the level's start where its distance asks for that.

    Args:
        weight: Of the layer.
        distance: Name in `DISTANCES`.
    """

    def __init__(self, weight: float, distance: str) -> None:
        self.weight, self.measure = weight, DISTANCES[distance]
        self.by_start, self.start = distance in SCALED_BY_START, 0.0

    def __call__(self, fixed: Tensor, moving: Tensor, weights: Tensor | None) -> Tensor:
        """The value for features [C, N] and weights [N]."""
        value = self.measure(fixed, moving, weights)
        if not self.by_start:
            return self.weight * value
        if not self.start:
            self.start = max(float(value.detach()), 1e-6)
        return self.weight * value / self.start

    def restart(self) -> None:
        """Scale by the next value that comes."""
        self.start = 0.0
