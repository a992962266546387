"""Error by tissue, in HU and as relative electron density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Tissue → [from, to) in HU of the reference. Bounds follow the gaps between tissues in Schneider, Bortfeld and
# Schlegel (Phys Med Biol 45:459, 2000), rounded; between spongy and cortical bone lies no gap, 400 HU is usual.
TISSUES: dict[str, tuple[float, float]] = {
    "air": (-np.inf, -900),
    "lung": (-900, -200),
    "fat": (-200, -30),
    "soft tissue": (-30, 130),
    "spongy bone": (130, 400),
    "cortical bone": (400, np.inf),
}

# Thomas, Br J Radiol 72:781 (1999): 1 + HU/1000 for soft tissue, 1 + HU/1950 for bone. The two lines don't meet
# (a step of -0.049 at the published 100 HU), so they are joined at constant density where each reaches 1.1.
ELECTRON_DENSITY_HU = (-1000.0, 100.0, 195.0, 3071.0)
ELECTRON_DENSITY = (0.0, 1.1, 1.1, 1 + 3071 / 1950)


@dataclass(frozen=True)
class TissueError:
    """Errors over the voxels that are one tissue in the reference.

    Args:
        voxels: How many.
        mae_hu, mean_error_hu: Absolute and signed error.
        mae_density, mean_error_density: The same as electron density relative to water (unitless).
    """

    voxels: int
    mae_hu: float
    mean_error_hu: float
    mae_density: float
    mean_error_density: float


def electron_density(hu: np.ndarray) -> np.ndarray:
    """Electron density relative to water; constant beyond the ends of the curve.

    Example:
        >>> electron_density(np.array([-1000, 0, 1950])).tolist()
        [0.0, 1.0, 2.0]
    """
    return np.interp(hu, ELECTRON_DENSITY_HU, ELECTRON_DENSITY)


def tissue_errors(prediction: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> dict[str, TissueError]:
    """Errors of each tissue that the reference has inside the mask.

    Args:
        prediction, reference: HU, axes z, y, x.
        mask: Boolean, same shape.
    """
    x, y = prediction[mask].astype(np.float32), reference[mask].astype(np.float32)
    error = x - y
    density = (electron_density(x) - electron_density(y)).astype(np.float32)
    result = {}
    for name, (low, high) in TISSUES.items():
        chosen = (y >= low) & (y < high)
        count = int(np.count_nonzero(chosen))
        if count:
            e, d = error[chosen].astype(np.float64), density[chosen].astype(np.float64)
            result[name] = TissueError(
                count, float(np.abs(e).mean()), float(e.mean()), float(np.abs(d).mean()), float(d.mean())
            )
    return result
