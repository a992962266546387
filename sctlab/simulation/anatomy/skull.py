"""Skull vault and base, mastoids, and what the brain (`brain.py`) lies in."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.brain import paint_brain
from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.painter import Painter, ellipsoid
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
    paint_brain(painter, box, inner)
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
