"""Vertebrae with body, canal, arch and processes; discs; the cord; the sacrum."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.patient import LUMBAR, SACRUM_TOP, THORACIC, Patient
from sctlab.simulation.painter import Painter, capsule, turn
from sctlab.simulation.tissues import Tissue


def paint_spine(painter: Painter, patient: Patient) -> None:
    """All vertebrae of the trunk that the grid shows, with discs and the spinal cord."""
    levels = LUMBAR + THORACIC
    heights = [z for _, z in levels] + [480.0]
    for i, (label, z) in enumerate(levels):
        pitch = heights[i + 1] - z
        lumbar = label <= 31
        f = np.clip((z - 160) / 300, 0, 1)
        half_width = (24 - 8.5 * f) * patient.width
        half_depth = (17.5 - 5.5 * f) * patient.depth
        paint_vertebra(
            painter,
            (float(patient.spine_x(z)), float(patient.spine_y(z)), z),
            label,
            half_width,
            half_depth,
            half_height=pitch * (0.40 if lumbar else 0.42),
            tilt=patient.spine_tilt(z),
            pitch=pitch,
            transverse_mm=34 if lumbar else 27,
            spinous_mm=28 if lumbar else 20,
            spinous_drop=6 if lumbar else 20,
            spongy=patient.spongy,
        )
    paint_sacrum(painter, patient)
    heights_mm = np.arange(-70, 480.0, 9)
    canal_y = patient.spine_y(heights_mm) + canal_offset(patient, heights_mm)
    points = np.stack([patient.spine_x(heights_mm), canal_y, heights_mm], 1)
    low, high = painter.axes[2][0] - 20, painter.axes[2][-1] + 20
    keep = (heights_mm > low) & (heights_mm < high)
    if keep.sum() > 1:
        points, heights_mm = points[keep], heights_mm[keep]
        painter.tube(points, 8.6, Tissue.FAT, 79)
        painter.tube(points, 7.4, Tissue.CSF, 79)
        cord = np.where(heights_mm > 165, 4.6, 0.0)
        if (cord > 0).any():
            painter.tube(points[cord > 0], 4.6, Tissue.CORD, 79)


def canal_offset(patient: Patient, z: float | np.ndarray) -> np.ndarray:
    """Distance in y from the vertebral body's centre to the canal's, mm."""
    f = np.clip((np.asarray(z, dtype=float) - 160) / 300, 0, 1)
    return (17.5 - 5.5 * f) * patient.depth + 9.5


def paint_vertebra(
    painter: Painter,
    centre: tuple[float, float, float],
    label: int,
    half_width: float,
    half_depth: float,
    *,
    half_height: float,
    tilt: float,
    pitch: float,
    transverse_mm: float,
    spinous_mm: float,
    spinous_drop: float,
    spongy: float,
    disc: bool = True,
) -> None:
    """One vertebra in its own tilted frame, and the disc above it."""
    reach = np.array([transverse_mm + half_width, half_depth + spinous_mm + 26, half_height + spinous_drop + 12])
    box = painter.box(np.subtract(centre, reach), np.add(centre, reach))
    if box is None:
        return
    offset = [p - c for p, c in zip(painter.at(box), centre, strict=True)]
    x, y, z = turn(offset, (-tilt, 0, 0))
    edge = 0.8 * painter.noise(box, 9.0)
    waist = 1 - 0.13 * (1 - np.clip(np.abs(z) / half_height, 0, 1) ** 2)
    flat = np.where(y > 0, 0.82, 1.0)  # the back of the body is flattened by the canal
    radial = (np.sqrt((x / (half_width * waist)) ** 2 + (y / (half_depth * waist * flat)) ** 2) - 1) * half_depth
    end = np.abs(z) - half_height + 1.2 * np.exp(-(x * x + y * y) / (0.4 * half_width**2))
    if disc:
        gap = pitch - 2 * half_height
        above = np.maximum(radial + 0.6, np.abs(z - half_height - gap / 2) - gap / 2 - 0.6)
        painter.fill(box, above, Tissue.DISC, 0)
    canal_y = half_depth * 0.82 + 9.5
    canal = np.sqrt((x / 1.15) ** 2 + (y - canal_y) ** 2) - 9.0
    arch = np.maximum(np.abs(canal - 2.6) - 2.8, np.abs(z + 0.05 * pitch) - 0.30 * pitch)
    arch = np.maximum(arch, -(y - half_depth * 0.5))
    pts = (np.abs(x), y, z)
    pedicle = capsule(
        pts,
        np.array([0.55 * half_width, half_depth * 0.5, 3.0]),
        np.array([0.6 * half_width, canal_y + 2, 2.0]),
        4.8,
        4.6,
        1.5,
    )
    process = capsule(
        pts, np.array([0.62 * half_width, canal_y + 2, 1.0]), np.array([transverse_mm, canal_y + 7, 3.0]), 4.6, 3.2, 1.3
    )
    facet = capsule(
        pts, np.array([12.5, canal_y + 8, -0.45 * pitch]), np.array([11.5, canal_y + 9, 0.5 * pitch]), 5.2, 4.6
    )
    spinous = (
        capsule(
            (x * 1.9, y, z),
            np.array([0, canal_y + 11, -3.0]),
            np.array([0, canal_y + 9 + spinous_mm, -3.0 - spinous_drop]),
            5.5,
            5.5,
            1.7,
        )
        / 1.3
    )
    marrow = painter.hu_of[Tissue.RED_MARROW] * spongy
    body = np.maximum(radial, end) + edge
    rest = np.minimum.reduce([arch, pedicle, process, spinous, facet]) + 0.5 * edge
    rest = np.maximum(rest, -(canal + 0.3))
    for distance, cortex, value in ((rest, 1.4, marrow * 1.5), (body, 0.9, marrow)):
        painter.fill(box, distance, Tissue.CORTICAL_BONE, label)
        inside = distance + cortex * np.maximum(0.4, 1 + 0.3 * painter.noise(box, 6.0))
        painter.fill(box, inside, Tissue.RED_MARROW, label, hu=value)


def paint_sacrum(painter: Painter, patient: Patient) -> None:
    """A wedge that narrows and curves down to the coccyx, with its canal and foramina."""
    z = np.linspace(SACRUM_TOP + 8, -118, 9)
    y = patient.spine_y(z)
    low = np.array([-62.0, y.min() - 30, -135])
    high = np.array([62.0, y.max() + 45, SACRUM_TOP + 24])
    box = painter.box(low, high)
    if box is None:
        return
    px, py, pz = painter.at(box)
    t = np.clip((SACRUM_TOP + 8 - pz) / 110, -0.1, 1)
    line = np.interp(pz, z[::-1], y[::-1]).astype(np.float32)
    half_width = (54 * (1 - t) ** 0.8 + 8) * patient.width
    depth = 17 * (1 - t) + 6
    x, d = px, py - line - 4 + 0.0035 * px * px
    shape = ((np.abs(x) / half_width) ** 3 + (np.abs(d) / depth) ** 2.4) ** (1 / 2.4) - 1
    distance = np.maximum(shape * depth, pz - SACRUM_TOP - 6 + 0.25 * (d - 5)) + 0.9 * painter.noise(box, 9.0)
    distance = np.maximum(distance, -118 - pz)
    canal = np.sqrt(x * x + (d - depth * 0.45) ** 2) - 7 * (1 - t)
    for k in range(4):
        hole_z = SACRUM_TOP - 22 - 21 * k
        for side in (-1, 1):
            hole = np.sqrt((x - side * (24 - 2.5 * k)) ** 2 + (pz - hole_z) ** 2 * 0.8) - 4.5
            distance = np.maximum(distance, -np.maximum(hole, -d - depth))
    distance = np.maximum(distance, -canal)
    painter.fill(box, distance, Tissue.CORTICAL_BONE, 25)
    painter.fill(box, distance + 1.5, Tissue.RED_MARROW, 25, hu=painter.hu_of[Tissue.RED_MARROW] * patient.spongy * 0.8)
    top = np.maximum(shape * depth, np.abs(pz - SACRUM_TOP - 3 + 0.25 * (d - 5)) - 5)
    painter.fill(box, np.maximum(top, np.abs(x) - 24), Tissue.DISC, 0)
