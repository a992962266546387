"""The trunk's layers: skin, subcutaneous fat, muscle wall, cavity; and the signed distances others build on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.painter import Painter
from sctlab.simulation.tissues import Tissue


@dataclass(frozen=True)
class Layers:
    """Signed distances (mm, negative inside) on the whole grid, float32, axes z, y, x."""

    skin: np.ndarray
    lean: np.ndarray
    cavity: np.ndarray  # inside the muscle wall, the ribs and in front of the spine


def _profile(painter: Painter, curve: Callable[[np.ndarray], np.ndarray], axis_z: np.ndarray) -> np.ndarray:
    """A curve of z as a float32 column that broadcasts over the grid's slices."""
    return curve(axis_z).astype(np.float32)[:, None, None]


def ring(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, power: float) -> np.ndarray:
    """Approximate distance in the plane to a superellipse with half axes a, b."""
    u, v = np.abs(x) / a, np.abs(y) / b
    rho = (u**power + v**power) ** np.float32(1 / power)
    # distance along the ray from the centre, shortened by the obliqueness of the surface
    radius = np.sqrt(x * x + y * y)
    return (rho - 1) / np.maximum(rho, 1e-3) * np.maximum(radius, 0.6 * np.minimum(a, b))


def paint_layers(painter: Painter, patient: Patient) -> Layers:
    """Paint skin, fat, muscle and the visceral fat inside; return the distances."""
    x, y, _ = painter.points
    z = painter.axes[2].astype(np.float64)
    a, b = _profile(painter, patient.half_width, z), _profile(painter, patient.half_depth, z)
    mid = _profile(painter, patient.mid_y, z)
    belly = (patient.belly_mm * np.exp(-(((z - 70) / 95) ** 2))).astype(np.float32)[:, None, None]
    hips = (0.7 * np.exp(-(((z + 130) / 70) ** 2))).astype(np.float32)[:, None, None]
    chest = (1 / (1 + np.exp(-(z - 330) / 30))).astype(np.float32)[:, None, None]

    dy = y - mid
    front = np.clip(-dy / b, 0, 1)
    squeeze = 1 + belly / b * front  # the belly pushes only the front half out
    lean = ring(x, dy / squeeze, a, b, 2.35)
    thighs = np.sqrt(((np.abs(x) - 0.52 * a) / 0.98) ** 2 + (dy * 0.95) ** 2) - 84 * patient.width
    below = (1 / (1 + np.exp((z + 215) / 9))).astype(np.float32)[:, None, None]
    lean = lean * (1 - below) + thighs * below

    back = np.clip(dy / b, 0, 1)
    side = np.clip(np.abs(x) / a, 0, 1)
    fat = patient.fat_mm * (0.75 + 0.45 * front + 0.55 * back * (1 - chest) + 0.25 * side + hips * (0.4 + back))
    fat = fat * (1 - 0.45 * chest)
    skin = lean - fat
    spine_y = _profile(painter, patient.spine_y, z)
    spine_x = _profile(painter, patient.spine_x, z)

    box = painter.everywhere
    painter.fill(box, skin, Tissue.SKIN)
    painter.fill(box, skin + 1.8, Tissue.FAT)
    _septa(painter, skin)
    painter.fill(box, lean, Tissue.MUSCLE)
    pelvic = (1 / (1 + np.exp((z - 5) / 18))).astype(np.float32)[:, None, None]
    thoracic = (1 / (1 + np.exp(-(z - 190) / 20))).astype(np.float32)[:, None, None]
    wall = 11 + 5 * thoracic + pelvic * (14 + 30 * side) + 3 * painter.noise(box, 30.0)
    shoulder = (np.clip((z - 340) / 90, 0, 1) ** 1.3 * 46).astype(np.float32)[:, None, None]
    cavity = np.maximum(lean + wall + shoulder * side, _behind_spine(x - spine_x, y - spine_y, thoracic))
    floor = (-(z + 118)).astype(np.float32)[:, None, None] + 0.25 * np.abs(x)
    cavity = np.maximum(cavity, floor)
    painter.fill(box, np.maximum(cavity, -1e3), Tissue.FAT)
    return Layers(skin, lean, cavity)


def _behind_spine(x: np.ndarray, y: np.ndarray, thoracic: np.ndarray) -> np.ndarray:
    """Distance to the back wall: flat behind the abdomen, bulging beside the spine in the chest."""
    gutters = np.clip((np.abs(x) - 22) / 30, 0, 1)
    depth = 4 + gutters * (14 + 36 * thoracic)
    return y - depth


def _septa(painter: Painter, skin: np.ndarray) -> None:
    """Fibrous strands in the subcutaneous fat: sheets where a noise field crosses zero."""
    box = painter.everywhere
    sheet = np.abs(painter.noise(box, 14.0)) * 14.0
    strands = (sheet < 0.9) & (skin < -3) & (painter.tissue == Tissue.FAT) & (painter.noise(box, 30.0) > 0.2)
    painter.hu[strands] += 55


def paint_back_muscles(painter: Painter, patient: Patient, lean: np.ndarray) -> None:
    """Erector spinae, psoas and gluteal muscles, with the fat planes between them."""
    low, high = float(painter.axes[2][0]) - 20, float(painter.axes[2][-1]) + 20
    _erectors(painter, patient, lean)
    for side, psoas in ((1, 88), (-1, 89)):
        z = np.array([158, 120, 80, 40, 5, -40, -85, -130, -165.0])
        offset = np.array([30, 34, 38, 44, 52, 66, 82, 92, 90.0]) * patient.width
        y = patient.spine_y(z) + np.array([8, 6, 5, 2, -4, -26, -66, -88, -70.0])
        radii = np.array([6, 11, 16, 19, 20, 19, 16, 14, 11.0]) * patient.depth
        keep = (z > low - 40) & (z < high + 40)
        if keep.sum() > 1:
            points = np.stack([patient.spine_x(z) + side * offset, y, z], 1)[keep]
            painter.tube(points, radii[keep] + 1.2, Tissue.FAT, 0)
            painter.tube(points, radii[keep], Tissue.MUSCLE, psoas)
    if low < 40:
        _gluteals(painter, patient)


def _erectors(painter: Painter, patient: Patient, lean: np.ndarray) -> None:
    """Two columns beside the spinous processes, flat and wide behind the loin, narrow behind the chest."""
    z = painter.axes[2].astype(np.float64)
    column = lambda values: np.asarray(values, np.float32)[:, None, None]  # noqa: E731 (a column of slices)
    chest = np.clip((z - 180) / 120, 0, 1)
    ends = np.clip(np.minimum((z + 95) / 70, (480 - z) / 60), 0.05, 1)
    back = np.minimum(patient.spine_y(z) + 45, patient.mid_y(z) + patient.half_depth(z) - 19 + 6 * chest)
    x, y, _ = painter.points
    for side, label in ((1, 86), (-1, 87)):
        u = (x - column(patient.spine_x(z)) - column(side * (33 - 7 * chest) * patient.width)) / column(
            (29 - 8 * chest) * ends
        )
        v = (y - column(back)) / column((21 - 6 * chest) * ends)
        distance = (np.sqrt(np.abs(u) ** 2.6 + np.abs(v) ** 2.6) ** (2 / 2.6) - 1) * column((21 - 6 * chest) * ends)
        distance = np.maximum(distance + 1.0 * painter.noise(painter.everywhere, 18.0), lean + 2.5)
        painter.fill(painter.everywhere, distance - 1.5, Tissue.FAT, 0)
        painter.fill(painter.everywhere, distance, Tissue.MUSCLE, label)


def _gluteals(painter: Painter, patient: Patient) -> None:
    w = patient.width
    for side, ids in ((1, (80, 82, 84)), (-1, (81, 83, 85))):
        for centre, radii, angle, label in (
            ((84, 74, -105), (58, 30, 78), 22, ids[0]),
            ((124, 14, -42), (20, 44, 52), 22, ids[1]),
            ((112, -2, -62), (11, 32, 36), 22, ids[2]),
        ):
            c = (side * centre[0] * w, centre[1] * patient.depth, centre[2])
            painter.ellipsoid(c, np.add(radii, 1.6), Tissue.FAT, 0, angles=(0, 0, -side * angle), rough_mm=1.0)
            painter.ellipsoid(c, radii, Tissue.MUSCLE, label, angles=(0, 0, -side * angle), rough_mm=1.0)
        for centre, radii in (
            ((100, -58, -205), (34, 24, 70)),
            ((62, -8, -240), (34, 40, 80)),
            ((95, 55, -250), (36, 28, 80)),
            ((140, -4, -215), (16, 46, 60)),
        ):
            c = (side * centre[0] * w, centre[1], centre[2])
            painter.ellipsoid(c, np.add(radii, 1.3), Tissue.FAT, 0, rough_mm=1.0)
            painter.ellipsoid(c, radii, Tissue.MUSCLE, 0, rough_mm=1.0)
