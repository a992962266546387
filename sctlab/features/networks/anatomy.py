"""The anatomy network as an extractor: every stage of its U-Net, and the chance of every class."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sctlab.features.extractor import FeatureExtractor, Statistics, crop_to_stride, pad_to_multiple
from sctlab.features.unet import unet_layers
from sctlab_model.anatomy.classes import CLASSES
from sctlab_model.anatomy.network import AnatomyNetwork, blocks, normalised
from sctlab_model.anatomy.unet import unet_stages


class Anatomy(FeatureExtractor):
    """The network behind the extractors' protocol. It was trained on voxels of 3 mm: give it such.

    Args:
        network: In evaluation mode.
        name: For messages and records.
    """

    def __init__(self, network: AnatomyNetwork, name: str = "anatomy") -> None:
        settings = network.settings
        blocks_of = unet_layers(
            settings.features,
            [1] + [2] * (len(settings.features) - 1),
            settings.counts,
            residual=settings.kind == "ResidualEncoderUNet",
            classes=len(CLASSES),
        )
        # The U-Net's voxels are blocks of two voxels a side; the head splits them again.
        layers = [replace(v, stride=2 * v.stride, field_of_view=2 * v.field_of_view, offset=0.5) for v in blocks_of]
        layers[-1] = replace(layers[-1], stride=1, offset=0.0)
        super().__init__(
            name,
            dimension=3,
            channels=1,
            layers=layers,
            normalisation="HU by fixed numbers; MR by mean and deviation of the image",
            minimum_size=1,
        )
        self.network = network
        self.freeze()

    def architecture(self) -> dict[str, object]:
        return {"kind": "anatomy", "name": self.name, "network": self.network.settings.model_dump()}

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The names of a file that training wrote are taken, too."""
        return {k if k.startswith("network.") else f"network.{k}": v for k, v in tensors.items()}

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        size = x.shape[2:]
        seen = torch.stack([normalised(image, statistics or Statistics.of(image)) for image in x])
        padded = pad_to_multiple(seen, self.network.settings.stride)
        found = unet_stages(self.network.unet, blocks(padded), min(count, len(self.layers) - 1))
        if count == len(self.layers):
            decoded = found[len(self.network.settings.features) :]
            below = self.network.coarse_logits(decoded)[1]
            found.append(self.network.fine_logits(decoded[-1], below).softmax(1))
        return [crop_to_stride(f, size, layer.stride) for f, layer in zip(found, self.layers, strict=False)]
