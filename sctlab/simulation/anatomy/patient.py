"""One patient's proportions: curves along the body from which every part takes its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Heights (z, mm) of an adult's vertebral centres; zero is the L4/L5 disc. TotalSegmentator ids beside them.
LUMBAR = [(27, 17.0), (28, 52.0), (29, 88.0), (30, 123.0), (31, 157.0)]
THORACIC = [(32 + i, z) for i, z in enumerate((189, 218, 246, 273, 299, 324, 348, 371, 394, 416, 437, 457))]
SACRUM_TOP = -14.0
NECK_BASE = 468.0  # C7/T1; the head-and-neck model hangs on it

# z, half width and half depth of the lean body (without subcutaneous fat), mid-depth y (mm)
_LEAN = np.array([
    (-330, 84, 84, 5), (-260, 165, 92, 4), (-200, 172, 98, 4), (-130, 168, 98, 2), (-60, 158, 92, 0),
    (0, 142, 86, -2), (60, 132, 86, -3), (120, 137, 95, -4), (180, 145, 102, -3), (240, 150, 106, 0),
    (300, 152, 106, 5), (360, 156, 98, 10), (410, 168, 84, 18), (445, 160, 72, 24), (475, 96, 62, 24), (500, 68, 58, 22), (560, 62, 60, 16),
])  # fmt: skip
# z and y of the vertebral body centres: sacral tilt, lordosis, kyphosis, neck
_SPINE = np.array([
    (-120, 62), (-90, 74), (-60, 66), (-30, 45), (0, 27), (40, 16), (90, 14), (150, 26), (220, 44), (290, 53),
    (350, 53), (410, 44), (460, 32), (520, 18), (600, 12),
])  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """Proportions of one patient; lengths in mm, factors around 1.

    Args:
        width, depth: Factors of the lean body's width and depth.
        fat_mm: Subcutaneous fat at the flank; more in front and behind.
        belly_mm: How far the belly stands out because of visceral fat.
        spongy: Factor of bone mineral (age).
        male: Which pelvic organs there are.
        curve: Factor of the spine's lordosis and kyphosis.
        sway: Sideways bend of the spine at its worst.
        inspiration: Depth of the breath that was held, 0 to 1.
    """

    width: float
    depth: float
    fat_mm: float
    belly_mm: float
    spongy: float
    male: bool
    curve: float
    sway: float
    inspiration: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Patient:
        """Draw a patient."""
        fat = float(np.clip(rng.lognormal(np.log(15), 0.5), 4, 42))
        return cls(
            width=float(np.clip(rng.normal(1.0, 0.055), 0.88, 1.14)),
            depth=float(np.clip(rng.normal(1.0, 0.06), 0.87, 1.15)),
            fat_mm=fat,
            belly_mm=float(np.clip(rng.normal(0.9 * fat - 4, 9), 0, 45)),
            spongy=float(rng.uniform(0.65, 1.3)),
            male=bool(rng.random() < 0.55),
            curve=float(rng.uniform(0.75, 1.2)),
            sway=float(rng.normal(0, 4)),
            inspiration=float(rng.uniform(0, 1)),
        )

    def half_width(self, z: float | np.ndarray) -> np.ndarray:
        """Half width of the lean body at height z."""
        return self.width * smooth_curve(z, _LEAN[:, 0], _LEAN[:, 1])

    def half_depth(self, z: float | np.ndarray) -> np.ndarray:
        """Half depth of the lean body at height z."""
        return self.depth * smooth_curve(z, _LEAN[:, 0], _LEAN[:, 2])

    def mid_y(self, z: float | np.ndarray) -> np.ndarray:
        """Mid-depth y at height z."""
        return smooth_curve(z, _LEAN[:, 0], _LEAN[:, 3])

    def spine_y(self, z: float | np.ndarray) -> np.ndarray:
        """y of the vertebral body centres."""
        mean = 34.0
        return self.depth * (mean + self.curve * (smooth_curve(z, _SPINE[:, 0], _SPINE[:, 1]) - mean))

    def spine_x(self, z: float | np.ndarray) -> np.ndarray:
        """x of the vertebral body centres."""
        return self.sway * np.sin((np.asarray(z) - 40) / 140)

    def spine_tilt(self, z: float) -> float:
        """Slope of the spine in the sagittal plane, degrees: the turn about x of a vertebra."""
        return float(np.rad2deg(np.arctan2(self.spine_y(z + 8) - self.spine_y(z - 8), 16)))


def smooth_curve(z: float | np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Monotone cubic curve through the knots, flat beyond them."""
    from scipy.interpolate import PchipInterpolator

    curve = PchipInterpolator(knots, values)
    return curve(np.clip(z, knots[0], knots[-1]))
