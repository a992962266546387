"""Ribs, costal cartilage, sternum, clavicles, scapulae, upper humeri."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import THORACIC, Patient
from sctlab.simulation.painter import Painter
from sctlab.simulation.tissues import Tissue


def rib_curve(patient: Patient, z_spine: float, number: int, side: int) -> np.ndarray:
    """Centre line of a rib from its vertebra to its front end, [n, 3] points x, y, z (mm)."""
    reach = {1: 0.72, 2: 0.80, 11: 0.60, 12: 0.42}.get(number, 0.93 if number <= 7 else 0.86 - 0.03 * (number - 7))
    t = np.linspace(0, 1, 22)
    angle = np.deg2rad(12 + 158 * t * reach)  # 0 at the spine (posterior), 180 at the sternum
    drop = np.interp(number, [1, 3, 8, 10, 12], [28, 52, 92, 84, 58])
    z = z_spine + 6 - drop * t**1.05
    inset = np.interp(number, [1, 2, 3, 4, 10, 12], [44, 24, 13, 9, 8, 10])
    a = patient.half_width(z) - inset
    b = patient.half_depth(z) - 10 - (8 if number <= 2 else 0)
    x = side * a * np.abs(np.sin(angle)) ** 0.85
    y = patient.mid_y(z) + b * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.85
    blend = np.clip(t / 0.16, 0, 1)[:, None]
    start = np.array([patient.spine_x(z_spine) + side * 17, patient.spine_y(z_spine) + 16, z_spine + 6])
    return start * (1 - blend) + np.stack([x, y, z], 1) * blend


def paint_chest_wall(painter: Painter, patient: Patient) -> None:
    """Ribs with intercostal fat planes, cartilage to the sternum, shoulder girdle."""
    top, bottom = float(painter.axes[2][-1]), float(painter.axes[2][0])
    if top < 60:
        return
    sternum = _sternum_line(patient)
    heights = [z for _, z in THORACIC][::-1]  # rib 1 first
    for number, z in enumerate(heights, start=1):
        for side, first in ((1, 92), (-1, 104)):
            if z < bottom - 20 or z - 120 > top:
                continue
            points = rib_curve(patient, z, number, side)
            painter.tube(points, 4.4, Tissue.RED_MARROW, first + number - 1, cortex_mm=1.3, flatten=1.35)
            if number <= 10:
                _cartilage(painter, points[-1], sternum, number, side)
    painter.tube(sternum, [9, 11, 9, 9, 9, 7], Tissue.RED_MARROW, 116, cortex_mm=1.2)
    if top > 330:
        _shoulder(painter, patient)


def _sternum_line(patient: Patient) -> np.ndarray:
    z = np.array([395, 372, 345, 312, 280, 255.0])
    y = patient.mid_y(z) - patient.half_depth(z) + 17
    return np.stack([np.zeros_like(z), y, z], 1)


def _cartilage(painter: Painter, end: np.ndarray, sternum: np.ndarray, number: int, side: int) -> None:
    target_z = np.interp(number, [1, 7, 10], [380, 266, 236])
    target = np.array([side * (13 if number <= 7 else 30 + 9 * (number - 7)),
                       np.interp(target_z, sternum[::-1, 2], sternum[::-1, 1]), target_z])  # fmt: skip
    middle = (end + target) / 2 - np.array([0, 4, 10])
    painter.tube(np.stack([end, middle, target]), 4.6, Tissue.CARTILAGE, 117)


def _shoulder(painter: Painter, patient: Patient) -> None:
    """Clavicles, scapulae and humeral heads (arms raised: RT planning position of the trunk)."""
    w = patient.width
    for side, clavicle, scapula, humerus in ((1, 73, 71, 69), (-1, 74, 72, 70)):
        front = float(patient.mid_y(400) - patient.half_depth(400))
        points = np.array(
            [[14, front + 14, 398], [50, front + 12, 414], [95, front + 42, 432], [112 * w, front + 66, 440]]
        )
        points[:, 0] *= side
        painter.tube(points, 6.2, Tissue.RED_MARROW, clavicle, cortex_mm=1.6)
        back = patient.mid_y(np.array([420, 380, 330.0])) + patient.half_depth(np.array([420, 380, 330.0]))
        blade = np.array(
            [
                [side * 108 * w, back[0] - 36, 424],
                [side * 94 * w, back[1] - 20, 385],
                [side * 84 * w, back[2] - 15, 318],
            ]
        )
        painter.tube(blade, [8, 4.2, 3.6], Tissue.RED_MARROW, scapula, cortex_mm=1.6, flatten=1.6)
        medial = np.array(
            [
                [side * 108 * w, back[0] - 36, 424],
                [side * 74 * w, back[1] - 14, 400],
                [side * 70 * w, back[2] - 12, 345],
            ]
        )
        painter.tube(medial, [6, 3.4, 3.2], Tissue.RED_MARROW, scapula, cortex_mm=1.5, flatten=1.6)
        painter.ellipsoid((side * 127 * w, back[0] - 46, 436), (24, 23, 24), Tissue.CORTICAL_BONE, humerus)
        painter.ellipsoid((side * 127 * w, back[0] - 46, 436), (22.3, 21.3, 22.3), Tissue.YELLOW_MARROW, humerus)
