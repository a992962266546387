"""MAE, PSNR and MS-SSIM over the body mask, as SynthRAD2025's platform computes them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from sctlab.measures.ms_ssim import DATA_RANGE, HU_RANGE, bounding_box, ms_ssim
from sctlab.measures.slabs import map_slabs


@dataclass(frozen=True)
class ImageMetrics:
    """Scores of one case.

    Args:
        mae: Mean absolute error in HU, values not clipped.
        psnr: Peak signal-to-noise ratio in dB, values clipped to [-1024, 3071]; infinite for equal images.
        ms_ssim: The challenge's masked MS-SSIM.
        ms_ssim_textbook: Wang's: luminance at the coarsest level only, means before powers.
        mean_error: Signed mean error (prediction minus reference) in HU.
        rmse: Root mean squared error in HU, not clipped.
    """

    mae: float
    psnr: float
    ms_ssim: float
    ms_ssim_textbook: float
    mean_error: float
    rmse: float

    def as_dict(self) -> dict[str, float]:
        """Names and values."""
        return asdict(self)


def image_metrics(
    prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray, *, device: str | torch.device = "cpu"
) -> ImageMetrics:
    """Score a synthetic CT against a reference CT.

    Args:
        prediction: HU, axes z, y, x, integer or float.
        reference: HU, same shape.
        mask: Body mask, same shape; voxels above 0 count. It is used as it is: SynthRAD's are dilated already.
        device: `cpu` or a CUDA device; both compute in float64 and agree to rounding.

    Returns:
        The scores; all NaN for an empty mask.

    Raises:
        ValueError: Shapes differ.
    """
    if not prediction.shape == reference.shape == mask.shape:
        raise ValueError(f"shapes differ: {prediction.shape}, {reference.shape}, mask {mask.shape}")
    inside = np.asarray(mask) > 0
    box = bounding_box(inside)
    if box is None:
        return ImageMetrics(*[math.nan] * 6)
    chosen = inside[box]
    images = prediction[box], reference[box]

    def sums(first: int, last: int) -> torch.Tensor:
        """Absolute, signed, squared error and squared clipped error; in float64, slice by slice to save memory."""
        total = torch.zeros(4, dtype=torch.float64, device=device)
        for index in range(first, last):
            x, y = (torch.from_numpy(a[index][chosen[index]].astype(np.float64)).to(device) for a in images)
            error = x - y
            clipped = x.clamp_(*HU_RANGE) - y.clamp_(*HU_RANGE)
            total += torch.stack([error.abs().sum(), error.sum(), error.square().sum(), clipped.square().sum()])
        return total

    absolute, signed, squared, clipped = torch.stack(map_slabs(sums, len(chosen), device)).sum(0).tolist()
    count = int(chosen.sum())
    mean_squared = clipped / count
    similarity = ms_ssim(prediction, reference, inside, device=device)
    return ImageMetrics(
        mae=absolute / count,
        psnr=10 * math.log10(DATA_RANGE**2 / mean_squared) if mean_squared > 0 else math.inf,
        ms_ssim=similarity.challenge,
        ms_ssim_textbook=similarity.textbook,
        mean_error=signed / count,
        rmse=math.sqrt(squared / count),
    )
