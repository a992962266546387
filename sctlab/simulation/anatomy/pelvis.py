"""Hip bones and proximal femora."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.painter import Painter, capsule, ellipsoid
from sctlab.simulation.tissues import Tissue


def paint_pelvis(painter: Painter, patient: Patient) -> None:
    """Iliac wings as parts of a bowl, acetabula, pubic and ischial rami, symphysis; femoral head, neck, shaft."""
    if painter.axes[2][0] > 50:
        return
    w, d = patient.width, patient.depth
    prosthesis = painter.rng.choice([0, 1, -1], p=[0.94, 0.03, 0.03])
    for side, hip, femur in ((1, 77, 75), (-1, 78, 76)):
        head = np.array([88 * w, -6 * d, -112.0])
        box = painter.box((-30 if side > 0 else -165 * w, -95, -215), (165 * w if side > 0 else 30, 105, 60))
        if box is None:
            continue
        px, y, z = painter.at(box)
        x = px * side
        points = (x, y, z)
        # the wing: a shell of a bowl that opens upwards, between the sacroiliac joint and the iliac spine
        bowl = ellipsoid(points, (8 * w, 0, 46), (134 * w, 104 * d, 142), (0, 0, -14))
        thickness = (
            4.0
            + 3.5 * np.exp(-(((z - 34) / 12) ** 2))
            + 5 * np.clip((y - 30) / 30, 0, 1)
            + 6 * np.clip((-55 - z) / 20, 0, 1)
        )
        wing = np.abs(bowl) - thickness
        crest = 42 - 0.0085 * (y - 4) ** 2
        wing = np.maximum.reduce([wing, z - crest, -82 - z, 34 * w - x, -62 - y + 0.25 * (z + 40), y - 74 - 0.1 * z])
        joint = ellipsoid(points, (50 * w, 62 * d, -28), (13, 17, 34))
        socket = np.maximum(
            ellipsoid(points, head, (33, 33, 33)), -ellipsoid(points, head + [9, -2, -6], (27.5, 27.5, 27.5))
        )
        socket = np.maximum(socket, x - head[0] - 20)
        roof = ellipsoid(points, head + [4, 2, 30], (22, 20, 18))
        pubis = capsule(points, head + [-18, -20, -4], np.array([11, -66 * d, -132]), 9.5, 8.5, 1.2)
        symphysis = capsule(points, np.array([10, -66 * d, -132]), np.array([9, -60 * d, -156]), 8, 6.5)
        ischium = capsule(points, head + [-12, 26, -14], np.array([58 * w, 32 * d, -172]), 13, 12)
        ramus = capsule(points, np.array([56 * w, 28 * d, -178]), np.array([11, -56 * d, -156]), 7.5, 6)
        column = capsule(points, head + [-22, 8, 22], head + [-20, 18, -20], 12, 11)
        distance = np.minimum.reduce([wing, joint, socket, roof, pubis, symphysis, ischium, ramus, column])
        distance = np.maximum(distance, -ellipsoid(points, head, (26.2, 26.2, 26.2)))
        distance = np.maximum(distance, 2.6 - x) + 0.8 * painter.noise(box, 9.0)
        marrow = painter.hu_of[Tissue.RED_MARROW] * patient.spongy
        painter.fill(box, distance, Tissue.CORTICAL_BONE, hip)
        inside = distance + 1.7 * np.maximum(0.4, 1 + 0.3 * painter.noise(box, 6.0))
        painter.fill(box, inside, Tissue.RED_MARROW, hip, hu=marrow * 0.8)
        _femur(painter, patient, side, head, femur)
        if side == prosthesis:
            stem = np.array([head, head + [30 * w, 4, -22], head + [36 * w, 8, -60], head + [32 * w, 6, -150]]) * [
                side,
                1,
                1,
            ]
            painter.ellipsoid(stem[0], (16, 16, 16), Tissue.METAL, femur)
            painter.tube(stem, [7, 8, 7.5, 5], Tissue.METAL, femur)
    painter.ellipsoid((0, -65 * d, -142), (4, 8, 15), Tissue.CARTILAGE, 0)


def _femur(painter: Painter, patient: Patient, side: int, head: np.ndarray, label: int) -> None:
    w = patient.width
    box = painter.box((20 if side > 0 else -175 * w, -70, -420), (175 * w if side > 0 else -20, 80, -75))
    if box is None:
        return
    px, y, z = painter.at(box)
    points = (px * side, y, z)
    neck_end = head + np.array([34 * w, 4, -20])
    trochanter = head + np.array([48 * w, 12, -22])
    knee = head + np.array([20 * w, 0, -330])
    shapes = [
        ellipsoid(points, head, (24, 24, 24)),
        capsule(points, head, neck_end, 16, 15),
        ellipsoid(points, trochanter, (15, 19, 22)),
        capsule(points, neck_end + [4, 4, -6], neck_end + [2, 6, -60], 20, 15.5),
        capsule(points, neck_end + [2, 6, -60], knee, 15.5, 14),
        ellipsoid(points, neck_end + [-14, 14, -44], (9, 9, 11)),
    ]
    distance = np.minimum.reduce(shapes) + 0.6 * painter.noise(box, 9.0)
    shaft = np.clip((head[2] - 60 - z) / 40, 0, 1)  # the shaft's cortex is thick
    painter.fill(box, np.minimum(distance - 1.2, shapes[0] - 2.2), Tissue.CARTILAGE, 0)
    painter.fill(box, distance, Tissue.CORTICAL_BONE, label)
    value = painter.hu_of[Tissue.YELLOW_MARROW] + 190 * patient.spongy * (1 - shaft) * (
        0.7 + 0.5 * np.exp(-(((shapes[0] + 12) / 12) ** 2))
    )
    painter.fill(box, distance + 1.3 + 4.5 * shaft, Tissue.YELLOW_MARROW, label, hu=value)
