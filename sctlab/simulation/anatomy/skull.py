"""Skull vault and base, mastoids, brain with sulci, ventricles and deep grey matter."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.painter import Box, Painter, ellipsoid
from sctlab.simulation.tissues import Tissue

VAULT = ((0, -10, 668), (70, 91, 85))
FOSSA = ((0, 26, 630), (60, 54, 42))  # posterior fossa


def paint_skull_and_brain(painter: Painter, patient: Patient) -> None:
    """The braincase from outside in."""
    box = painter.box((-90, -120, 575), (90, 110, 775))
    if box is None:
        return
    x, y, z = points = painter.at(box)
    base = 618 + 12 * np.clip((-36 - y) / 30, 0, 1) - 4 * np.clip((y + 30) / 30, 0, 1)  # steps of the fossae
    vault = np.maximum(ellipsoid(points, *VAULT), base - 6 - z)
    outer = np.minimum(vault, ellipsoid(points, *FOSSA)) + 0.6 * painter.noise(box, 9.0)
    thickness = 6.2 + 1.4 * painter.noise(box, 18.0) + 1.5 * np.clip((y - 40) / 40, 0, 1)
    thickness = np.maximum(thickness, 3.0)
    painter.fill(box, outer, Tissue.CORTICAL_BONE, 91)
    diploe = np.maximum(outer + 1.9, -(outer + thickness - 1.6))
    painter.fill(box, diploe, Tissue.RED_MARROW, 91, hu=painter.hu_of[Tissue.RED_MARROW] * 1.6 * patient.spongy + 120)
    floor = np.where(ellipsoid(points, *FOSSA) < 0, -99, base - z + 1.5 * painter.noise(box, 9.0))
    inner = np.maximum(outer + thickness, floor)
    foramen = np.maximum(np.sqrt(x**2 + (y - 18) ** 2) - 15, np.maximum(z - 640, 590 - z))
    inner = np.minimum(inner, foramen)
    painter.fill(box, inner, Tissue.CSF, 90)
    _brain(painter, patient, box, inner)
    for side in (-1, 1):
        painter.ellipsoid(
            (side * 40, -2, 618), (27, 10, 10), Tissue.CORTICAL_BONE, 91, angles=(0, 0, side * 35), rough_mm=1.5
        )
        painter.ellipsoid((side * 60, 14, 606), (11, 15, 20), Tissue.CORTICAL_BONE, 91, rough_mm=1.0)
        cells = painter.box((side * 60 - 12, -2, 584), (side * 60 + 12, 30, 628))
        if cells is not None:
            shape = ellipsoid(painter.at(cells), (side * 60, 14, 606), (9, 13, 17))
            painter.fill(cells, np.maximum(shape, -1.6 * painter.noise(cells, 3.0) - 0.2), Tissue.GAS)
        canal = np.array([[side * 80, -6, 616], [side * 50, -4, 617]])
        painter.tube(canal, 3.2, Tissue.GAS, 0)
    sella = painter.box((-14, -30, 608), (14, -4, 636))
    if sella is not None:
        painter.bone(sella, ellipsoid(painter.at(sella), (0, -16, 614), (13, 12, 9)), 91)


def _brain(painter: Painter, patient: Patient, box: Box, inner: np.ndarray) -> None:
    x, y, z = points = painter.at(box)
    atrophy = painter.rng.uniform(0.6, 1.6)
    fissure = np.maximum(1.6 * atrophy - np.abs(x), 640 - z)
    brain = np.maximum(inner + 2.2 * atrophy + 0.8, fissure)
    stem = np.maximum(np.sqrt(x**2 + (y - 6 - 0.12 * (640 - z)) ** 2) - 14, np.maximum(585 - z, z - 648))
    below = z < 628
    cerebrum = np.where(below & (y > -10), np.maximum(brain, 0.8), brain)
    folds = np.abs(painter.noise(box, 9.0)) * 9 - 1.1 * atrophy  # sulci: sheets that dive in from the surface
    sulci = np.maximum(folds, -(inner + 22))
    cortex = np.maximum(brain, -np.where(inner > -22, sulci, 9.0))
    painter.fill(box, cortex, Tissue.GREY_MATTER, 90)
    white = np.maximum(cerebrum + 4.5, 4.2 - np.where(inner > -24, folds + 1.1, 9.0))
    painter.fill(box, white, Tissue.WHITE_MATTER, 90)
    side = (np.abs(x), y, z)
    deep = np.minimum.reduce(
        [
            ellipsoid(side, (13, 2, 660), (9, 16, 10)),
            ellipsoid(side, (26, -12, 660), (7, 20, 12)),
            ellipsoid(side, (14, -30, 668), (6, 12, 12)),
        ]
    )
    painter.fill(box, deep, Tissue.GREY_MATTER, 90)
    swell = atrophy**0.7
    ventricles = np.minimum.reduce(
        [
            ellipsoid(side, (9, -22, 676), (4.5 * swell, 22, 8 * swell), (0, 15, 0)),
            ellipsoid(side, (17, 20, 676), (6 * swell, 20, 9 * swell), (25, 0, -12)),
            ellipsoid(side, (0, -2, 658), (2.2 * swell, 14, 10)),
            ellipsoid(side, (0, 22, 628), (7 * swell, 5, 9)),
        ]
    )
    painter.fill(box, ventricles, Tissue.CSF, 90)
    tentorium = np.maximum(np.abs(z - 640 - 0.25 * (y - 20)) - 1.2, 18 - np.sqrt(x**2 + (y - 6) ** 2))
    tentorium = np.maximum.reduce([tentorium, inner + 3, -4 - y])
    painter.fill(box, tentorium, Tissue.CSF, 90)
    painter.fill(box, np.maximum(stem, inner + 2), Tissue.WHITE_MATTER, 90)
    del points
