"""Straightforward versions of the challenge's metrics, written from their definitions with scipy, skimage and MONAI.

They are what the fast versions are tested and timed against. Nothing here is optimised: full volumes, one
organ after the other, FFT convolutions.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric
from scipy.ndimage import uniform_filter
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio

LOW, HIGH = -1024.0, 3071.0
RANGE = HIGH - LOW
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def image_metrics(sct, ct, mask) -> dict[str, float]:
    """MAE, PSNR and masked MS-SSIM, arrays z, y, x."""
    mask = np.asarray(mask) > 0
    sct = np.where(mask, sct.astype(np.float64), LOW)
    ct = np.where(mask, ct.astype(np.float64), LOW)
    return {
        "mae": float(np.abs(ct - sct)[mask].mean()),
        "psnr": float(peak_signal_noise_ratio(ct.clip(LOW, HIGH)[mask], sct.clip(LOW, HIGH)[mask], data_range=RANGE)),
        "ms_ssim": ms_ssim(sct, ct, mask),
    }


def ms_ssim(sct, ct, mask) -> float:
    """The challenge's: (l c s)^w averaged over the mask at every level."""
    value = 1.0
    for weight, inside, luminance, contrast, structure in _levels(sct, ct, mask):
        powered = luminance**weight * contrast**weight * structure**weight
        value *= np.clip(powered[inside].mean(), 0, 1)
    return float(value)


def textbook_ms_ssim(sct, ct, mask) -> float:
    """Wang's: mean of c s at every level, mean of l c s at the coarsest, then the powers."""
    value = 1.0
    for level, (weight, inside, luminance, contrast, structure) in enumerate(_levels(sct, ct, mask)):
        factor = contrast * structure if level < len(WEIGHTS) - 1 else luminance * contrast * structure
        value *= factor[inside].mean() ** weight
    return float(value)


def _levels(sct, ct, mask):
    """(weight, mask, luminance, contrast, structure) of the five levels, borders dropped."""
    mask = np.asarray(mask) > 0
    x, y = (np.where(mask, a.astype(np.float64).clip(LOW, HIGH), LOW) + 1024 for a in (sct, ct))
    missing = [max(0, 97 - n) for n in x.shape]
    widths = [(m // 2, m - m // 2) for m in missing]
    x, y, mask = (np.pad(a, widths, mode="edge") for a in (x, y, mask))
    box = np.ones((2, 2, 2)) / 8
    inner = (slice(3, -3),) * 3
    for weight in WEIGHTS:
        yield weight, mask[inner], *(part[inner] for part in _comparisons(x, y))
        x, y = (fftconvolve(a, box, mode="same")[::2, ::2, ::2] for a in (x, y))
        mask = mask[::2, ::2, ::2]


def _comparisons(x, y):
    """Luminance, contrast and structure in windows of 7x7x7."""
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    c3 = c2 / 2
    mean_x, mean_y = uniform_filter(x, 7), uniform_filter(y, 7)
    sample = 343 / 342
    variance_x = np.clip(sample * (uniform_filter(x * x, 7) - mean_x**2), 0, None)
    variance_y = np.clip(sample * (uniform_filter(y * y, 7) - mean_y**2), 0, None)
    covariance = sample * (uniform_filter(x * y, 7) - mean_x * mean_y)
    std_x, std_y = np.sqrt(variance_x), np.sqrt(variance_y)
    luminance = np.clip((2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1), 0, None)
    contrast = np.clip((2 * std_x * std_y + c2) / (variance_x + variance_y + c2), 0, None)
    structure = np.clip((covariance + c3) / (std_x * std_y + c3), 0, None)
    return luminance, contrast, structure


def organ_metrics(sct_labels, ct_labels, classes, spacing_zyx) -> dict[int, tuple[float, float]]:
    """Class → (Dice, HD95 in mm; NaN for an organ that the prediction lost), over classes in the reference."""
    result = {}
    for label in classes:
        if not (ct_labels == label).any():
            continue
        predicted = torch.from_numpy(sct_labels == label)[None, None].float()
        truth = torch.from_numpy(ct_labels == label)[None, None].float()
        dice = DiceMetric(include_background=True)(predicted, truth).item()
        distance = float("nan")
        if predicted.any():
            metric = HausdorffDistanceMetric(percentile=95, include_background=True)
            distance = metric(predicted, truth, spacing=list(spacing_zyx)).item()
        result[label] = (dice, distance)
    return result
