"""Abdominal and pelvic organs: solid organs, vessels, stomach and bowel with gas, bladder."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.anatomy.torso import Layers
from sctlab.simulation.painter import Painter, ellipsoid
from sctlab.simulation.tissues import Tissue


def diaphragm(patient: Patient, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Height z of the diaphragm at (x, y), mm: two domes that sink with inspiration."""
    sink = 26 * patient.inspiration
    heights = []
    for side, apex in ((-1, 272), (1, 262)):
        r2 = ((x - side * 62 * patient.width) / (84 * patient.width)) ** 2 + ((y - 2) / (98 * patient.depth)) ** 2
        heights.append(148 + (apex - sink - 148) * (1 - np.clip(r2, 0, 1.6)))
    centre = 238 - sink - 0.010 * (x * x) - 0.012 * np.clip(y, 0, None) ** 2
    return np.maximum(np.maximum(*heights), centre)


def paint_abdomen(painter: Painter, patient: Patient, layers: Layers) -> None:
    """Everything below the diaphragm."""
    if painter.axes[2][0] > 280:
        return
    _bowel(painter, patient)
    _retroperitoneum(painter, patient)
    _solid_organs(painter, patient, layers)
    _stomach(painter, patient)
    _pelvis(painter, patient)


def _solid_organs(painter: Painter, patient: Patient, layers: Layers) -> None:
    w, d = patient.width, patient.depth
    box = painter.box((-165, -150, 70), (120, 110, 285))
    if box is not None:
        x, y, z = points = painter.at(box)
        right = ellipsoid(points, (-66 * w, 4, 178), (92 * w, 98 * d, 84), (0, 12, 0))
        left = ellipsoid(points, (22 * w, -46 * d, 206), (66 * w, 40 * d, 32), (0, -12, 0))
        blend = np.clip(0.5 + (right - left) / 30, 0, 1)
        liver = right * (1 - blend) + left * blend - 15 * blend * (1 - blend)
        liver = liver + 2.0 * painter.noise(box, 9.0)
        liver = np.maximum.reduce([liver, layers.cavity[box] + 3.5, z - diaphragm(patient, x, y) + 4])
        hilum = ellipsoid(points, (-24 * w, -6, 150), (26, 30, 34))
        liver = np.maximum(liver, -hilum)
        painter.fill(box, liver, Tissue.LIVER, 5)
        inside = painter.tissue == Tissue.LIVER
        _liver_vessels(painter, patient, inside)
        spleen = ellipsoid(points, (104 * w, 48 * d, 196), (27, 46, 52), (12, 0, -28)) + 1.5 * painter.noise(box, 9.0)
        spleen = np.maximum(spleen, -ellipsoid(points, (74 * w, 26 * d, 196), (26, 40, 38)))
        spleen = np.maximum.reduce([spleen, layers.cavity[box] + 4, z - diaphragm(patient, x, y) + 4])
        painter.fill(box, spleen, Tissue.SPLEEN, 1)
    painter.ellipsoid((-50 * w, -52 * d, 122), (15, 19, 30), Tissue.MUCOSA, 4, angles=(30, 0, 0))
    painter.ellipsoid((-50 * w, -52 * d, 122), (13, 17, 28), Tissue.BILE, 4, angles=(30, 0, 0))


def _liver_vessels(painter: Painter, patient: Patient, inside: np.ndarray) -> None:
    """Portal and hepatic veins; only where there is liver."""
    w = patient.width
    before_hu, before_tissue = painter.hu.copy(), painter.tissue.copy()
    rng = painter.rng
    y0 = float(patient.spine_y(180)) - 34
    for _ in range(9):
        end = np.array([rng.uniform(-135, -30) * w, rng.uniform(-55, 60), rng.uniform(130, 235)])
        knee = np.array([-62 * w, y0 + 8, 172]) + rng.normal(0, 8, 3)
        painter.tube(
            np.array([[-30 * w, y0, 155], knee, (knee + end) / 2 + rng.normal(0, 8, 3), end]),
            [6.5, 5.0, 3.0, 1.2],
            Tissue.BLOOD,
        )
    for target in ((-125, 20, 190), (-70, -30, 180), (-10, -50, 205), (-90, 50, 210)):
        painter.tube(
            np.array([[-20 * w, y0 + 18, 236], [target[0] * 0.5 * w, target[1] * 0.6, 222], target]),
            [6, 4.2, 1.5],
            Tissue.BLOOD,
        )
    outside = ~inside
    painter.hu[outside] = before_hu[outside]
    painter.tissue[outside] = before_tissue[outside]


def _retroperitoneum(painter: Painter, patient: Patient) -> None:
    w, rng = patient.width, painter.rng
    for side, label, z in ((1, 3, 128 + rng.normal(0, 8)), (-1, 2, 116 + rng.normal(0, 8))):
        c = np.array([side * 61 * w, float(patient.spine_y(z)) + 9, z])
        angles = (-14, side * 12, side * 28)
        painter.ellipsoid(c, (29, 26, 55), Tissue.KIDNEY, label, angles=angles, rough_mm=1.3)
        box = painter.box(c - 70, c + 70)
        if box is not None:
            points = painter.at(box)
            pyramids = np.maximum(ellipsoid(points, c, (21, 18, 45), angles), 2.5 - 5 * np.abs(painter.noise(box, 9.0)))
            painter.fill(box, pyramids, Tissue.MEDULLA)
        sinus = c - np.array([side * 11, 3, 0])
        painter.ellipsoid(sinus, (13, 11, 28), Tissue.FAT, label, angles=angles, rough_mm=1.5)
        painter.ellipsoid(sinus, (6, 6, 13), Tissue.URINE, label, rough_mm=1.0)
        root = [side * 10, float(patient.spine_y(z)) - 24, z + 4]
        painter.tube(np.array([root, sinus]), [3.6, 2.8], Tissue.BLOOD)
        adrenal = c + np.array([-side * 20, -14, 52])
        painter.tube(
            np.array([adrenal + [0, -9, 4], adrenal, adrenal + [side * 9, 15, -3]]),
            2.6,
            Tissue.GLAND,
            9 if side > 0 else 8,
        )
    y = lambda z, o: float(patient.spine_y(z)) + o  # noqa: E731 (a local shorthand for the prevertebral line)
    pancreas = np.array([[-34 * w, y(115, -44), 112], [-16 * w, y(130, -52), 134], [22 * w, y(145, -50), 150],
                         [62 * w, y(160, -26), 164], [86 * w, y(175, -4), 180]])  # fmt: skip
    painter.tube(pancreas, [15, 11, 9.5, 9, 7], Tissue.PANCREAS, 7)
    duodenum = np.array([[-18 * w, y(145, -62), 150], [-44 * w, y(140, -46), 146], [-56 * w, y(115, -30), 115],
                         [-44 * w, y(90, -26), 84], [-4 * w, y(85, -34), 80], [26 * w, y(100, -36), 104]])  # fmt: skip
    painter.tube(duodenum, 10.5, Tissue.FLUID, 19, wall=(2.6, Tissue.BOWEL_WALL))
    splenic = np.array([[-8, y(140, -36), 140], [30 * w, y(150, -34), 158], [84 * w, y(180, 4), 190]])
    painter.tube(splenic, [6, 5, 4], Tissue.BLOOD, 64)
    painter.tube(
        np.array([[-6, y(100, -44), 60], [-6, y(140, -36), 140], [-30 * w, y(160, -34), 158]]),
        [5, 6.5, 6.5],
        Tissue.BLOOD,
        64,
    )
    _great_vessels(painter, patient)


def _great_vessels(painter: Painter, patient: Patient) -> None:
    w = patient.width
    z = np.arange(10, 341.0, 14)
    front = 17.5 - 5.5 * np.clip((z - 160) / 300, 0, 1)
    y = patient.spine_y(z) - front * patient.depth
    aorta = np.stack([9 + 8 * np.clip((z - 170) / 80, 0, 1), y - 11.5 + 8 * np.clip((z - 190) / 80, 0, 1), z], 1)
    painter.tube(aorta, 10.2, Tissue.BLOOD, 52, wall=(1.4, Tissue.MUSCLE))
    low = z < 246
    ivc = np.stack([-20 + 0 * z, y - 10 - 14 * np.clip((z - 130) / 80, 0, 1), z], 1)[low]
    painter.tube(ivc, 11.5, Tissue.BLOOD, 63)
    for side, artery, vein in ((1, 65, 67), (-1, 66, 68)):
        path = np.array(
            [
                [4, aorta[0, 1], 12],
                [30, float(patient.spine_y(-25)) - 28, -25],
                [52 * w, 4, -72],
                [58 * w, -46, -112],
                [70 * w, -62, -160],
                [76 * w, -56, -240],
            ]
        ) * [side, 1, 1]
        painter.tube(path, [7, 6, 5.5, 5, 5, 4.5], Tissue.BLOOD, artery)
        path = path + [side * 2, 11, -2]
        painter.tube(path, [8, 7, 6.5, 6.5, 6, 5.5], Tissue.BLOOD, vein)
    if painter.rng.random() < 0.35:  # calcified plaque
        for _ in range(int(painter.rng.integers(2, 7))):
            i = int(painter.rng.integers(0, 10))
            turn = painter.rng.uniform(0, 2 * np.pi)
            c = aorta[i] + [10.5 * np.cos(turn), 10.5 * np.sin(turn), painter.rng.uniform(0, 14)]
            painter.ellipsoid(c, (2.2, 2.2, 4.5), Tissue.CORTICAL_BONE)


def _stomach(painter: Painter, patient: Patient) -> None:
    w, rng = patient.width, painter.rng
    fill = rng.uniform(0.7, 1.15)
    points = np.array([[22, 10, 238], [58 * w, 14, 232], [72 * w, -8, 204], [62 * w, -38, 172], [34 * w, -58, 148],
                       [2, -58, 142], [-20, -50, 150]])  # fmt: skip
    points[:, 2] -= 10 * patient.inspiration
    radii = np.array([12, 33, 31, 26, 21, 16, 9]) * fill
    contents(
        painter,
        _refine(points, 14),
        np.interp(np.linspace(0, 1, len(_refine(points, 14))), np.linspace(0, 1, 7), radii),
        6,
        Tissue.FLUID,
        wall_mm=4.0,
        gas=rng.uniform(0, 0.6),
        pocket_mm=60,
    )


def _bowel(painter: Painter, patient: Patient) -> None:
    """Colon as a frame with haustra, small bowel as loops that fill what is left."""
    w, rng = patient.width, painter.rng
    front = patient.belly_mm * 0.75
    bottom, top = float(painter.axes[2][0]) - 30, float(painter.axes[2][-1]) + 30
    rows: list[np.ndarray] = []
    for z in np.arange(-72, 112, 25.0):
        for y in np.arange(-58 - front, 6, 29.0):
            span = 74 * w * np.sqrt(np.clip(1 - ((y + 30) / 80) ** 2, 0.3, 1))
            xs = np.linspace(-span, span, 6)
            xs = xs if len(rows) % 2 else xs[::-1]
            rows.append(np.stack([xs, np.full(6, y), np.full(6, z)], 1))
    if rows:
        path = np.concatenate(rows)
        path += rng.normal(0, [9, 8, 8], path.shape)
        path = _refine(path, 13)
        keep = (path[:, 2] > bottom) & (path[:, 2] < top)
        radii = 10.5 + 2.0 * np.sin(np.arange(len(path)) * 0.9) + rng.normal(0, 0.7, len(path))
        start = 0
        while start < len(path) - 3:  # stretches of different content
            stop = min(len(path), start + int(rng.integers(10, 40)))
            if keep[start:stop].any():
                content = (Tissue.FLUID, Tissue.BOWEL_WALL, Tissue.STOOL, Tissue.FLUID)[int(rng.integers(4))]
                contents(
                    painter,
                    path[start:stop],
                    radii[start:stop],
                    18,
                    content,
                    wall_mm=2.4,
                    gas=rng.uniform(0.0, 0.5) if rng.random() < 0.3 else 0.0,
                    pocket_mm=40,
                )
            start = stop - 1
    colon = np.array([
        (-84, -8, -18), (-92, 0, 40), (-98, 8, 100), (-96, 0, 132), (-66, -56 - front, 116), (0, -70 - front, 84),
        (62, -58 - front, 120), (100, 8, 186), (110, 22, 130), (112, 24, 60), (106, 14, 0), (84, -12, -44),
        (40, -24, -74), (4, -8, -58), (-14, 24, -72), (0, 46, -92), (0, 50, -118), (0, 42, -146),
    ], dtype=float)  # fmt: skip
    radii = np.array([27, 26, 23, 21, 20, 19, 18, 17, 14.5, 14, 14, 14, 14, 15, 16, 19, 17, 9.0])
    colon[:, 0] *= w
    colon[:-3] += rng.normal(0, 6, (len(colon) - 3, 3))
    fine = _refine(colon, 11)
    along = np.linspace(0, len(colon) - 1, len(fine))
    radius = np.interp(along, np.arange(len(colon)), radii) * (1 + 0.13 * np.sin(np.arange(len(fine)) * 2.3))
    radius *= rng.uniform(0.85, 1.15)
    gas = rng.uniform(0.0, 0.7)
    contents(painter, fine, radius, 20, Tissue.STOOL, wall_mm=2.8, gas=gas, pocket_mm=55)


def contents(
    painter: Painter,
    points: np.ndarray,
    radii: np.ndarray,
    label: int,
    content: Tissue,
    *,
    wall_mm: float,
    gas: float,
    pocket_mm: float,
) -> None:
    """A hollow organ: wall, content, and gas on top (patients lie on their back: anterior, smaller y).

    Args:
        gas: Share of the organ's length that holds gas.
        pocket_mm: Length over which the gas level changes.
    """
    for box, distance in painter.tube_distances(points, radii):
        painter.fill(box, distance + 0.7 * painter.noise(box, 9.0), Tissue.BOWEL_WALL, label)
    for box, distance in painter.tube_distances(points, np.maximum(radii - wall_mm, 1.0)):
        painter.fill(box, distance + 0.7 * painter.noise(box, 9.0), content, label)
    if content == Tissue.STOOL:  # bubbles
        for box, distance in painter.tube_distances(points, np.maximum(radii - wall_mm, 1.0)):
            bubbles = np.maximum(distance + 2, 2.4 - 1.2 * painter.noise(box, 3.0))
            painter.fill(box, bubbles, Tissue.GAS)
    if gas <= 0:
        return
    steps = np.cumsum(np.linalg.norm(np.diff(points, axis=0, prepend=points[:1]), axis=1)) / pocket_mm
    wave = np.sin(steps * 2 * np.pi * 0.5 + painter.rng.uniform(0, 6)) + 0.6 * np.sin(
        steps * 4.1 + painter.rng.uniform(0, 6)
    )
    level = np.quantile(wave, 1 - min(gas, 0.98))
    segments = list(painter.tube_distances(points, np.maximum(radii - wall_mm - 0.3, 1.0)))
    kept = [
        i
        for i in range(len(points) - 1)
        if painter.box(
            np.minimum(points[i], points[i + 1]) - max(radii[i], radii[i + 1]) - 4,
            np.maximum(points[i], points[i + 1]) + max(radii[i], radii[i + 1]) + 4,
        )
        is not None
    ]
    for i, (box, distance) in zip(kept, segments, strict=False):
        if wave[i] > level:
            surface = points[i, 1] + radii[i] * np.clip(0.9 * (wave[i] - level) - 0.5, -0.8, 0.8)
            painter.fill(box, np.maximum(distance, painter.at(box)[1] - surface), Tissue.GAS, label)


def _refine(points: np.ndarray, step_mm: float) -> np.ndarray:
    """A smooth curve through points, sampled about every `step_mm`."""
    from scipy.interpolate import CubicSpline

    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-3)])
    spline = CubicSpline(length, points)
    return spline(np.linspace(0, length[-1], max(2, int(length[-1] / step_mm) + 1)))


def _pelvis(painter: Painter, patient: Patient) -> None:
    rng = painter.rng
    if painter.axes[2][0] > -40:
        return
    size = rng.uniform(0.75, 1.25)
    radii = np.array([40, 32, 32]) * size
    c = np.array([rng.normal(0, 3), -36, -132 + radii[2]])
    painter.ellipsoid(c, radii + 3, Tissue.MUSCLE, 21, rough_mm=0.8)
    painter.ellipsoid(c, radii, Tissue.URINE, 21, rough_mm=0.8)
    if patient.male:
        painter.ellipsoid((0, -18, -142), (24, 18, 20), Tissue.PROSTATE, 22, rough_mm=1.0)
        painter.ellipsoid((0, 14, -116), (30, 7, 9), Tissue.FLUID, 0, rough_mm=1.5)
    else:
        painter.ellipsoid((rng.normal(0, 8), 12, -84), (26, 22, 34), Tissue.MUSCLE, 0, angles=(40, 0, 0), rough_mm=2.0)
        painter.ellipsoid((0, 12, -86), (8, 6, 20), Tissue.MUCOSA, 0, angles=(40, 0, 0))
