"""Water-equivalent path lengths: what an error in HU does to a proton's range.

A proton stops where the integral of the relative stopping power along its path equals its range in water. So
the difference of that integral between sCT and CT, from the skin to the target, is the range error in mm.
It is a surrogate, not a dose: no scattering, straight rays, one calibration curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from sctlab_model.volume import AIR_HU, Geometry

# HU → stopping power relative to water: matRad's default table for protons (github.com/e0404/matRad,
# matRad_default.hlut). A clinic's own curve differs by a few percent, and both images get the same one.
STOPPING_POWER_HU = (-1024.0, 200.0, 449.0, 2000.0, 2048.0, 3071.0)
STOPPING_POWER = (0.00324, 1.2, 1.2, 2.49066, 2.5306, 2.5306)

GANTRY_ANGLES_DEG = tuple(range(0, 360, 45))
STEP_MM = 1.0
RAYS_AT_MOST = 400  # target points an angle
DEFAULT_TARGET_MM = 30.0


@dataclass(frozen=True)
class PathDifference:
    """Water-equivalent path length, prediction minus reference, over all rays.

    Args:
        mean_absolute_mm: Mean of the absolute difference.
        p95_absolute_mm: Its 95th percentile.
        mean_mm: Signed mean: above zero the prediction is denser, protons stop short of the plan.
        rays: How many.
        target: What the rays end in.
    """

    mean_absolute_mm: float
    p95_absolute_mm: float
    mean_mm: float
    rays: int
    target: str


def stopping_power(hu: np.ndarray) -> np.ndarray:
    """Proton stopping power relative to water."""
    return np.interp(hu, STOPPING_POWER_HU, STOPPING_POWER)


def path_difference(
    prediction: np.ndarray,
    reference: np.ndarray,
    mask: np.ndarray,
    geometry: Geometry,
    *,
    target: np.ndarray | None = None,
    target_name: str = "",
    angles_deg: Sequence[float] = GANTRY_ANGLES_DEG,
    seed: int = 0,
) -> PathDifference | None:
    """Integrate the difference of stopping powers along parallel rays in the axial plane.

    Args:
        prediction, reference: HU, axes z, y, x. Air outside the mask in both.
        mask: Body mask, same shape.
        geometry: The grid; rays turn about its z axis.
        target: Boolean, where the rays end; a ball of 30 mm radius about the mask's centre by default.
        target_name: For the report.
        angles_deg: Gantry angles; 0 comes from the front (-y), 90 from the patient's left (+x).

    Returns:
        None when the target is empty.
    """
    difference = np.where(mask, prediction, AIR_HU), np.where(mask, reference, AIR_HU)
    difference = (stopping_power(difference[0]) - stopping_power(difference[1])).astype(np.float32)
    spacing = np.array(geometry.spacing_xyz[::-1])
    if target is None:
        target, target_name = _ball(mask, spacing), f"ball of {DEFAULT_TARGET_MM:g} mm at the mask's centre"
    points = np.argwhere(target & mask)
    if len(points) == 0:
        return None
    if len(points) > RAYS_AT_MOST:
        points = points[np.random.default_rng(seed).choice(len(points), RAYS_AT_MOST, replace=False)]
    length = float(np.hypot(*(np.array(mask.shape[1:]) * spacing[1:])))
    steps = np.arange(STEP_MM / 2, length, STEP_MM)
    totals = []
    for angle in np.deg2rad(angles_deg):
        towards_source = np.array([0.0, -np.cos(angle), np.sin(angle)])  # z, y, x in mm
        samples = points[:, None, :] + steps[None, :, None] * towards_source / spacing
        values = map_coordinates(difference, samples.reshape(-1, 3).T, order=1, mode="constant", cval=0.0)
        totals.append(values.reshape(len(points), -1).sum(1) * STEP_MM)
    difference_mm = np.concatenate(totals).astype(np.float64)
    absolute = np.abs(difference_mm)
    return PathDifference(
        float(absolute.mean()),
        float(np.percentile(absolute, 95)),
        float(difference_mm.mean()),
        len(difference_mm),
        target_name,
    )


def _ball(mask: np.ndarray, spacing_zyx: np.ndarray) -> np.ndarray:
    centre = np.array([c.mean() for c in np.nonzero(mask)]) if mask.any() else np.zeros(3)
    z, y, x = (((np.arange(n) - c) * s) ** 2 for n, c, s in zip(mask.shape, centre, spacing_zyx, strict=True))
    return z[:, None, None] + y[None, :, None] + x[None, None, :] <= DEFAULT_TARGET_MM**2
