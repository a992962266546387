"""Bodies that the image's border cuts: what the network is shown beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sctlab_model.volume import Geometry

# A body that touches the border is less than half as wide there (a chord of a circle); one that is cut 2 cm deep, 0.75.
DEPTH_VOXELS, CUT_SHARE = 8, 0.6
DARK_SHARE = 0.2  # of what lies behind a line: less is skin or air
AIR_SHARE = 0.05  # of the body; lung has 0.15 and more
FULL_SHARE = 0.9  # of the first line behind a filled border, where that border is none of the image
# A line that cuts tissue is as wide as the next one, as bright as what lies behind it, and differs from the next as that one
# does from its next. Skin is curved, holds air (partial volume), and is a step.
STRAIGHT_SHARE, BRIGHT_SHARE, STEP_RATIO = 0.93, 0.6, 2.0
LEAST_WIDTH = 8  # voxels of a straight line in a slice, in the mean

Box = tuple[tuple[int, int], tuple[int, int]]  # first row and column; rows and columns


def image_box(image: np.ndarray) -> Box:
    """First row and column, and size, of what was imaged: without borders of a single value that software has added.

    Where the line behind such a border is nearly full the image ends there. Where it is not, the border may be the air of a
    masked image, and the line a part of the body's own outline: the image ends there only if that line is a straight cut
    through tissue.

    Args:
        image: [z, y, x].

    Example:
        >>> image_box(np.pad(np.arange(1, 7).reshape(1, 2, 3), ((0, 0), (1, 0), (2, 2))))
        ((1, 2), (2, 3))
    """
    first, last = [0, 0], [image.shape[1], image.shape[2]]
    for axis in (0, 1):
        for end in (0, -1):
            border = image.take(end, axis + 1)
            if (border != border.flat[0]).any():
                continue
            other = image != border.flat[0]
            lines = np.flatnonzero(other.any(axis=(0, 2 - axis)))
            if lines.size == 0:
                continue
            # Of the rectangle that isn't filled: another side may have a border, too.
            held = other.any(axis=(0, 1 + axis)), other.any(axis=(1, 2))
            share = other.take(lines[end], axis + 1)[held[1]][:, held[0]].mean()
            if share >= FULL_SHARE or _cuts_tissue(image, other, axis + 1, lines[end], 1 if end == 0 else -1):
                first[axis], last[axis] = (int(lines[0]), last[axis]) if end == 0 else (first[axis], int(lines[-1]) + 1)
    for axis in (0, 1):
        if last[axis] <= first[axis]:  # nothing but two fill values
            first[axis], last[axis] = 0, image.shape[1 + axis]
    return (first[0], first[1]), (last[0] - first[0], last[1] - first[1])


def _cuts_tissue(image: np.ndarray, other: np.ndarray, axis: int, line: int, inwards: int) -> bool:
    """Whether the outermost line that isn't filled cuts straight through tissue.

    Args:
        image: [z, y, x].
        other: What isn't filled, same shape.
        axis: That counts the lines, 1 or 2.
        line: The outermost one.
        inwards: 1 or -1.
    """
    deep = line + inwards * DEPTH_VOXELS
    if not 0 <= deep < image.shape[axis]:
        return False
    held = other.take([line + inwards * k for k in range(DEPTH_VOXELS + 1)], axis)
    held = np.moveaxis(held, axis, 0)
    held = held[:, held[0].any(axis=1)]  # of slices that reach it
    width = held.sum(axis=(1, 2))
    if width[0] < max(LEAST_WIDTH * held.shape[1], STRAIGHT_SHARE * width[1], CUT_SHARE * width[-1]):
        return False
    values = np.moveaxis(image.take([line + inwards * k for k in range(DEPTH_VOXELS + 1)], axis), axis, 0)
    tissue = np.moveaxis(other.take([line + inwards * k for k in range(DEPTH_VOXELS + 1)], axis), axis, 0).all(axis=0)
    if not tissue.any():
        return False
    values = values[:, tissue].astype(np.float64)
    air = np.percentile(image[other], 0.5)
    bright = np.median(values, axis=1) - air
    steps = np.median(np.abs(np.diff(values, axis=0)), axis=1)
    least = max(BRIGHT_SHARE * np.median(bright[1:]), AIR_SHARE * (np.median(image[other]) - air))
    return bool(bright[0] >= least and steps[0] <= STEP_RATIO * np.median(steps[1:]))


def extended(image: np.ndarray, box: Box) -> np.ndarray:
    """An image whose first and last lines go on beyond its box, where software has filled in something else.

    Example:
        >>> extended(np.array([[[0, 5, 6, 0]]]), ((0, 1), (1, 2)))
        array([[[5, 5, 6, 6]]])
    """
    (top, left), (rows, columns) = box
    if (rows, columns) == image.shape[1:]:
        return image
    inner = image[:, top : top + rows, left : left + columns]
    pads = ((0, 0), (top, image.shape[1] - top - rows), (left, image.shape[2] - left - columns))
    return np.pad(inner, pads, mode="edge")


def box_on(grid: Geometry, box: Box, old: Geometry) -> Box | None:
    """The box of an image on another grid whose axes run alike: the voxels whose centres lie in it; None on a turned grid.

    Args:
        grid: The grid asked for.
        box: Rows and columns of `old`.
        old: The grid of the box.
    """
    if not np.allclose(grid.axes, old.axes, atol=1e-6):
        return None
    corners = np.array([[b - 0.5, a - 0.5, 0.0] for a, b in (box[0], np.add(*box))])
    low, high = grid.to_index(old.to_physical(corners))[:, :2][:, ::-1]
    first = np.clip(np.ceil(low - 1e-4), 0, np.array(grid.shape_zyx[1:]) - 1).astype(int)
    last = np.clip(np.floor(high + 1e-4) + 1, first + 1, grid.shape_zyx[1:]).astype(int)
    return (int(first[0]), int(first[1])), (int(last[0] - first[0]), int(last[1] - first[1]))


def continue_mirrored(
    placed: np.ndarray, mask: np.ndarray, start_yx: Sequence[int], image_yx: Sequence[int], air: float
) -> np.ndarray:
    """Continue an image by its mirror image beyond those border voxels that are body, where the border cuts it.

    A body that ends in air ends at its skin: a network takes a straight end in the middle of muscle for skin or bone. Its
    mirror image goes on as tissue does, and nothing of it is in the mask. A border that the body only touches, or that holds
    air, isn't continued (`cut_lines`).

    Args:
        placed: The image on a larger plane, [z, y, x]; what lies beyond the image is replaced.
        mask: Body on the same plane, bool.
        start_yx: First row and column of the plane, in the image; negative beyond its border.
        image_yx: Rows and columns of the image.
        air: Value of air in it.

    Example:
        >>> continue_mirrored(np.array([[[5, 6, 7, 0, 0]]]), np.array([[[1, 1, 1, 0, 0]]], bool), (0, 0), (1, 3), 0)
        array([[[5, 6, 7, 7, 6]]])
    """
    pads, seen = [(0, 0)], [slice(None)]
    for first, length, whole in zip(start_yx, placed.shape[1:], image_yx, strict=True):
        before, after = min(length, max(0, -first)), min(length, max(0, first + length - whole))
        pads.append((before, after))
        seen.append(slice(before, length - after))
    image, body = placed[tuple(seen)], mask[tuple(seen)]
    if not any(n for pad in pads for n in pad) or image.size == 0:
        return placed
    beyond = np.pad(cut_lines(body, image, air), pads, mode="edge")
    beyond[tuple(seen)] = False
    if not beyond.any():
        return placed
    return np.where(beyond, np.pad(image, pads, mode="symmetric"), placed)


def cut_lines(body: np.ndarray, image: np.ndarray, air: float) -> np.ndarray:
    """The body without those border lines where nothing is cut.

    In slices where the body is much narrower at the border than further inside it only touches it. A border that is much
    darker than what lies behind it, over all slices, holds skin, or air in a mask that is too wide.

    Args:
        body: bool [z, y, x]; its borders are the image's.
        image: Same shape.
        air: Value of air.
    """
    lines = body.copy()
    typical = np.median(image[body]) - air if body.any() else 0.0
    for axis in (1, 2):
        deep = min(DEPTH_VOXELS, body.shape[axis] - 1)
        for end in (0, -1):
            order = [end + k if end == 0 else end - k for k in range(deep + 1)]
            held, values = (np.moveaxis(array.take(order, axis), axis, 0) for array in (body, image))
            line = lines[:, end] if axis == 1 else lines[:, :, end]
            line[held[0].sum(axis=1) < CUT_SHARE * held[-1].sum(axis=1)] = False
            if line.any():
                above = np.median(values[:, line], axis=1) - air
                if above[0] < max(DARK_SHARE * np.median(above), AIR_SHARE * typical):
                    line[:] = False
    return lines
