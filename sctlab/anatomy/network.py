"""The network: a small 3D U-Net at 3 mm, what its input is made of, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sctlab.anatomy.classes import CLASSES, NAMES
from sctlab.features.extractor import Statistics, per_image
from sctlab.features.unet import unet_stages
from sctlab.features.weights import read_weights, write_weights
from sctlab_model.cases import Region
from sctlab_model.errors import WeightsError
from sctlab_model.settings import Settings

HU_BELOW = -300.0  # an image that reaches below this is in HU: magnitudes of an MR are not negative
_HU_RANGE, _HU_UNIT = (-1024.0, 1600.0), 400.0
_MR_TOP = 4.0


class NetworkSettings(Settings):
    """Which U-Net of `dynamic_network_architectures`.

    Args:
        kind: `ResidualEncoderUNet` or `PlainConvUNet`.
        features: Channels of every stage; each stage but the first halves the grid.
        convolutions: A stage's convolutions (blocks, in the residual one), the first stage's being one.
    """

    kind: str = Field("ResidualEncoderUNet", pattern="^(ResidualEncoderUNet|PlainConvUNet)$")
    features: tuple[int, ...] = (12, 24, 48, 96, 128)
    convolutions: int = Field(1, ge=1)

    @property
    def counts(self) -> list[int]:
        """Convolutions, or blocks, of every stage."""
        return [1] + [self.convolutions] * (len(self.features) - 1)

    @property
    def stride(self) -> int:
        """Voxels of the input per voxel of the deepest stage."""
        return int(2 ** (len(self.features) - 1))


@dataclass(frozen=True)
class Output:
    """What the network says of a batch.

    Args:
        logits: Of the classes, [B, classes, z, y, x].
        features: Decoder stages from deep to fine, [B, channels, z/s, y/s, x/s].
        regions: Logits of the region of every slice of the deepest stage, [B, regions, z/stride].
    """

    logits: Tensor
    features: list[Tensor]
    regions: Tensor


class AnatomyNetwork(nn.Module):
    """A U-Net with two heads: the class of a voxel, and the region of a slice.

    Args:
        settings: Of the U-Net.
    """

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        from dynamic_network_architectures.architectures import unet

        super().__init__()
        self.settings = settings = settings or NetworkSettings()
        stages = len(settings.features)
        self.unet: Any = getattr(unet, settings.kind)(
            1, stages, list(settings.features), nn.Conv3d, [3] * stages, [1] + [2] * (stages - 1), settings.counts, len(CLASSES),
            [1] * (stages - 1), conv_bias=False, norm_op=nn.BatchNorm3d, norm_op_kwargs={}, nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": False},
        )  # fmt: skip
        self.region = nn.Linear(settings.features[-1], len(Region))

    def forward(self, x: Tensor) -> Output:
        """Both heads.

        Args:
            x: Normalised (see `normalised`) [B, 1, z, y, x], multiples of the settings' stride.
        """
        depth = len(self.settings.features)
        stages = unet_stages(self.unet, x, float32_from=depth - 2)
        deepest = stages[depth - 1]
        regions = self.region(deepest.float().mean((3, 4)).transpose(1, 2)).transpose(1, 2)
        logits = self.unet.decoder.seg_layers[-1](stages[-1])
        return Output(logits, stages[depth:], regions)


def normalised(x: Tensor, statistics: Statistics | None = None) -> Tensor:
    """Raw intensities as the network sees them: HU by fixed numbers, everything else by mean and deviation.

    HU are told by values below -300, which no MR has. Mean and two deviations of a whole MR, air included, grow with the
    signal and hardly with the share of air (by 15 % between 30 and 100 % body).

    Args:
        x: HU or MR intensities, [B, 1, z, y, x].
        statistics: Of the whole image; each input's own when left out.

    Returns:
        float32 of the same shape.
    """
    low, _, mean, std = per_image(x, statistics)
    x = x.float()
    hu = x.clamp(*_HU_RANGE) / _HU_UNIT
    floor = low.clamp_min(0)
    magnitude = (2 * (x - floor) / (mean + 2 * std - floor).clamp_min(1e-6)).clamp(0, _MR_TOP)
    return torch.where(low < HU_BELOW, hu, magnitude)


def write_network(network: AnatomyNetwork, path: Path, facts: dict[str, Any]) -> Path:
    """One safetensors file in fp16, with what is needed to build the network again and how it was made."""
    record = {"name": "anatomy", "kind": "anatomy", "network": network.settings.model_dump(), "classes": NAMES} | facts
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items() if _own(k)}
    return write_weights(tensors, path, record)


def read_network(path: str | Path) -> AnatomyNetwork:
    """The network of a file, in evaluation mode.

    Raises:
        WeightsError: Not a file of `write_network`, or one with other classes.
    """
    tensors, metadata = read_weights(Path(path))
    try:
        record = json.loads(metadata["extractor"])
        network = AnatomyNetwork(NetworkSettings.model_validate(record["network"]))
        classes = tuple(record["classes"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(path, found=f"no record of an anatomy network ({error})", expected="its metadata") from error
    own = {k: v for k, v in network.state_dict().items() if _own(k)}
    wrong = [k for k, v in own.items() if k not in tensors or tensors[k].shape != v.shape]
    if classes != NAMES or wrong:
        raise WeightsError(
            path,
            found=f"{len(classes)} classes, {len(wrong)} missing or other weights",
            expected=f"the {len(NAMES)} classes of this release and all weights",
            advice="take the file that came with this release, or train it again",
        )
    network.load_state_dict({k: tensors[k].to(v.dtype) for k, v in own.items()}, strict=False)
    return network.eval()


def _own(key: str) -> bool:
    """The decoder of the library holds its encoder a second time."""
    return ".decoder.encoder." not in key
