"""Views that are padded after flipping: the plane of one view to what the network sees, and its result back.

The reference implementation pads every view at the end of both axes, and cuts planes above its patch size into tiles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from sctlab_model.preparation import padded_length
from sctlab_model.recipe import Canvas
from sctlab_model.window import Window


def run_framed(
    stacks: torch.Tensor,
    canvas: Canvas,
    network: Callable[[torch.Tensor, Window], torch.Tensor],
    window: Window | None = None,
) -> torch.Tensor:
    """Run a network on flipped but unpadded planes.

    Args:
        stacks: [N, slices, Y, X] of any size.
        canvas: With `flip_before_padding`; without it the planes are padded already and run as they are.
        network: [N, slices, Y', X'] to [N, 1, Y', X'], Y' and X' multiples of `canvas.multiple`.
        window: Part of the plane whose results are used; all of it when left out.

    Returns:
        [N, 1, Y, X]; outside of the window -1 or what the network says.
    """
    window = window or Window.whole(tuple(stacks.shape))
    if not canvas.flip_before_padding:
        return network(stacks, window)
    height, width = stacks.shape[-2:]
    rows, columns = (axis_tiles(length, canvas, axis) for axis, length in enumerate((height, width)))
    result = stacks.new_full((len(stacks), 1, height, width), -1)
    for top, frame_height, kept_rows in rows:
        for left, frame_width, kept_columns in columns:
            tile = stacks[..., top : top + frame_height, left : left + frame_width]
            above, beside = (
                (frame - inside) // 2 if canvas.padding == "centre" else 0
                for frame, inside in ((frame_height, tile.shape[-2]), (frame_width, tile.shape[-1]))
            )
            below, behind = frame_height - tile.shape[-2] - above, frame_width - tile.shape[-1] - beside
            frame = Window(0, frame_height, 0, frame_width)
            wanted = window.moved(above - top, beside - left).overlap(frame)
            if wanted is None:
                continue
            output = network(pad(tile, (beside, behind, above, below), value=canvas.pad_value), wanted)
            result[..., top : top + kept_rows, left : left + kept_columns] = output[
                ..., above : above + kept_rows, beside : beside + kept_columns
            ]
    return result


def axis_tiles(length: int, canvas: Canvas, axis: int) -> list[tuple[int, int, int]]:
    """The tiles along one axis (0: y, 1: x): start, voxels of the frame, and how many results count from the start.

    Example:
        >>> canvas = Canvas(fixed_yx=(512, 512), pad_value=-1, flip_before_padding=True, larger="tiles")
        >>> axis_tiles(300, canvas, 0), axis_tiles(600, canvas, 0)
        ([(0, 512, 300)], [(0, 512, 88), (88, 512, 512)])
    """
    if canvas.larger == "whole" or canvas.fixed_yx is None or length <= canvas.fixed_yx[axis]:
        return [(0, padded_length(length, canvas, axis), length)]
    size = canvas.fixed_yx[axis]
    count = -(-length // size)
    # The remainder is shared evenly, rounded down: the last tile may still reach beyond the plane.
    step = size - (-length % size) // (count - 1)
    return [(k * step, size, step if k < count - 1 else length - k * step) for k in range(count)]
