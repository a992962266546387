"""The decoder of U-Net++ for inference: the same function with less work, by two identities.

**A convolution of an upsampled image** (nearest neighbour, factor 2) sees every voxel of the coarse image two or three
times. Of its 3x3 weights those that meet the same voxel are added once, which leaves 2x2 of them for each of the four
positions of a fine voxel inside a coarse one: 4 products instead of 9, and neither the upsampled image nor its
concatenation with the skip connections is made. (Shi 2016, arXiv 1609.07009, the other way round.)

**What is outside of the body isn't asked for.** The encoder sees the whole plane. Of the decoder, which is where most
of the work is, every node computes the part that the wanted window depends on: a 3x3 convolution looks one voxel
further. Where a part ends inside the plane the convolutions pad zeros instead of the image, so that what is wrong grows
inwards by a voxel a convolution; each node's margin is that wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sctlab_model.window import Window

# Of the finest level's part: windows that differ by little have one shape, for which the libraries are prepared already.
SHAPE_STEP = 16  # its half is even, as halving a window needs
_RINGS = 2  # convolutions in a node, each of which spoils one ring of voxels


class WindowedDecoder(nn.Module):
    """A decoder of segmentation_models_pytorch's U-Net++ after batch norms were folded.

    Args:
        decoder: One that `can_window` accepts; its convolutions are taken over.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.depth = int(decoder.depth)
        self.nodes = nn.ModuleDict()
        for level in range(self.depth + 1):
            for k in range(level + 1 if level < self.depth else 1):
                coarse = decoder.in_channels[level] if k == 0 else decoder.skip_channels[level - 1]
                self.nodes[f"{k}_{level}"] = _Node(decoder.blocks[f"x_{k}_{level}"], coarse)

    def forward(self, features: Sequence[Tensor], window: Window | None = None) -> Tensor:
        """Decode a window.

        Args:
            features: Of the encoder, finest first, whole planes; the first of them isn't used.
            window: Of the plane; all of it when left out.

        Returns:
            [N, channels, y, x] of the window.
        """
        planes = list(features[1:])[::-1]  # coarsest first; each has half the voxels of the next
        plane = Window(0, 2 * planes[-1].shape[-2], 0, 2 * planes[-1].shape[-1])
        window = window or plane
        parts = self._parts(window, plane)
        before: dict[int, Tensor] = {}  # nodes of the level before, each on its part
        for level in range(self.depth):
            nodes: dict[int, Tensor] = {}
            for k in range(level, -1, -1):
                part = parts[k, level]
                coarse = part.halved()
                encoded = k == level  # what is below comes from the encoder, on the whole plane
                below = planes[level][coarse.part] if encoded else before[k][coarse.within(parts[k, level - 1]).part]
                skips = [nodes[j][part.within(parts[j, level]).part] for j in range(k + 1, level + 1)]
                skips.append(planes[level + 1][part.part])
                nodes[k] = self.nodes[f"{k}_{level}"](below, torch.cat(skips, 1) if skips[1:] else skips[0])
            before = nodes
        part = parts[0, self.depth]
        below = before[0][part.halved().within(parts[0, self.depth - 1]).part]
        finest: Tensor = self.nodes[f"0_{self.depth}"](below)
        return finest[window.within(part).part]

    def _parts(self, window: Window, plane: Window) -> dict[tuple[int, int], Window]:
        """What every node (k, level) computes so that the finest is right in the window, each in its own voxels: what the
        same node of the next level and node k - 1 of its own take from it, and the rings that it spoils."""
        parts = {(0, self.depth): window.grown(_RINGS, plane).lengthened(SHAPE_STEP, plane)}
        for level in range(self.depth - 1, -1, -1):
            plane = plane.halved()
            for k in range(level + 1):
                takers = [parts[k, level + 1].halved()] if (k, level + 1) in parts else []
                takers += [parts[k - 1, level]] if k else []
                parts[k, level] = Window.over(takers).grown(_RINGS, plane, 2)
        return parts


class _Node(nn.Module):
    """One node: relu(conv(upsampled and skip)), then the second convolution."""

    def __init__(self, block: Any, coarse: int) -> None:
        super().__init__()
        conv = block.conv1[0]
        weight, self.channels = conv.weight.detach(), conv.out_channels
        with torch.no_grad():
            self.up = nn.Conv2d(coarse, 4 * self.channels, 2, padding=1, bias=False)
            self.up.weight.copy_(coarse_weights(weight[:, :coarse]))
            self.skip: nn.Conv2d | None = None
            if conv.in_channels > coarse:
                self.skip = nn.Conv2d(conv.in_channels - coarse, self.channels, 3, padding=1)
                self.skip.weight.copy_(weight[:, coarse:])
                assert self.skip.bias is not None
                self.skip.bias.copy_(conv.bias)
            else:
                self.up.bias = nn.Parameter(conv.bias.detach().repeat(4))
        self.requires_grad_(False)
        self.second = block.conv2

    def forward(self, below: Tensor, skip: Tensor | None = None) -> Tensor:
        rows, columns = below.shape[-2:]
        up = self.up(below)
        if self.skip is None:
            up = up.relu_()
            shape = (len(up), self.channels, 2 * rows, 2 * columns)
            fine = torch.empty(shape, dtype=up.dtype, device=up.device, memory_format=torch.channels_last)
        else:
            fine = self.skip(skip)
        for k in range(4):
            a, b = divmod(k, 2)
            own = up[:, k * self.channels : (k + 1) * self.channels, a : a + rows, b : b + columns]
            if self.skip is None:
                fine[..., a::2, b::2].copy_(own)
            else:
                fine[..., a::2, b::2].add_(own)
        if self.skip is not None:
            fine.relu_()
        result: Tensor = self.second(fine)
        return result


class NarrowConvolution(nn.Module):
    """A 3x3 convolution to one channel. The library computes 16 channels where it is asked for one; here nine products
    with a matrix are shifted and added, in a third of the time.

    Args:
        conv: 3x3, stride and padding 1, with a bias; its weights are taken over.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach()[0].permute(1, 2, 0).flatten(0, 1), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        count, channels, rows, columns = image.shape
        voxels = image.permute(0, 2, 3, 1).reshape(-1, channels)
        products = (self.weight @ voxels.T).view(3, 3, count, rows, columns)
        result = products[1, 1] + self.bias
        for a, b in ((a, b) for a in range(3) for b in range(3) if (a, b) != (1, 1)):
            here = ..., _shifted(1 - a, rows), _shifted(1 - b, columns)
            there = ..., _shifted(a - 1, rows), _shifted(b - 1, columns)
            result[here] += products[a, b][there]
        return result[:, None]


def _shifted(by: int, length: int) -> slice:
    """What is left of an axis that is shifted by one voxel, or not."""
    return slice(max(by, 0), length + min(by, 0))


def coarse_weights(weight: Tensor) -> Tensor:
    """Weights of a 2x2 convolution of the coarse image for those of a 3x3 one of the upsampled image.

    Args:
        weight: [out, in, 3, 3].

    Returns:
        [4 out, in, 2, 2]: for fine voxels in the upper left, upper right, lower left and lower right of a coarse one.
        With a padding of 1 the result has one row and one column more than the coarse image; fine voxel
        (2 i + a, 2 j + b) is at (i + a, j + b).
    """

    def pairs(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        first, middle, last = values.unbind(axis)
        return torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)

    return torch.cat([fine for rows in pairs(weight, -2) for fine in pairs(rows, -1)])


def can_window(decoder: nn.Module) -> bool:
    """Whether a decoder is built as this file assumes: nearest neighbours, no attention, folded norms, ReLU, and a
    skip connection at every level but the finest."""
    from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder

    if not isinstance(decoder, UnetPlusPlusDecoder) or not isinstance(decoder.center, nn.Identity):
        return False
    blocks: Any = decoder.blocks
    for block in blocks.values():
        if block.is_empty or block.interpolation_mode != "nearest":
            return False
        for conv, *rest in (block.conv1, block.conv2):
            if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3) or conv.bias is None:
                return False
            if not all(isinstance(m, nn.Identity | nn.ReLU) for m in rest) or not isinstance(rest[-1], nn.ReLU):
                return False
        for attention in (block.attention1, block.attention2):
            if not isinstance(attention.attention, nn.Identity):
                return False
    return True
