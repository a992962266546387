"""The stages of a U-Net of `dynamic_network_architectures`, one place for all who read its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, autocast, cat, nn

from sctlab.features.extractor import Layer


def unet_stages(
    network: nn.Module, x: Tensor, count: int | None = None, *, float32_from: int | None = None
) -> list[Tensor]:
    """Feature maps: encoder stages from fine to deep, then decoder stages from deep to fine.

    Args:
        network: With `encoder` and `decoder` as in `dynamic_network_architectures`.
        x: [B, C, *spatial], a multiple of the deepest stride.
        count: How many are wanted; all when left out.
        float32_from: Encoder stages from this one on leave autocast: they cost little, and oneDNN's bfloat16 gradients of
            convolutions over a handful of voxels are now and then NaN (PyTorch 2.14).
    """
    model: Any = network  # the library has no types
    encoder, decoder = model.encoder, model.decoder
    steps = list(zip(decoder.transpconvs, decoder.stages, strict=True))
    count = len(encoder.stages) + len(steps) if count is None else count
    if getattr(encoder, "stem", None) is not None:
        x = encoder.stem(x)
    found = []
    for index, stage in enumerate(encoder.stages[:count]):
        if float32_from is not None and index >= float32_from:
            with autocast(x.device.type, enabled=False):
                x = stage(x.float())
        else:
            x = stage(x)
        found.append(x)
    skips = list(found)
    for index, (up, stage) in enumerate(steps[: max(0, count - len(skips))]):
        x = stage(cat((up(x), skips[-(index + 2)]), dim=1))
        found.append(x)
    return found


def unet_layers(
    features: Sequence[int], strides: Sequence[int], counts: Sequence[int], *, residual: bool, classes: int
) -> list[Layer]:
    """What `unet_stages` returns, and the head, as layers. Normalisation over the image is not counted as view.

    Args:
        features: Channels of every encoder stage.
        strides: Of every stage.
        counts: Convolutions, or residual blocks, of every stage.
        residual: Blocks of two convolutions after a stem.
        classes: Channels of the head.
    """
    layers, stride, view = [], 1, 3 if residual else 1  # a residual encoder begins with a stem convolution
    for stage, (channels, step, count) in enumerate(zip(features, strides, counts, strict=True)):
        view += 2 * stride  # the first convolution strides: it still reads the finer grid
        stride *= step
        view += 2 * stride * (count * (2 if residual else 1) - 1)
        layers.append(Layer(f"encoder {stage + 1}", channels, stride, view))
    for stage, skip in enumerate(reversed(layers[:-1])):
        layers.append(Layer(f"decoder {stage + 1}", skip.channels, skip.stride, view))
    layers.append(Layer("head", classes, 1, view))
    return layers
