"""Other tissue densities for CBCT patches: what a network has to copy from the scan, because no anatomy foretells it.

Contrast medium, fluid, consolidated or emphysematous lung, thin bone: a small cohort shows one of each, and a network then
draws what it knows instead of what it sees (a heart without its contrast medium, the lung of the one patient whose scan was
cut like this). As in SynthSeg (Billot et al., Med Image Anal 86 (2023) 102789) intensities are drawn instead, but here
those of the target, and the source follows them as a scanner would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field
from scipy import ndimage

from sctlab.simulation.painter import smooth_noise
from sctlab.training.cache import PreparedCase
from sctlab.training.field_of_view import FieldOfView
from sctlab_model.preparation import cut
from sctlab_model.recipe import RangeNormalisation, Recipe
from sctlab_model.settings import Settings

# How much a voxel takes part, by its HU: (HU, share) at the corners of a trapezium
SOFT = ((-60.0, 0.0), (0.0, 1.0), (150.0, 1.0), (250.0, 0.0))
LUNG = ((-1000.0, 0.0), (-940.0, 1.0), (-600.0, 1.0), (-400.0, 0.0))
FAT = ((-180.0, 0.0), (-140.0, 1.0), (-70.0, 1.0), (-30.0, 0.0))
BONE_HU = 150.0  # above this the mineral is more or less
# What is added, HU: to soft tissue a contrast medium's at most (Bae, Radiology 256 (2010) 32: blood to 450), or water's less
MEDIUM_HU, FLUID_HU = 420.0, -70.0
MEDIUM_SHARE = 0.75
LUNG_HU, FAT_HU, BONE_FACTOR = (-150.0, 250.0), (-25.0, 25.0), (-0.3, 0.3)
REGION_MM = (6.0, 50.0)
# Standard deviation of a CBCT's resolution in the plane; across it the slices' thickness dominates.
BLUR_MM = (0.7, 2.0)
CONTRAST = (0.6, 1.1)  # what scatter leaves of a contrast
LEAST_VOXELS = 500  # from which that is measured


class DensitySettings(Settings):
    """How often a patch's tissues get other densities; CBCT whose source is in HU only.

    Args:
        share: Of the patches.
    """

    share: float = Field(0.5, gt=0, le=1)


@dataclass(frozen=True)
class Densities:
    """What is added to a patch, in the networks' units.

    Args:
        source: Float32 [y, x] by the slice's index in the case.
        target: The same of the target.
    """

    source: dict[int, np.ndarray]
    target: dict[int, np.ndarray]


class DensityDrawer:
    """Gives tissues of a patch other HU: regions of soft tissue, soft tissue of alike HU, lung, fat, bone.

    The source gets the same, blurred as a CBCT is and with the contrast that this scan has left (the slope of source by
    blurred target over the patch).

    Args:
        settings: How often.
        recipe: For units and grid; its normalisation is one of a fixed range.
    """

    def __init__(self, settings: DensitySettings, recipe: Recipe) -> None:
        normalisation = recipe.normalisation
        assert isinstance(normalisation, RangeNormalisation)
        self.share, self.spacing = settings.share, recipe.spacing_xyz
        self.source_range = (normalisation.lower, normalisation.upper)
        self.target_range = recipe.target_range_hu

    def draw(
        self,
        case: PreparedCase,
        slices: Sequence[int],
        view: FieldOfView,
        start: tuple[int, int],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> Densities | None:
        """What is added to a patch; None for nothing.

        Args:
            case: Whose target is in HU.
            slices: Which of its slices, in order and without gaps but for reflected ends.
            view: What the scan sees of it.
            start: First row and column in the field of view; negative where the patch reaches beyond it.
            size: Rows and columns.
            rng: Of this draw.
        """
        if rng.random() >= self.share:
            return None
        first, last = min(slices), max(slices) + 1
        box, extent = (0, *start), (last - first, *size)
        target = cut(view.plane(case.target[first:last]), box, extent, -1.0)
        source = cut(view.plane(case.source[first:last]), box, extent, case.outside)
        body = cut(view.plane(case.mask[first:last]), box, extent, False)
        known = body & np.isfinite(target)
        hu = _hu(np.where(known, target, -1.0), self.target_range)
        added = np.where(known, self._added(hu, rng), 0).astype(np.float32)
        x, y, z = self.spacing
        blur = rng.uniform(*BLUR_MM)
        sigma = (0.3 * blur / z, blur / y, blur / x)
        slope = _contrast(_hu(source, self.source_range)[known], ndimage.gaussian_filter(hu, sigma)[known])
        seen = np.where(body, slope * ndimage.gaussian_filter(added, sigma), 0).astype(np.float32)
        per_source, per_target = (2 / (high - low) for low, high in (self.source_range, self.target_range))
        return Densities(
            {first + k: seen[k] * np.float32(per_source) for k in range(len(seen))},
            {first + k: added[k] * np.float32(per_target) for k in range(len(added))},
        )

    def _added(self, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """HU that are added to a patch's [z, y, x]."""
        smooth = ndimage.gaussian_filter(hu, (0, 0.7, 0.7))  # else a CT's noise decides what is soft tissue
        soft, lung, fat = (np.minimum(_share(smooth, c), _share(hu, c)) for c in (SOFT, LUNG, FAT))
        # An edge of gas or skin passes through all values, and is neither.
        lung, fat = (ndimage.grey_opening(share, (1, 3, 3)) for share in (lung, fat))
        added = np.zeros_like(smooth)
        for _ in range(rng.integers(0, 3)):
            centre, width = rng.uniform(0, 150), rng.uniform(12, 50)
            added += _amount(rng) * soft * np.exp(-0.5 * ((smooth - centre) / width) ** 2)
        for _ in range(rng.integers(1, 4)):
            noise = smooth_noise(hu.shape, self.spacing, float(rng.uniform(*REGION_MM)), rng)
            added += _amount(rng) * soft * np.clip((noise - rng.uniform(0.2, 1.5)) * 8 + 0.5, 0, 1)
        added += np.maximum(rng.uniform(*LUNG_HU) * lung, np.minimum(-1000 - hu, 0))  # nothing is lighter than air
        added += rng.uniform(*FAT_HU) * fat
        added += rng.uniform(*BONE_FACTOR) * np.clip(np.minimum(smooth, hu) - BONE_HU, 0, None)
        return added


def _hu(units: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return limits[0] + (units + 1) * ((limits[1] - limits[0]) / 2)


def _share(hu: np.ndarray, corners: tuple[tuple[float, float], ...]) -> np.ndarray:
    at, share = zip(*corners, strict=True)
    return np.interp(hu, at, share).astype(np.float32)


def _amount(rng: np.random.Generator) -> float:
    """HU of a contrast medium (mostly little, now and then much) or of more fluid."""
    if rng.random() < MEDIUM_SHARE:
        return float(rng.uniform(20, MEDIUM_HU) * rng.random())
    return float(rng.uniform(FLUID_HU, 0))


def _contrast(source: np.ndarray, target: np.ndarray) -> float:
    """Slope of the source by the target, within bounds."""
    if len(source) < LEAST_VOXELS:
        return 1.0
    deviation = target - target.mean()
    slope = float((deviation * source).sum() / max(float((deviation**2).sum()), 1e-6))
    return float(np.clip(slope, *CONTRAST))
