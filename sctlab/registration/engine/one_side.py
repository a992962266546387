"""Features of either side of the surface along which organs slide, blind to the other side.

A descriptor sees some voxels around its own. Beside the surface half of them belong to tissue that moves otherwise, and what
they show holds the descriptor back. Each side is therefore described in an image in which the other side is overwritten
with what lies at the nearest place of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sctlab.features import FeatureExtractor
from sctlab.registration.engine.feature_maps import feature_lattice, volume_features
from sctlab.registration.engine.lattice import Lattice, grid_positions, sample_at
from sctlab.registration.engine.sliding import unit

FURTHEST_MM = 24.0  # from the surface that is overwritten: a deep network sees further, but little of it
CLEAR_VOXELS = 1.0  # from the surface inwards: values nearer to it mix both sides
MARCHES = 2  # steps along the gradient of the distance, which is not exact


def features_by_side(
    extractor: FeatureExtractor, image: Tensor, lattice: Lattice, depth: Tensor, layers: tuple[int, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """Features of a whole image, blind to what lies inside a surface, and blind to what lies outside.

    Args:
        extractor: The frozen network.
        image: Intensities [1, 1, z, y, x].
        lattice: Its voxels.
        depth: Their signed distances to the surface in mm, positive inside [1, 1, z, y, x].
        layers: The extractor's layers.

    Returns:
        For the wall and for the inside, as `volume_features`: [1, C, z', y', x'] a layer.
    """
    reach = min(extractor.field_of_view / 2 * lattice.spacing, FURTHEST_MM)
    wall, inside = (volume_features(extractor, filled(image, lattice, depth, side, reach), layers) for side in (-1, 1))
    return wall, inside


def own_features(
    extractor: FeatureExtractor, image: Tensor, lattice: Lattice, depth: Tensor, layers: tuple[int, ...]
) -> list[Tensor]:
    """As `features_by_side`, in one map a layer: each voxel has the features of its own side."""
    maps, inner = features_by_side(extractor, image, lattice, depth, layers)
    for number, (wall, inside) in enumerate(zip(maps, inner, strict=True)):
        where = depth
        if wall.shape[2:] != depth.shape[2:]:
            positions = feature_lattice(lattice, extractor.layers[layers[number]], extractor.dimension)
            points = grid_positions([positions.positions(axis) for axis in range(3)], depth.device)
            where = sample_at(depth, lattice, points).reshape(1, 1, *wall.shape[2:])
        torch.where(where > 0, inside, wall, out=wall)
    return maps


def filled(image: Tensor, lattice: Lattice, depth: Tensor, side: int, reach_mm: float) -> Tensor:
    """The image with one side of the surface overwritten, as far as `reach_mm` from it, by the nearest values of the other.

    Args:
        image: [1, 1, z, y, x].
        lattice: Its voxels.
        depth: Signed distances to the surface in mm, positive inside [1, 1, z, y, x].
        side: The side that is kept: 1 inside, −1 outside.
        reach_mm: Further away nothing changes.
    """
    kept = side * depth.flatten()
    clear = CLEAR_VOXELS * lattice.spacing
    chosen = torch.nonzero((kept < clear) & (kept > -reach_mm))[:, 0]
    if not len(chosen):
        return image
    slopes = side * torch.stack(torch.gradient(depth[0, 0], spacing=lattice.spacing))
    slopes = unit(slopes)[None]  # towards the side that is kept
    sources = grid_positions([lattice.positions(axis) for axis in range(3)], image.device)[chosen]
    for _ in range(MARCHES):
        lack = (clear - side * sample_at(depth, lattice, sources)[0]).clamp(0, 2 * reach_mm)
        sources = sources + lack[:, None] * sample_at(slopes, lattice, sources).T
    out = image.flatten().clone()
    out[chosen] = sample_at(image, lattice, sources)[0]
    return out.reshape(image.shape)
