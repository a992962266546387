"""What is compared: mutual information of intensities, and distances between feature vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


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
        window = ((1 - f) ** 3 / 6, (3 * f**3 - 6 * f**2 + 4) / 6, (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6, f**3 / 6)
        for step, value in enumerate(window):
            joint = joint.index_add(0, row + base.long() + (step - 1), value * weight)
    return joint.view(bins, bins)


def mutual_information(
    fixed: Tensor, moving: Tensor, weights: Tensor | None = None, *, bins: int = 32, normalised: bool = False
) -> Tensor:
    """Mutual information in nats of samples in [0, 1] ([N] each); larger is better.

    Args:
        normalised: (H(F) + H(M)) / H(F, M) instead, in [1, 2]: less sensitive to how much overlaps
            (Studholme et al., Pattern Recognition 32, 1999).
    """
    joint = parzen_histogram(fixed, moving, weights, bins=bins)
    joint = joint / joint.sum().clamp_min(1e-12)
    of_fixed, of_moving = joint.sum(1), joint.sum(0)
    together = _entropy(joint)
    if normalised:
        return (_entropy(of_fixed) + _entropy(of_moving)) / together.clamp_min(1e-6)
    return _entropy(of_fixed) + _entropy(of_moving) - together


def _entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-12).log()).sum()


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
