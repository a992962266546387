"""What the stages of a U-Net of `dynamic_network_architectures` are, as an extractor's layers."""

from __future__ import annotations

from collections.abc import Sequence

from sctlab.features.extractor import Layer


def unet_layers(
    features: Sequence[int], strides: Sequence[int], counts: Sequence[int], *, residual: bool, classes: int
) -> list[Layer]:
    """What `sctlab_model.anatomy.unet.unet_stages` returns, and the head, as layers. Normalisation over the image is not counted as view.

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
