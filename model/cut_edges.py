"""Bodies that the image's border cuts: what the network is shown beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def continue_mirrored(
    placed: np.ndarray, mask: np.ndarray, start_yx: Sequence[int], image_yx: Sequence[int]
) -> np.ndarray:
    """Continue an image by its mirror image beyond those border voxels that are body.

    A body that ends in air ends at its skin: a network takes a straight end in the middle of muscle for skin or bone. Its
    mirror image goes on as tissue does, and nothing of it is in the mask.

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
        before, after = max(0, -first), max(0, first + length - whole)
        pads.append((before, after))
        seen.append(slice(before, length - after))
    image, body = placed[tuple(seen)], mask[tuple(seen)]
    if not any(n for pad in pads for n in pad) or image.size == 0:
        return placed
    beyond = np.pad(body, pads, mode="edge")
    beyond[tuple(seen)] = False
    if not beyond.any():
        return placed
    return np.where(beyond, np.pad(image, pads, mode="symmetric"), placed)
