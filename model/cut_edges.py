"""Bodies that the image's border cuts: what the network is shown beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A body that touches the border is less than half as wide there (a chord of a circle); one that is cut 2 cm deep, 0.75.
DEPTH_VOXELS, CUT_SHARE = 8, 0.6
FULL_SHARE = 0.9  # of the first line behind a filled border, where that border is none of the image


def image_box(image: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """First row and column, and size, of what was imaged: without borders of a single value that software has added.

    Where the line behind such a border is nearly full the image ends there. Where it is not, the border is the air of a
    masked image, and the line a part of the body's own outline.

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
            if share >= FULL_SHARE:
                first[axis], last[axis] = (int(lines[0]), last[axis]) if end == 0 else (first[axis], int(lines[-1]) + 1)
    return (first[0], first[1]), (last[0] - first[0], last[1] - first[1])


def continue_mirrored(
    placed: np.ndarray, mask: np.ndarray, start_yx: Sequence[int], image_yx: Sequence[int]
) -> np.ndarray:
    """Continue an image by its mirror image beyond those border voxels that are body, where the border cuts it.

    A body that ends in air ends at its skin: a network takes a straight end in the middle of muscle for skin or bone. Its
    mirror image goes on as tissue does, and nothing of it is in the mask. A border that the body only touches isn't
    continued: the body is much narrower there than a few voxels further inside.

    Args:
        placed: The image on a larger plane, [z, y, x]; what lies beyond the image is replaced.
        mask: Body on the same plane, bool.
        start_yx: First row and column of the plane, in the image; negative beyond its border.
        image_yx: Rows and columns of the image.

    Example:
        >>> continue_mirrored(np.array([[[5, 6, 7, 0, 0]]]), np.array([[[1, 1, 1, 0, 0]]], bool), (0, 0), (1, 3))
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
    beyond = np.pad(_cut_lines(body), pads, mode="edge")
    beyond[tuple(seen)] = False
    if not beyond.any():
        return placed
    return np.where(beyond, np.pad(image, pads, mode="symmetric"), placed)


def _cut_lines(body: np.ndarray) -> np.ndarray:
    """The body without those border lines, slice by slice, where it only touches the border."""
    lines = body.copy()
    for axis in (1, 2):
        deep = min(DEPTH_VOXELS, body.shape[axis] - 1)
        for border, inner in ((0, deep), (-1, -1 - deep)):
            touched = body.take(border, axis).sum(axis=1) < CUT_SHARE * body.take(inner, axis).sum(axis=1)
            line = lines[:, border] if axis == 1 else lines[:, :, border]
            line[touched] = False
    return lines
