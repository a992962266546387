"""One picture a case: checkerboard and contours before and after, three planes, the deformation grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.pictures import Layer, centre_index, save_planes
from sctlab.registration.pairs import Pair
from sctlab.registration.quality import IDENTITY, best_rigid
from sctlab.transforms.apply import apply_to_image
from sctlab.transforms.data import Transform
from sctlab.transforms.field import displacement_field, grid_points
from sctlab_model.volume import Geometry, Volume, resample, triple

PICTURE_MM = 2.0
SQUARE_MM = 30.0
BODY_HU, BONE_HU = -300.0, 180.0
CT_LIMITS = (-250.0, 450.0)


def save_overview(pair: Pair, transform: Transform, path: str | Path, *, title: str = "") -> Path:
    """Write the overview of a registration as a PNG.

    Columns: the fixed image; checkerboards of fixed and moving before and after; the source with the CT's body and
    bone outlines before and after; the Jacobian determinant with lines that show the deformation beyond a rigid
    motion.
    """
    grid = _picture_grid(pair)
    mask = resample(pair.fixed_mask, grid, interpolation="nearest")
    fixed = resample(
        pair.fixed.with_array(pair.fixed.array.astype(np.float32)),
        grid,
        interpolation="linear",
        outside=float(pair.fixed.array.min()),
    )
    before, after = (
        apply_to_image(pair.moving, step, grid, interpolation="linear", outside=pair.outside)
        for step in (IDENTITY, transform)
    )
    shown = _display(fixed, pair.fixed_name, mask)
    layers = [Layer(f"fixed ({pair.fixed_name})", shown, (0, 1))]
    for name, moving in (("before", before), ("after", after)):
        layers.append(
            Layer(f"checkerboard {name}", _checkerboard(shown, _display(moving, pair.moving_name, mask)), (0, 1))
        )
    for name, moving in (("before", before), ("after", after)):
        ct, source, source_name = (
            (fixed, moving, pair.moving_name) if pair.ct_is_fixed else (moving, fixed, pair.fixed_name)
        )
        layers.append(Layer(f"CT outlines {name}", _display(source, source_name, mask), (0, 1), contour=_outlines(ct)))
    layers.append(_deformation_layer(transform, grid, mask))
    return save_planes(layers, path, index_xyz=centre_index(mask, fixed), title=title)


def _picture_grid(pair: Pair) -> Geometry:
    """An LPS grid around the fixed body: the planes of the picture are the patient's."""
    geometry = pair.fixed.geometry
    index = np.argwhere(pair.fixed_mask.array)
    corners = np.array(np.meshgrid(*zip(index.min(0)[::-1], index.max(0)[::-1], strict=True))).reshape(3, -1).T
    points = geometry.to_physical(corners)
    low, high = points.min(0) - 10, points.max(0) + 10
    # Slices stay as thick as they are, so that nothing is shown that wasn't measured.
    thickness = np.abs(geometry.matrix).max(1)
    spacing = np.maximum(PICTURE_MM, thickness)
    size = np.maximum(8, np.ceil((high - low) / spacing)).astype(int)
    return Geometry(tuple(size), tuple(spacing), tuple(low))


def _display(volume: Volume, name: str, mask: Volume) -> Volume:
    """Values of 0 to 1 for display."""
    if name == "mr":
        inside = volume.array[mask.array] if mask.array.any() else volume.array
        low, high = 0.0, float(np.percentile(inside, 99)) or 1.0
    else:
        low, high = CT_LIMITS
    return volume.with_array(np.clip((volume.array.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1))


def _checkerboard(first: Volume, second: Volume) -> Volume:
    squares = [
        (np.arange(n) * s // SQUARE_MM).astype(int)
        for n, s in zip(first.geometry.shape_zyx, first.geometry.spacing_xyz[::-1], strict=True)
    ]
    odd = (squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]) % 2 == 1
    return first.with_array(np.where(odd, second.array, first.array))


def _outlines(ct: Volume) -> Volume:
    """A mask whose border is the outline of the body and of its bones."""
    return ct.with_array((ct.array > BODY_HU) & (ct.array < BONE_HU))


def _deformation_layer(transform: Transform, grid: Geometry, mask: Volume) -> Layer:
    field = displacement_field(transform, grid)
    points = grid_points(grid)
    moved = points + np.moveaxis(field.vectors, 0, -1)
    rigid = best_rigid(points[mask.array], moved[mask.array])
    beyond = rigid.inverse()(moved)
    coordinates = triple(mask.with_array(beyond[..., axis]) for axis in range(3))
    return Layer(
        "Jacobian, 10 mm grid",
        mask.with_array(jacobian_determinant(field)),
        (0.0, 2.0),
        "coolwarm",
        coordinates=coordinates,
    )
