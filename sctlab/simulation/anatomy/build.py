"""Put a region together: choose the grid, paint from the outside in, add texture."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.anatomy.abdomen import paint_abdomen
from sctlab.simulation.anatomy.chest_wall import paint_chest_wall
from sctlab.simulation.anatomy.couch import paint_couch
from sctlab.simulation.anatomy.patient import Patient
from sctlab.simulation.anatomy.pelvis import paint_pelvis
from sctlab.simulation.anatomy.spine import paint_spine
from sctlab.simulation.anatomy.thorax import paint_thorax
from sctlab.simulation.anatomy.torso import paint_back_muscles, paint_layers
from sctlab.simulation.painter import Painter
from sctlab.simulation.phantom import Phantom
from sctlab.simulation.tissues import Tissue, texture_hu
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry

# z range (mm) in which a region's field of view is centred, and the usual length of a scan
_CENTRES = {Region.AB: (40.0, 150.0), Region.TH: (300.0, 340.0), Region.HN: (560.0, 600.0)}
_LENGTHS = {Region.AB: (180.0, 285.0), Region.TH: (210.0, 285.0), Region.HN: (210.0, 285.0)}


def default_grid(
    region: Region,
    rng: np.random.Generator,
    spacing_xyz: tuple[float, float, float],
    size_xyz: tuple[int, int, int] | None,
    *,
    short: bool = False,
) -> Geometry:
    """A field of view for the region: `size_xyz` voxels, or what a scan of the region usually covers.

    `short` is a CBCT's length: one turn covers less of the body than an MR.
    """
    if size_xyz is None:
        extent = {Region.AB: (430, 330), Region.TH: (430, 330), Region.HN: (300, 300)}[region]
        length = rng.uniform(165, 210) if short else rng.uniform(*_LENGTHS[region])
        nx, ny, nz = (round(e / s) for e, s in zip((*extent, length), spacing_xyz, strict=True))
        size_xyz = (nx, ny, nz)
    centre = np.array([0.0, 8.0 if region != Region.HN else 0.0, rng.uniform(*_CENTRES[region])])
    half = (np.array(size_xyz) - 1) / 2 * spacing_xyz
    return Geometry(size_xyz, spacing_xyz, tuple(centre - half))


def build_phantom(region: Region, grid: Geometry, rng: np.random.Generator) -> Phantom:
    """Paint a random patient on a grid (axes LPS; z as in `patient.py`).

    Returns:
        HU without noise, tissues, labels.
    """
    painter = Painter(grid, rng)
    patient = Patient.sample(rng)
    if region == Region.HN:
        from sctlab.simulation.anatomy.head_neck import paint_head_and_neck

        skin = paint_head_and_neck(painter, patient)
    else:
        layers = paint_layers(painter, patient)
        skin = layers.skin
        paint_thorax(painter, patient, layers)
        paint_abdomen(painter, patient, layers)
        paint_back_muscles(painter, patient, layers.lean)
        paint_chest_wall(painter, patient)
        paint_pelvis(painter, patient)
        paint_spine(painter, patient)
    _trim(painter, skin)
    _texture(painter)
    if rng.random() < 0.92:
        paint_couch(painter, skin)
    return Phantom(painter.hu, painter.tissue, painter.label, grid)


def _trim(painter: Painter, skin: np.ndarray) -> None:
    """Nothing reaches beyond the skin."""
    alpha = np.clip(0.5 + skin / painter.edge_mm, 0, 1)
    painter.hu += alpha * np.minimum(painter.hu_of[Tissue.AIR] - painter.hu, 0) * (skin > 0)
    outside = skin > 0.5 * painter.edge_mm
    painter.hu[outside] = painter.hu_of[Tissue.AIR]
    painter.tissue[skin > 0] = Tissue.AIR
    painter.label[skin > 0] = 0


def _texture(painter: Painter) -> None:
    """Fine structure inside every tissue: two scales of noise, scaled by the tissue's texture."""
    box = painter.everywhere
    amplitude = texture_hu()[painter.tissue]
    painter.hu += amplitude * (0.8 * painter.noise(box, 1.6) + 0.6 * painter.noise(box, 6.0))
    marbled = painter.tissue == Tissue.MUSCLE  # fat between the fibres
    painter.hu[marbled] -= 34 * np.clip(painter.noise(box, 3.0)[marbled] - 0.6, 0, 3)
    fat = painter.tissue == Tissue.FAT  # small vessels and strands
    painter.hu[fat] += 42 * np.clip(painter.noise(box, 3.0)[fat] - 0.9, 0, 2)
