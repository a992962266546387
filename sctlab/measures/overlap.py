"""Overlap of label maps: one pass of counts, and Dice from them."""

from __future__ import annotations

import numpy as np
import torch
from grand_challenge_metrics.stats import dice_from_confusion_matrix

from sctlab_model.overlap import dice

__all__ = ["confusion_counts", "dice", "dice_of_counts"]


def confusion_counts(
    predicted: np.ndarray, reference: np.ndarray, count: int, *, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Confusion matrix [reference, predicted] of labels 0 to `count` - 1 in one pass over the voxels.

    Args:
        predicted, reference: Non-negative integers below `count`, one shape.
        device: `cpu`, or a CUDA device.
    """
    if str(device) == "cpu":
        chosen = (predicted | reference) != 0  # most voxels are background in both
        pairs = reference[chosen].astype(np.int64) * count + predicted[chosen]
        counts = np.bincount(pairs, minlength=count**2)
        counts[0] = predicted.size - pairs.size
    else:
        first, second = (torch.from_numpy(a).to(device).flatten().long() for a in (reference, predicted))
        counts = torch.bincount(first * count + second, minlength=count**2).cpu().numpy()
    return counts.reshape(count, count)


def dice_of_counts(confusion: np.ndarray) -> np.ndarray:
    """Dice of every label of a confusion matrix; NaN for labels that neither image has."""
    with np.errstate(invalid="ignore"):
        return dice_from_confusion_matrix(confusion)
