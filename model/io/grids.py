"""What a grid must be, whatever format states it: finite, of sensible size, and with perpendicular axes."""

from __future__ import annotations

import math

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, triple

SMALLEST_SPACING_MM, LARGEST_SPACING_MM = 1e-3, 1e3
LARGEST_ORIGIN_MM = 1e6
ORTHONORMAL_WITHIN = 1e-3  # of the direction matrix' product with its transpose: headers are rounded
UNSAID_SHIFT_MM = 1e-3  # making a direction orthonormal moves voxels by this much without a word
DEFAULT_MAX_VOXELS = 1 << 29  # 512 Mi voxels: 1024 x 1024 x 512, four times the largest clinical CT


def check_size(size_xyz: tuple[int, ...], where: str, max_voxels: int) -> None:
    """Refuse empty and oversized images."""
    if min(size_xyz) < 1 or math.prod(size_xyz) > max_voxels:
        raise InputError(
            where,
            found=f"{'x'.join(map(str, size_xyz))[:80]} voxels",
            expected=f"1 to {max_voxels} voxels",
            advice="crop or resample the image" if min(size_xyz) > 0 else "the header is damaged",
        )


def check_spacing(spacing_xyz: tuple[float, ...], where: str) -> None:
    """Refuse a voxel pitch that isn't finite, positive and of the size of anything a scanner makes."""
    if not all(SMALLEST_SPACING_MM <= s <= LARGEST_SPACING_MM for s in spacing_xyz):
        raise InputError(
            where,
            found=f"spacing {' x '.join(f'{s:g}' for s in spacing_xyz)} mm",
            expected="finite positive spacing between 0.001 and 1000 mm",
            advice="the header is damaged",
        )


def check_direction(axes: np.ndarray, where: str) -> None:
    """Refuse a 3x3 direction matrix whose columns aren't orthonormal within 1e-3."""
    if not np.isfinite(axes).all() or np.abs(axes.T @ axes - np.eye(3)).max() > ORTHONORMAL_WITHIN:
        raise InputError(
            where,
            found=f"direction {np.round(axes, 4).tolist()}",
            expected="an orthonormal direction matrix",
            advice="shears and scales in the direction aren't supported: resample the image",
        )


def checked_grid(
    size_xyz: tuple[int, int, int],
    spacing_xyz: tuple[float, ...],
    origin_xyz: tuple[float, ...],
    axes: np.ndarray,
    where: str,
) -> tuple[Geometry, tuple[str, ...]]:
    """A grid from what a header states, and notes on what was repaired.

    A direction that is orthonormal but for rounding is made so (the nearest rotation, by singular values); the first
    voxel keeps its place. Shifts above a micrometre are noted.

    Args:
        size_xyz: Voxels.
        spacing_xyz: Voxel pitch, mm.
        origin_xyz: Centre of the first voxel, mm, LPS.
        axes: 3x3; column j is the physical direction of index axis j.
        where: File name for messages.

    Raises:
        InputError: A value that isn't finite or out of range, or sheared axes.
    """
    check_spacing(tuple(spacing_xyz), where)
    if not all(abs(o) <= LARGEST_ORIGIN_MM for o in origin_xyz):
        raise InputError(
            where,
            found=f"origin {' '.join(f'{o:g}' for o in origin_xyz)} mm",
            expected=f"finite numbers up to {LARGEST_ORIGIN_MM:g} mm",
            advice="the header is damaged",
        )
    check_direction(axes, where)
    left, _, right = np.linalg.svd(axes)
    rotation = left @ right
    extent = np.array(spacing_xyz) * (np.array(size_xyz) - 1)
    corners = np.array(np.meshgrid(*[(0.0, e) for e in extent])).reshape(3, -1)
    shift = float(np.linalg.norm((axes - rotation) @ corners, axis=0).max())
    notes: tuple[str, ...] = ()
    if shift > UNSAID_SHIFT_MM:
        axes = rotation
        notes = (f"its axes are not quite perpendicular: made so, which moves voxels by up to {shift:.3f} mm",)
    return Geometry(size_xyz, triple(spacing_xyz), triple(origin_xyz), tuple(axes.ravel())), notes
