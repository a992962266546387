"""What the intensities of an image are like, for networks that see parts of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Statistics of raw intensities that a network's normalisation refers to.

    The registration metric and the look at an image take them from each whole image (so that a patch sees what the image
    saw); the training loss takes the target's fixed range, the same for prediction and target (`from_range`).
    """

    minimum: float
    maximum: float
    mean: float
    std: float

    @classmethod
    def of(cls, values: Tensor) -> Statistics:
        """Statistics of an image, or of the voxels selected from it; any shape."""
        values = values.detach().float()
        std = float(values.std(unbiased=False)) if values.numel() > 1 else 0.0
        return cls(float(values.min()), float(values.max()), float(values.mean()), std)

    @classmethod
    def from_range(cls, minimum: float, maximum: float) -> Statistics:
        """A fixed range, with the mean and deviation of values spread evenly over it."""
        if not maximum > minimum:
            raise ValueError(f"range {minimum} to {maximum}: the maximum must be above the minimum")
        return cls(minimum, maximum, (minimum + maximum) / 2, (maximum - minimum) / 12**0.5)
