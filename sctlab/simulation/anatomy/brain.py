"""Brain: hemispheres with gyri and sulci, deep grey matter, ventricles, cerebellum with folia, brainstem."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.painter import Box, Painter, Points, capsule, ellipsoid
from sctlab.simulation.tissues import Tissue

BRAIN = 90
_CENTRE = (0.0, 0.0, 655.0)
_RADIUS_MM = 72.0  # of the sphere that folds are drawn on
_WAVES = 10
# A gyrus lies between two sulci: half a wavelength. Of adults 10 to 12 mm wide, sulci 15 to 20 mm deep (Fischl and Dale,
# PNAS 97 (2000) 11050: cortex 2.5 mm thick in the mean).
_WAVELENGTH_MM = (21.0, 27.0)
_CORTEX_MM, _DEPTH_MM, _UNFOLDED_MM = 2.9, 15.0, 36.0


def paint_brain(painter: Painter, box: Box, inner: np.ndarray) -> None:
    """Paint the brain into the braincase, which holds cerebrospinal fluid.

    Args:
        inner: Distance (mm) to the inner table on the box, negative inside.
    """
    x, y, z = points = painter.at(box)
    atrophy = painter.rng.uniform(0.6, 1.6)
    fissure = np.minimum(1.6 * atrophy - np.abs(x), z - 640)  # between the hemispheres
    surface = inner + 2.2 * atrophy + 0.8
    hind = np.maximum(z - 645 + 0.3 * np.abs(x) - 0.25 * (y - 20), -4 - y)  # below the tentorium
    brain = np.maximum(surface, fissure)
    sulci = _sulci(painter, box, points, brain, 0.25 + 0.35 * atrophy)
    cerebrum = np.maximum(brain, -sulci)
    painter.fill(box, np.maximum(cerebrum, -hind), Tissue.GREY_MATTER, BRAIN)
    white = np.maximum.reduce([brain + _CORTEX_MM, _CORTEX_MM - sulci, 2.0 - hind])
    painter.fill(box, white, Tissue.WHITE_MATTER, BRAIN)
    side = (np.abs(x), y, z)
    deep = np.minimum.reduce(
        [
            ellipsoid(side, (13, 2, 660), (9, 16, 10)),
            ellipsoid(side, (26, -12, 660), (7, 20, 12)),
            ellipsoid(side, (14, -30, 668), (6, 12, 12)),
        ]
    )
    painter.fill(box, deep, Tissue.GREY_MATTER, BRAIN)
    arch = np.abs(np.hypot((y + 2) / 2.1, z - 668) - 17) - 2.2
    callosum = np.maximum.reduce([np.abs(x) - 14, arch, 668 - z])  # joins the hemispheres
    painter.fill(box, callosum, Tissue.WHITE_MATTER, BRAIN)
    _cerebellum(painter, box, points, np.maximum(surface, hind + 1.5))
    _stem(painter, box, points, inner)
    swell = atrophy**0.7
    ventricles = np.minimum.reduce(
        [
            ellipsoid(side, (9, -22, 676), (4.5 * swell, 22, 8 * swell), (0, 15, 0)),
            ellipsoid(side, (17, 20, 676), (6 * swell, 20, 9 * swell), (25, 0, -12)),
            ellipsoid(side, (0, -2, 658), (2.2 * swell, 14, 10)),
            ellipsoid(side, (0, 22, 628), (7 * swell, 5, 9)),
        ]
    )
    painter.fill(box, ventricles, Tissue.CSF, BRAIN)


def _sulci(painter: Painter, box: Box, points: Points, brain: np.ndarray, half_mm: float) -> np.ndarray:
    """Distance (mm) to the sulci, negative inside: sheets that stand on the brain's surface and dive in.

    Where a sum of random waves of one wavelength crosses zero there is a labyrinth of lines of even spacing, as gyri have.
    The waves are drawn on a sphere around the brain, so that a sheet goes straight inwards.
    """
    rng = painter.detail
    offset = [p - c for p, c in zip(points, _CENTRE, strict=True)]
    radius = np.sqrt(sum(o * o for o in offset)) + 1e-3
    on_sphere = [o * (_RADIUS_MM / radius) for o in offset]
    waves = np.zeros(radius.shape, np.float32)
    number = 2 * np.pi / rng.uniform(*_WAVELENGTH_MM)
    for _ in range(_WAVES):
        direction = rng.standard_normal(3)
        direction *= number / np.linalg.norm(direction)
        phase = sum(np.float32(d) * o for d, o in zip(direction, on_sphere, strict=True))
        waves += np.sin(phase + np.float32(rng.uniform(0, 2 * np.pi)))
    # The slope of the sum where it is zero: so far from the sheet in mm, which come closer towards the centre.
    waves *= np.float32((2 / _WAVES) ** 0.5 / (number * 0.8))
    distance = np.abs(waves) * np.clip(radius / _RADIUS_MM, 0.3, 1.2)
    depth = _DEPTH_MM + 4 * painter.noise(box, 18.0)
    middle = _UNFOLDED_MM - radius  # on the medial side sheets would meet
    return np.maximum.reduce([distance - half_mm, -(brain + np.maximum(depth, 4)), middle])


def _cerebellum(painter: Painter, box: Box, points: Points, shape: np.ndarray) -> None:
    """Grey and white leaves that lie around the fourth ventricle like the pages of a book, on a white core."""
    x, y, z = points
    shape = np.maximum(shape, 4 - y)
    painter.fill(box, shape, Tissue.GREY_MATTER, BRAIN)
    angle = np.arctan2(z - 624, y - 14)
    leaves = 1.3 * np.sin(angle * 13 + 0.8 * painter.noise(box, 9.0))  # mm to the middle of a leaf, roughly
    core = ellipsoid((np.abs(x), y, z), (17, 26, 622), (15, 13, 8))
    branches = np.maximum(shape + 3.5, -0.3 - leaves)
    vermis = np.maximum(np.abs(x) - 2, shape)  # the two hemispheres meet
    painter.fill(box, np.maximum(np.minimum(core, branches), -vermis - 1), Tissue.WHITE_MATTER, BRAIN)


def _stem(painter: Painter, box: Box, points: Points, inner: np.ndarray) -> None:
    """Midbrain, pons, which stands out in front, and medulla down to the cord, in their cisterns."""
    peduncles = capsule((np.abs(points[0]), *points[1:]), np.array([5, -2, 634.0]), np.array([14, -6, 656.0]), 9, 9)
    pons = ellipsoid(points, (0, -3, 626), (17, 13, 14))
    medulla = capsule(points, np.array([0, 5, 616.0]), np.array([0, 14, 584.0]), 9.5, 6.5)
    stem = np.minimum.reduce([peduncles, pons, medulla])
    cistern = np.maximum(stem - 3.5, points[2] - 650)
    painter.fill(box, np.maximum(cistern, inner + 1), Tissue.CSF, BRAIN)
    painter.fill(box, np.maximum(stem, inner + 2), Tissue.WHITE_MATTER, BRAIN)
