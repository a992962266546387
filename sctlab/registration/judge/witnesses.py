"""Witnesses: measures of agreement that know nothing of how the images were registered.

A witness compares the fixed image with the moving one under the solution, voxel by voxel, and can do so again for the
solution shifted by whole voxels without starting anew. A new one (organs of an anatomy network, say) is a class with
`@register_witness`. Which of them may speak is decided for each registration: what the engine optimised stays silent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from sctlab.measures.similarity import normalised_mutual_information

Shift = tuple[int, int, int]  # voxels along z, y, x
_REGISTRY: dict[str, type[Witness]] = {}
# Of the agreement's logarithm. An image that loses less when it is perturbed itself can't tell that perturbation: patients lose
# 0.08 and more when they are mirrored, and phantoms that are their own mirror image up to 0.06, which is noise.
LEAST_LOST = 0.07


class Witness(ABC):
    """Agreement of two images [z, y, x] (float32, one isotropic grid); larger is better.

    Args:
        fixed, moving: Both on the fixed grid, the moving one under the solution.
        spacing_mm: Of the grid.
    """

    name: ClassVar[str] = ""
    optimised_as: ClassVar[frozenset[str]] = frozenset()  # metrics of the engine that are this measure
    local: ClassVar[bool] = True  # whether `maps` is asked where in the body another place fits better

    @abstractmethod
    def __init__(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: float) -> None: ...

    @abstractmethod
    def maps(self, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
        """Weighted agreement and weight of every voxel with the moving image shifted: their sums' quotient is the score."""

    def score(self, shift: Shift, region: np.ndarray) -> float:
        """Agreement over a region with the moving image shifted."""
        agreement, weight = self.maps(shift)
        return float(agreement[region].sum() / max(float(weight[region].sum()), 1e-9))


def register_witness(cls: type[Witness]) -> type[Witness]:
    """Make a class one of the witnesses."""
    _REGISTRY[cls.name] = cls
    return cls


def witnesses(without: frozenset[str] = frozenset()) -> dict[str, type[Witness]]:
    """Those that may speak where the engine optimised the metrics in `without`."""
    return {name: cls for name, cls in _REGISTRY.items() if not cls.optimised_as & without}


def shifted(array: np.ndarray, shift: Shift) -> np.ndarray:
    """`out[i] = array[i + shift]` along the last three axes; what leaves at one face enters at the other."""
    return np.roll(array, tuple(-s for s in shift), axis=(-3, -2, -1)) if any(shift) else array


@register_witness
class Edges(Witness):
    """Squared cosine of the gradients (Haber and Modersitzki, Methods Inf Med 46(3), 2007), weighted by both lengths."""

    name = "edges"

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: float) -> None:
        self.fixed, self.fixed_length = _directions(fixed)
        self.moving, self.moving_length = _directions(moving)

    def maps(self, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
        cosine = (self.fixed * shifted(self.moving, shift)).sum(0) ** 2
        # The root weighs an edge of one image against none in the other as half an edge.
        weight = 0.5 * (self.fixed_length + shifted(self.moving_length, shift))
        both = np.sqrt(self.fixed_length * shifted(self.moving_length, shift))
        return cosine * both, weight


def _directions(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit gradients [3, z, y, x], weak ones damped, and their lengths as multiples of a strong one (at most 1)."""
    parts = [np.gradient(image, axis=a) if image.shape[a] > 1 else np.zeros_like(image) for a in range(3)]
    gradient = np.stack(parts).astype(np.float32)
    length = np.sqrt((gradient**2).sum(0))
    strong = float(np.percentile(length[length > 0], 95)) if (length > 0).any() else 1.0
    noise = 0.1 * strong + 1e-6
    return gradient / np.sqrt(length**2 + noise**2), np.minimum(length / max(strong, 1e-6), 1.0)


@register_witness
class LocalCorrelation(Witness):
    """Squared correlation in Gaussian windows, weighted by the fixed image's structure."""

    name = "correlation"
    WINDOW_MM = 8.0

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: float) -> None:
        self.sigma = self.WINDOW_MM / spacing_mm
        self.fixed, self.moving = fixed - fixed.mean(), moving - moving.mean()
        self.fixed_mean, self.fixed_variance = self._moments(self.fixed)
        self.moving_mean, self.moving_variance = self._moments(self.moving)
        self.floors = [1e-3 * float(v.mean()) + 1e-9 for v in (self.fixed_variance, self.moving_variance)]
        deviation = np.sqrt(self.fixed_variance)
        self.weight = np.minimum(deviation / max(float(np.percentile(deviation, 90)), 1e-6), 1.0)

    def maps(self, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
        moving, mean, variance = (shifted(a, shift) for a in (self.moving, self.moving_mean, self.moving_variance))
        covariance = self._smooth(self.fixed * moving) - self.fixed_mean * mean
        squared = covariance**2 / ((self.fixed_variance + self.floors[0]) * (variance + self.floors[1]))
        return np.clip(squared, 0, 1) * self.weight, self.weight

    def _moments(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = self._smooth(image)
        return mean, np.maximum(self._smooth(image**2) - mean**2, 0)

    def _smooth(self, image: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(image, self.sigma, mode="nearest", truncate=2.5)


@register_witness
class Information(Witness):
    """Normalised mutual information minus 1; of a region as a whole only."""

    name = "information"
    optimised_as = frozenset({"mutual information"})
    local = False

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: float) -> None:
        self.fixed, self.moving = fixed, moving

    def maps(self, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError("mutual information has no map")

    def score(self, shift: Shift, region: np.ndarray) -> float:
        if not region.any():
            return 0.0
        return normalised_mutual_information(self.fixed[region], shifted(self.moving, shift)[region]) - 1


@register_witness
class SelfSimilarity(Witness):
    """exp(−distance / 0.1) of MIND-SSC features, weighted by the fixed image's structure."""

    name = "self-similarity"
    optimised_as = frozenset({"mind"})
    local = False  # places are told by the witnesses that may always speak, so that one calibration serves all

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, spacing_mm: float) -> None:
        self.fixed, self.moving = (_mind(image) for image in (fixed, moving))
        _, self.weight = _directions(fixed)

    def maps(self, shift: Shift) -> tuple[np.ndarray, np.ndarray]:
        distance = np.abs(self.fixed - shifted(self.moving, shift)).mean(0)
        return np.exp(-distance / 0.1) * self.weight, self.weight


def _mind(image: np.ndarray) -> np.ndarray:
    import torch

    from sctlab.features import load_extractor

    with torch.inference_mode():
        return load_extractor("mind")(torch.from_numpy(image)[None, None])[0][0].numpy()
