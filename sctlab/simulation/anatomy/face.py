"""Orbits, nasal cavity and sinuses, maxilla, teeth, mandible, tongue."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.painter import Painter, ellipsoid
from sctlab.simulation.phantom import MANDIBLE
from sctlab.simulation.tissues import Tissue


def paint_face(painter: Painter, patient: Patient) -> None:
    """The viscerocranium and what it holds."""
    _maxilla_and_sinuses(painter)
    for side in (-1, 1):
        _orbit(painter, side)
        zygoma = np.array([(42, -84, 608), (58, -64, 608), (68, -40, 612), (70, -12, 614)]) * [side, 1, 1]
        painter.tube(zygoma, [6, 6.5, 4, 3.6], Tissue.RED_MARROW, 91, cortex_mm=1.6)
        rim = np.array([(50, -70, 612), (53, -72, 630), (44, -84, 646), (20, -94, 644)]) * [side, 1, 1]
        painter.tube(rim, [5, 4, 4, 4.5], Tissue.RED_MARROW, 91, cortex_mm=1.7)
        plate = np.array([(18, -34, 608), (20, -32, 582)]) * [side, 1, 1]
        painter.tube(plate, [4, 2.4], Tissue.RED_MARROW, 91, cortex_mm=1.2)
    _mouth(painter)
    _mandible(painter)


def _maxilla_and_sinuses(painter: Painter) -> None:
    rng = painter.rng
    box = painter.box((-60, -125, 565), (60, -10, 665))
    if box is None:
        return
    x, y, z = points = painter.at(box)
    side = (np.abs(x), y, z)
    size = rng.uniform(0.85, 1.1)
    bone = np.minimum.reduce(
        [
            ellipsoid(side, (24, -70, 597), (20 * size + 2, 22 * size + 2, 20 * size + 2)),
            ellipsoid(points, (0, -68, 627), (16, 28, 16)),
            ellipsoid(points, (0, -34, 616), (17, 16, 14)),
            ellipsoid(points, (0, -90, 648), (30, 9, 14)),
            ellipsoid(points, (0, -72, 580), (30, 36, 7)),
            ellipsoid(points, (0, -103, 622), (6, 6, 16)),
        ]
    ) + 0.5 * painter.noise(box, 6.0)
    painter.bone(box, bone, 91, cortex_mm=1.5)
    thick = rng.uniform(0.3, 2.5)  # mucosa
    sinuses = np.minimum.reduce(
        [
            ellipsoid(side, (24, -70, 597), (20 * size, 22 * size, 20 * size)),
            ellipsoid(points, (0, -34, 617), (14, 13, 11)),
            ellipsoid(points, (0, -90, 650), (24, 5, 9)),
        ]
    )
    painter.fill(box, sinuses, Tissue.MUCOSA, 0)
    painter.fill(box, sinuses + thick, Tissue.GAS, 0)
    cells = ellipsoid(points, (0, -66, 627), (13, 25, 13))
    painter.fill(box, np.maximum(cells, 0.7 - 1.3 * np.abs(painter.noise(box, 6.0)) * 2), Tissue.GAS)
    nose = np.minimum(ellipsoid(points, (0, -72, 602), (15, 38, 18)), ellipsoid(points, (0, -106, 598), (9, 14, 9)))
    turbinates = np.maximum(np.abs(np.abs(x) - 8.5) - 2.8, np.abs(np.sin(z / 4.6)) * -3 + 0.8)
    turbinates = np.maximum(turbinates, -110 - y)
    painter.fill(box, nose, Tissue.MUCOSA, 0)
    painter.fill(box, np.maximum(nose + 1.6, -turbinates), Tissue.GAS, 0)
    septum = np.maximum(np.abs(x - 0.8 * np.sin(y / 9)) - 1.1, nose)
    painter.fill(box, septum, Tissue.CARTILAGE)


def _orbit(painter: Painter, side: int) -> None:
    c = np.array([side * 32.0, -74, 628])
    box = painter.box(c - [26, 26, 24], c + [26, 44, 24])
    if box is None:
        return
    points = painter.at(box)
    cone = np.minimum(
        ellipsoid(points, c + [0, -2, 0], (18.5, 17, 17)), ellipsoid(points, c + [-side * 8, 18, 0], (13, 24, 13))
    )
    wall = np.maximum(np.abs(cone - 0.6) - 0.9, -(points[1] - c[1] + 8))
    painter.fill(box, wall, Tissue.CORTICAL_BONE, 91)
    painter.fill(box, cone, Tissue.FAT, 0)
    apex = c + [-side * 14, 36, 2]
    for dx, dz in ((0, 10), (0, -10), (10, 0), (-10, 0)):
        painter.tube(
            np.array([c + [dx, 0, dz], c + [dx * 0.8 - side * 6, 16, dz * 0.8], apex]), [2.0, 2.6, 1.4], Tissue.MUSCLE
        )
    painter.tube(np.array([c + [0, 6, 0], c + [-side * 8, 22, 0], apex]), 2.1, Tissue.WHITE_MATTER)
    eye = c + [0, -9, 0]
    painter.ellipsoid(eye, (12.4, 12.4, 12.4), Tissue.MUSCLE)
    painter.ellipsoid(eye, (11.2, 11.2, 11.2), Tissue.VITREOUS)
    painter.ellipsoid(eye - [0, 8.5, 0], (4.4, 2.2, 4.4), Tissue.CARTILAGE)


def _mouth(painter: Painter) -> None:
    rng = painter.rng
    painter.ellipsoid((0, -62, 560), (25, 36, 20), Tissue.MUSCLE, rough_mm=1.5)
    box = painter.box((-30, -100, 555), (30, -20, 590))
    if box is not None:
        gap = np.abs(ellipsoid(painter.at(box), (0, -62, 560), (25, 36, 20)) - 1) - rng.uniform(-0.6, 0.9)
        painter.fill(box, np.maximum(gap, 562 - painter.at(box)[2]), Tissue.GAS)
    metal = rng.random() < 0.35
    for height, length, label in ((571, 9.5, 91), (556, 9.0, MANDIBLE)):
        for k, angle in enumerate(np.deg2rad(np.linspace(-78, 78, 14))):
            if rng.random() < 0.1:
                continue
            scale = 1.0 if height > 560 else 0.94
            c = (27 * scale * np.sin(angle), -58 - 40 * scale * np.cos(angle), height)
            wide = 3.2 + 1.7 * abs(np.sin(angle))
            filling = metal and abs(np.sin(angle)) > 0.6 and rng.random() < 0.3
            painter.ellipsoid(c, (wide, wide, length), Tissue.METAL if filling else Tissue.TOOTH, label)
            if not filling:
                painter.ellipsoid(
                    (c[0], c[1], c[2] + (4 if height > 560 else -4)), (1.3, 1.3, length - 3), Tissue.MUCOSA, label
                )
            del k


def _mandible(painter: Painter) -> None:
    half = np.array([(0, -101, 544), (16, -97, 545), (29, -82, 547), (39, -62, 550), (46, -42, 556), (49, -33, 575),
                     (50, -24, 594), (51, -14, 610)])  # fmt: skip
    radii = np.array([8, 8, 8, 8, 7.5, 6.5, 5.5, 5.5])
    coronoid = np.array([(49, -36, 580), (50, -42, 600)])
    for side in (-1, 1):
        painter.tube(half * [side, 1, 1], radii, Tissue.RED_MARROW, MANDIBLE, cortex_mm=2.6, flatten=1.45)
        painter.tube(coronoid * [side, 1, 1], [5, 3], Tissue.RED_MARROW, MANDIBLE, cortex_mm=1.6, flatten=1.5)
