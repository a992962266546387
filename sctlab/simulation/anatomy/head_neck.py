"""Head and neck on the shoulders of the trunk: outline, cervical spine, muscles, glands, vessels, airway."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.chest_wall import paint_chest_wall
from sctlab.simulation.anatomy.face import paint_face
from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.anatomy.skull import paint_skull_and_brain
from sctlab.simulation.anatomy.spine import paint_spine, paint_vertebra
from sctlab.simulation.anatomy.thorax import paint_thorax
from sctlab.simulation.anatomy.torso import paint_back_muscles, paint_layers
from sctlab.simulation.painter import Painter, Points, capsule, ellipsoid
from sctlab.simulation.tissues import Tissue

# TotalSegmentator id and height (mm) of the cervical vertebrae, C7 to C1
CERVICAL = [(44, 478.0), (45, 497.0), (46, 515.0), (47, 533.0), (48, 551.0), (49, 570.0), (50, 591.0)]

# Compact bone of the skull relative to that of trunk and limbs. The voxels above 250 HU of four simulated heads then
# have a 95th percentile of 1170 to 1460 HU at 1x1x3 mm and a mean of 540 to 650 HU at 4 mm; those of a real head CT
# (head_ct_dicom) have 1350 and 650 HU.
DENSE_SKULL = 1.2


def paint_head_and_neck(painter: Painter, patient: Patient) -> np.ndarray:
    """Paint everything from the shoulders up; returns the signed distance to the skin."""
    layers = paint_layers(painter, patient)
    box = painter.everywhere
    head = _head_outline(painter)
    trunk = layers.skin + 0.9 * np.clip(painter.points[2] - 562, 0, None)  # the neck's end inside the head
    skin = _smooth_minimum(trunk, head, 16)
    fat = 2.5 + 0.12 * patient.fat_mm + 0.8 * painter.noise(box, 30.0)
    cheeks = 5 * np.exp(-(((painter.points[2] - 575) / 28) ** 2)) * np.clip(-painter.points[1] / 60, 0, 1)
    upper = painter.points[2] > 525
    for distance, tissue in ((skin, Tissue.SKIN), (skin + 1.8, Tissue.FAT), (skin + 1.8 + fat + cheeks, Tissue.MUSCLE)):
        painter.fill(box, np.where(upper, distance, 99), tissue)
    ears = painter.box(*_EARS)
    if ears is not None:
        painter.fill(ears, np.maximum(_ears(painter.at(ears)) + 1.6, skin[ears] + 1.2), Tissue.CARTILAGE)
    paint_thorax(painter, patient, layers)
    paint_back_muscles(painter, patient, layers.lean)
    _deep_fat(painter, skin)
    _muscles(painter, patient)
    _glands_and_vessels(painter, patient)
    paint_chest_wall(painter, patient)
    paint_spine(painter, patient)
    _cervical_spine(painter, patient)
    painter.hu_of[Tissue.CORTICAL_BONE] *= DENSE_SKULL
    paint_skull_and_brain(painter, patient)
    paint_face(painter, patient)
    _airway(painter, patient)
    return skin


def _head_outline(painter: Painter) -> np.ndarray:
    points = painter.points
    x, y, z = points
    cranium = ellipsoid(points, (0, -10, 668), (77, 98, 92))
    face = ellipsoid(points, (0, -50, 604), (64, 64, 74))
    chin = ellipsoid(points, (0, -68, 557), (52, 51, 40))
    neck = ellipsoid(points, (0, 18, 560), (60, 56, 90))
    result = _smooth_minimum(_smooth_minimum(cranium, face, 14), _smooth_minimum(chin, neck, 14), 14)
    nose = capsule((x, y, z), np.array([0, -106, 628.0]), np.array([0, -124, 600.0]), 6, 11)
    result = _smooth_minimum(result, nose, 7)
    root = capsule((np.abs(x), y, z), np.array([55, 2, 606.0]), np.array([63, 2, 636.0]), 12, 11)  # holds the ears on
    result = _smooth_minimum(result, root, 6)
    box = painter.box(*_EARS)
    if box is not None:
        result[box] = _smooth_minimum(result[box], _ears(painter.at(box)), 4)
    return result


_EARS = ((-105, -30, 585), (105, 45, 663))


def _ears(points: Points) -> np.ndarray:
    """Distance to the ears: shells that lie against the head in front and stand off behind."""
    x, y, z = points
    side = (np.abs(x), y, z)
    shell = ellipsoid(side, (73, 6, 625), (5.5, 16, 27), (-12, 6, -24))
    hollow = ellipsoid(side, (79, 2, 625), (5, 9, 15), (-12, 6, -24))  # the concha
    return np.maximum(shell, -hollow)


def _smooth_minimum(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Union of two distances with a fillet (polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / width_mm, 0, 1)
    return b + (a - b) * h - width_mm * h * (1 - h)


def _deep_fat(painter: Painter, skin: np.ndarray) -> None:
    """Fat between the deep structures of face and neck: parapharyngeal and buccal spaces."""
    box = painter.everywhere
    _, _, z = painter.points
    deep = np.maximum.reduce([skin + 22, np.abs(z - 575) - 48]) + 3 + 8 * painter.noise(box, 18.0)
    painter.fill(box, deep, Tissue.FAT)


def _muscles(painter: Painter, patient: Patient) -> None:
    def y(z: float, offset: float) -> float:
        return float(patient.spine_y(z)) + offset

    for side in (-1, 1):
        bundles = (
            ([(60, 10, 602), (46, y(550, -6), 550), (24, y(480, -44), 478)], [9, 11, 8]),  # sternocleidomastoid
            ([(14, 50, 612), (17, y(550, 36), 550), (18, y(480, 36), 480)], [10, 14, 13]),  # semispinalis
            ([(30, 44, 608), (34, y(550, 34), 550), (36, y(480, 34), 480)], [9, 10, 10]),  # splenius
            ([(28, y(590, 8), 590), (36, y(540, 10), 540), (42, y(480, 16), 480)], [7, 9, 11]),  # levator scapulae
            ([(22, y(560, -2), 560), (30, y(510, -4), 510), (46, y(455, -2), 455)], [5, 8, 9]),  # scalenes
            ([(9, y(600, -14), 600), (11, y(540, -13), 540), (11, y(470, -15), 470)], [5, 6, 6]),  # longus colli
            ([(10, 62, 590), (40, y(540, 46), 540), (92, y(470, 36), 468)], [7, 9, 10]),  # trapezius
            ([(56, -44, 602), (54, -46, 580), (50, -44, 556)], [8, 10, 8]),  # masseter
            ([(34, -34, 606), (40, -34, 586), (44, -34, 566)], [8, 9, 7]),  # pterygoids
            ([(6, -24, 545), (8, -26, 510), (10, -38, 470)], [3, 4, 4]),  # infrahyoid straps
            ([(16, -88, 556), (14, -52, 548), (6, -28, 546)], [8, 9, 5]),  # floor of the mouth
        )
        for path, radii in bundles:
            points = np.array(path, dtype=float) * [side, 1, 1]
            # rougher inside than outside: the fat between muscles is thick here and gone there, and no cross-section is round
            painter.tube(points, np.array(radii) + 2.0, Tissue.FAT, rough_mm=2.0)
            painter.tube(points, np.array(radii) + 1.0, Tissue.MUSCLE, rough_mm=3.2)
        painter.ellipsoid((side * 67, -30, 634), (8, 32, 30), Tissue.MUSCLE, rough_mm=1.0)  # temporalis


def _glands_and_vessels(painter: Painter, patient: Patient) -> None:
    def y(z: float, offset: float) -> float:
        return float(patient.spine_y(z)) + offset

    for side, carotid in ((1, 58), (-1, 57)):
        painter.ellipsoid((side * 55, -14, 590), (13, 19, 25), Tissue.GLAND, rough_mm=2.0)
        painter.ellipsoid((side * 29, -44, 550), (11, 16, 13), Tissue.GLAND, rough_mm=1.5)
        painter.ellipsoid((side * 17, y(490, -26), 492), (9.5, 11, 24), Tissue.THYROID, 17, rough_mm=1.2)
        artery = np.array([(20, y(470, -24), 462), (25, y(500, -20), 500), (28, y(540, -18), 540)]) * [side, 1, 1]
        painter.tube(artery, 3.8, Tissue.BLOOD, carotid)
        internal = np.array([artery[-1] * [side, 1, 1], (27, -4, 575), (24, -14, 612)]) * [side, 1, 1]
        painter.tube(internal, [4.2, 3, 2.8], Tissue.BLOOD)
        vein = np.array([(29, y(465, -22), 462), (36, y(510, -18), 510), (37, y(560, -14), 560), (30, 6, 604)])
        painter.tube(vein * [side, 1, 1], [7, 6, 5, 4.5], Tissue.BLOOD)
        vertebral = np.array([(15, y(500, 0), 480), (15, y(550, 0), 550), (16, y(590, 4), 596)]) * [side, 1, 1]
        painter.tube(vertebral, 2.0, Tissue.BLOOD)
        for _ in range(7):  # lymph nodes
            c = (side * painter.rng.uniform(28, 48), painter.rng.uniform(-20, 14), painter.rng.uniform(490, 575))
            painter.ellipsoid(c, painter.rng.uniform(2.5, 5, 3), Tissue.GLAND)
    painter.ellipsoid((0, y(490, -38), 484), (12, 4, 9), Tissue.THYROID, 17)


def _cervical_spine(painter: Painter, patient: Patient) -> None:
    for i, (label, z) in enumerate(CERVICAL):
        pitch = (CERVICAL[i + 1][1] if i + 1 < len(CERVICAL) else 610.0) - z
        atlas = label == 50
        centre = (float(patient.spine_x(z)) * 0.3, float(patient.spine_y(z)), z)
        paint_vertebra(
            painter,
            centre,
            label,
            half_width=6 if atlas else 12,
            half_depth=4 if atlas else 8.5,
            half_height=pitch * 0.39,
            tilt=patient.spine_tilt(z),
            pitch=pitch,
            transverse_mm=30 if atlas else 19,
            spinous_mm=6 if atlas else 14 + 2 * (label == 44) * 5,
            spinous_drop=7,
            spongy=patient.spongy * 1.5,
            disc=label not in (49, 50),
        )
    y = float(patient.spine_y(580))
    painter.tube(np.array([[0, y, 572], [0, y - 2, 598]]), [6, 4.5], Tissue.RED_MARROW, 49, cortex_mm=1.6)
    for side in (-1, 1):
        painter.ellipsoid((side * 19, y + 6, 592), (8, 9, 8), Tissue.CORTICAL_BONE, 50)
        painter.ellipsoid((side * 19, y + 6, 592), (6.4, 7.4, 6.4), Tissue.RED_MARROW, 50)
    heights_mm = np.arange(470, 612.0, 9)
    points = np.stack([0 * heights_mm, patient.spine_y(heights_mm) + 16.5, heights_mm], 1)
    painter.tube(points, 7.6, Tissue.CSF, 79)
    painter.tube(points, 5.0, Tissue.CORD, 79)


def _airway(painter: Painter, patient: Patient) -> None:
    """Naso-, oro- and hypopharynx, larynx with its cartilages and the hyoid, upper trachea, oesophagus."""
    rng = painter.rng
    wide = rng.uniform(0.8, 1.2)
    path = np.array(
        [
            (0, -38, 606),
            (0, -28, 592),
            (0, -17, 570),
            (0, -12, 548),
            (0, -15, 528),
            (0, -16, 514),
            (0, -11, 496),
            (0, -3, 470),
            (0, 4, 440.0),
        ]
    )
    shift = np.interp(
        path[:, 2], [440, 520, 600], [float(patient.spine_y(z)) - b for z, b in ((440, 39), (520, 18), (600, 12))]
    )
    path[:, 1] += shift
    radii = np.array([11, 10, 10, 11, 9, 5, 8, 8.5, 8.5]) * wide
    painter.tube(path, radii, Tissue.GAS, None, wall=(2.6, Tissue.MUCOSA))
    trachea = path[:, 2] < 505
    painter.tube(path[trachea], radii[trachea], Tissue.GAS, 16)
    c = path[5]
    box = painter.box(c - 36, c + 36)
    if box is not None:
        points = x, y, z = painter.at(box)
        shell = np.abs(ellipsoid(points, c + [0, 1, 4], (17, 17, 24)) + 1) - 1.3
        shell = np.maximum.reduce([shell, y - c[1] - 2, np.abs(z - c[2] - 3) - 13])
        ring = np.maximum(np.abs(np.sqrt((x - c[0]) ** 2 + (y - c[1] - 4) ** 2) - 12) - 1.6, np.abs(z - c[2] + 16) - 5)
        hu = painter.hu_of[Tissue.CARTILAGE] + 260 * np.clip(painter.noise(box, 3.0), 0, 2)
        painter.fill(box, np.minimum(shell, ring), Tissue.CARTILAGE, hu=hu)
        folds = np.maximum(np.abs(np.abs(x) - 5) - 3.2, np.sqrt((y - c[1]) ** 2 + (z - c[2] + 1) ** 2) - 8)
        painter.fill(box, folds, Tissue.MUSCLE)
    h = path[3]
    hyoid = np.array([h + [-20, 2, 0], h + [-15, -14, -2], h + [0, -22, -4], h + [15, -14, -2], h + [20, 2, 0]])
    painter.tube(hyoid, [2, 2.8, 3.6, 2.8, 2], Tissue.RED_MARROW, cortex_mm=1.2)
    oesophagus = np.array([(2, float(patient.spine_y(500)) - 15, 500), (5, float(patient.spine_y(450)) - 18, 450)])
    painter.tube(oesophagus, 6, Tissue.MUSCLE, 15)
