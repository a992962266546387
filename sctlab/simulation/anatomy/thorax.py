"""Lungs with vessels, airways, heart, great vessels, oesophagus."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sctlab.simulation.anatomy.abdomen import diaphragm
from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.anatomy.torso import Layers
from sctlab.simulation.painter import Box, Painter, ellipsoid
from sctlab.simulation.tissues import Tissue

HEART_CENTRE = np.array([20.0, -26.0, 262.0])


def paint_thorax(painter: Painter, patient: Patient, layers: Layers) -> None:
    """Everything above the diaphragm."""
    if painter.axes[2][-1] < 140:
        return
    w, d = patient.width, patient.depth
    centre = HEART_CENTRE * [w, d, 1] - [0, 0, 16 * patient.inspiration]
    box = painter.box((-200, -170, 120), (200, 170, 470))
    if box is None:
        return
    x, y, z = points = painter.at(box)
    heart = ellipsoid(points, centre, (62 * w, 48 * d, 56), (0, 35, 0))
    spine = _line(painter, patient.spine_y)[box[0]]
    column = np.abs(x + 2) - (25 + 8 * np.clip((z - 330) / 60, 0, 1)) * w
    column = np.maximum(column, -(y - _line(painter, patient.mid_y)[box[0]] + 92 * d))
    vertebra = np.sqrt(((x - _line(painter, patient.spine_x)[box[0]]) / 1.15) ** 2 + (y - spine - 6) ** 2) - 24
    front = np.maximum(column, y - spine + 6)
    mediastinum = np.minimum.reduce([heart - 6, front, vertebra])
    lungs = np.maximum.reduce([layers.cavity[box] + 2.5, diaphragm(patient, x, y) - z, -mediastinum])
    apex = z - 452 + 0.012 * (np.abs(x) - 48) ** 2 + 0.004 * (y - 30) ** 2
    lungs = np.maximum(lungs, apex) + 1.0 * painter.noise(box, 18.0)
    gravity = (np.clip((y - 20) / 80, -1, 1) * 28).astype(np.float32)
    value = painter.hu_of[Tissue.LUNG] + gravity + 45 * (0.5 - patient.inspiration)
    painter.fill(box, lungs, Tissue.LUNG, hu=value)
    inside = (lungs < 0) & (painter.tissue[box] == Tissue.LUNG)
    oblique = z - (300 - 0.9 * (y - 10))
    label = np.where(x > 0, np.where(oblique > 0, 10, 11), np.where(oblique < 0, 14, np.where(z < 290, 13, 12)))
    painter.label[box][inside] = label[inside]
    fissure = inside & (np.abs(oblique) < 0.8)
    painter.hu[box][fissure] += 90
    _lung_vessels(painter, patient, box, inside)
    _heart(painter, patient, centre)
    _airways(painter, patient)


def _line(painter: Painter, curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return curve(painter.axes[2].astype(np.float64)).astype(np.float32)[:, None, None]


def _lung_vessels(painter: Painter, patient: Patient, box: Box, inside: np.ndarray) -> None:
    rng, w = painter.rng, patient.width
    before_hu, before_tissue = painter.hu[box].copy(), painter.tissue[box].copy()
    for side in (-1, 1):
        hilum = np.array([side * 34 * w, float(patient.spine_y(320)) - 34, 318.0])
        for _ in range(9):
            trunk = hilum + np.array([side * rng.uniform(14, 32), rng.normal(0, 26), rng.uniform(-60, 60)])
            for _ in range(6):
                end = trunk + rng.normal(0, 1, 3) * [30, 34, 36] + [side * 22, 0, 0] + 0.35 * (trunk - hilum)
                middle = (trunk + end) / 2 + rng.normal(0, 5, 3)
                painter.tube(np.stack([hilum, trunk, middle, end]), [4.6, 2.9, 1.8, 0.8], Tissue.BLOOD)
    outside = ~inside
    painter.hu[box][outside] = before_hu[outside]
    painter.tissue[box][outside] = before_tissue[outside]


def _heart(painter: Painter, patient: Patient, c: np.ndarray) -> None:
    w, d = patient.width, patient.depth
    angles = (0, 35, 0)
    painter.ellipsoid(c, (57 * w, 44 * d, 51), Tissue.HEART, 51, angles=angles, rough_mm=1.2)
    painter.ellipsoid(c + [18, 8, -8], (25, 20, 30), Tissue.BLOOD, 51, angles=(0, 40, 0), rough_mm=1.2)
    painter.ellipsoid(c + [-10, -18, -6], (26, 17, 30), Tissue.BLOOD, 51, angles=(0, 30, 0), rough_mm=1.2)
    painter.ellipsoid(c + [-34, -2, 8], (19, 22, 25), Tissue.BLOOD, 51, rough_mm=1.2)
    painter.ellipsoid(c + [0, 28, 24], (29, 16, 19), Tissue.BLOOD, 51, rough_mm=1.2)
    painter.ellipsoid(c + [30, -30, 12], (9, 6, 22), Tissue.FAT, 0, angles=(0, 35, 0), rough_mm=2.0)
    spine = lambda z: float(patient.spine_y(z))  # noqa: E731 (a local shorthand)
    ascending = np.array([c + [-6, -4, 30], [-12, c[1] - 2, 322], [-8, spine(360) - 62, 356], [2, spine(370) - 44, 370],
                          [12, spine(366) - 26, 364], [17, spine(346) - 14, 344], [17, spine(320) - 10, 318]])  # fmt: skip
    painter.tube(ascending, [14, 15, 14, 12.5, 12, 11, 10.5], Tissue.BLOOD, 52, wall=(1.4, Tissue.MUSCLE))
    painter.tube(
        np.array([c + [6, -20, 28], [16, c[1] - 8, 318], [8, spine(332) - 46, 332]]), [12, 13, 12], Tissue.BLOOD
    )
    for side in (-1, 1):
        painter.tube(
            np.array([[8, spine(332) - 46, 332], [side * 36 * w, spine(325) - 34, 322]]), [11, 8], Tissue.BLOOD
        )
    painter.tube(
        np.array([c + [-36, -2, 26], [-26, c[1] + 4, 340], [-24, c[1] + 4, 392]]), [10, 9.5, 9], Tissue.BLOOD, 62
    )
    for label, path in (
        (54, [[-2, spine(372) - 52, 372], [-18, spine(410) - 44, 412]]),
        (58, [[6, spine(374) - 44, 374], [20, spine(430) - 36, 440], [26, spine(460) - 34, 470]]),
        (57, [[-18, spine(410) - 44, 412], [-26, spine(460) - 34, 470]]),
        (56, [[14, spine(370) - 32, 370], [30, spine(420) - 30, 420], [80 * w, spine(440) - 30, 446]]),
        (55, [[-18, spine(410) - 44, 412], [-80 * w, spine(440) - 30, 446]]),
        (59, [[-22, c[1] + 2, 390], [10, spine(400) - 66, 398], [34, spine(430) - 54, 430]]),
        (60, [[-24, c[1] + 4, 390], [-36, spine(430) - 54, 432]]),
    ):
        painter.tube(np.array(path, dtype=float), 5.5 if label in (54, 59, 60) else 4.0, Tissue.BLOOD, label)


def _airways(painter: Painter, patient: Patient) -> None:
    spine = lambda z: float(patient.spine_y(z))  # noqa: E731 (a local shorthand)
    z = np.array([338, 370, 400, 430, 470.0])
    trachea = np.stack([np.array([-1, -2, -2, 0, 0.0]), patient.spine_y(z) - 32, z], 1)
    painter.tube(trachea, 8.6, Tissue.GAS, 16, wall=(1.6, Tissue.MUCOSA))
    for side in (-1, 1):
        bronchus = np.array(
            [[-1, spine(340) - 32, 342], [side * 20, spine(330) - 30, 326], [side * 40, spine(318) - 26, 312]]
        )
        painter.tube(bronchus, [7.5, 6.2, 4.5], Tissue.GAS, None, wall=(1.3, Tissue.MUCOSA))
        for dz, dy in ((16, -10), (-22, 12), (-10, -20)):
            painter.tube(
                np.array([bronchus[-1], bronchus[-1] + [side * 18, dy, dz]]),
                [3.6, 2.2],
                Tissue.GAS,
                None,
                wall=(1.0, Tissue.MUCOSA),
            )
    z = np.arange(238, 480.0, 16)
    oesophagus = np.stack(
        [10 - 6 * np.clip((z - 240) / 80, 0, 1), patient.spine_y(z) - 19 - 6 * np.clip((300 - z) / 60, 0, 1), z], 1
    )
    painter.tube(oesophagus, 6.2, Tissue.MUSCLE, 15)
    if painter.rng.random() < 0.4:
        painter.tube(oesophagus[6:], 2.4, Tissue.GAS, 15)
