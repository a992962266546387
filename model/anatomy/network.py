"""The network: a small 3D U-Net at 3 mm, what its input is made of, and its file."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sctlab_model.anatomy.classes import CLASSES, NAMES
from sctlab_model.anatomy.settings import METADATA, NetworkSettings, network_record
from sctlab_model.anatomy.unet import unet_stages
from sctlab_model.cases import Region
from sctlab_model.errors import WeightsError
from sctlab_model.image_statistics import Statistics
from sctlab_model.io.atomic import atomic_path

SPACING_MM = 3.0  # voxels that the network was trained on
HU_BELOW = -300.0  # an image that reaches below this is in HU: magnitudes of an MR are not negative
# Voxels [z, y, x] of what training shows at once, thin slabs too: features are normalised over such a piece.
PIECES = ((16, 112, 144), (32, 96, 128), (48, 80, 112), (64, 80, 80))
_HU_RANGE, _HU_UNIT = (-1024.0, 1600.0), 40.0  # logarithmic: soft tissues lie as far apart as bones
_MR_TOP = 4.0
HOUNSFIELD = Statistics.from_range(*_HU_RANGE)


@dataclass(frozen=True)
class Output:
    """What the network says of a batch.

    Args:
        logits: Of the classes, [B, classes, z, y, x].
        features: Decoder stages from deep to fine, [B, channels, z/s, y/s, x/s].
        coarse: Logits at every decoder stage but the finest, deep to fine, for deep supervision.
        regions: Logits of the region of every slice of the coarsest decoder stage, [B, regions, slices].
    """

    logits: Tensor
    features: list[Tensor]
    coarse: list[Tensor]
    regions: Tensor


class AnatomyNetwork(nn.Module):
    """A U-Net with two heads: the class of a voxel, and the region of a slice.

    The U-Net works on blocks of 2x2x2 voxels (6 mm), where a whole trunk is cheap to see; eight voxels are eight channels
    of its input, and the head splits its features into eight voxels again. The logits are the sum of what every decoder
    stage says, from the coarsest on: the finest has fewer channels than there are classes, and alone it learns ten times
    as slowly. Features are normalised over the piece that is seen, so pieces of the size of training's are shown to it.

    Args:
        settings: Of the U-Net.
    """

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        from dynamic_network_architectures.architectures import unet

        super().__init__()
        self.settings = settings = settings or NetworkSettings()
        stages = len(settings.features)
        self.unet: Any = getattr(unet, settings.kind)(
            8, stages, list(settings.features), nn.Conv3d, [3] * stages, [1] + [2] * (stages - 1), settings.counts, len(CLASSES),
            [1] * (stages - 1), conv_bias=False, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": False},
        )  # fmt: skip
        self.unet.apply(self.unet.initialize)  # He's, and residual blocks that begin as nothing: learns twice as fast
        self.classes = nn.ConvTranspose3d(settings.features[0], len(CLASSES), 2, 2)
        self.region = nn.Linear(len(CLASSES) - 1, len(Region))

    def forward(self, x: Tensor, part: tuple[int, int, int] | None = None) -> Output:
        """Both heads.

        Args:
            x: Normalised (see `normalised`) [B, 1, z, y, x], multiples of the settings' stride.
            part: Logits of every second voxel from this one (z, y, x) on only: an eighth of the work, for training.
        """
        depth = len(self.settings.features)
        stages = unet_stages(self.unet, blocks(x), float32_from=depth - 2)
        coarse, below = self.coarse_logits(stages[depth:])
        regions = self._regions(coarse[0])
        if part is None:
            return Output(self.fine_logits(stages[-1], below), stages[depth:], coarse, regions)
        weight = self.classes.weight[:, :, part[0], part[1], part[2]].T[:, :, None, None, None]
        logits = functional.conv3d(stages[-1], weight, self.classes.bias)
        return Output(logits.float() + below, stages[depth:], coarse, regions)

    def coarse_logits(self, decoded: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Logits at every decoder stage but the finest, each with those below it, and their sum on the finest's grid.

        Args:
            decoded: Decoder stages from deep to fine.
        """
        found: list[Tensor] = []
        for head, features in zip(self.unet.decoder.seg_layers, decoded[:-1], strict=False):
            scores = head(features).float()
            found.append(scores + functional.interpolate(found[-1], scale_factor=2.0) if found else scores)
        return found, functional.interpolate(found[-1], scale_factor=2.0, mode="trilinear")

    def shares_of(self, x: Tensor) -> Tensor:
        """How much of the body every class takes, [B, classes], by the coarsest decoder stage: a third of the work.

        Args:
            x: As for `forward`.
        """
        depth = len(self.settings.features)
        coarsest = unet_stages(self.unet, blocks(x), depth + 1)[-1]
        chances = self.unet.decoder.seg_layers[0](coarsest).float().softmax(1).mean((2, 3, 4))
        shares: Tensor = chances / (1 - chances[:, :1]).clamp_min(1e-3)
        return shares

    def _regions(self, coarsest: Tensor) -> Tensor:
        """The region of every slice, of what it is made of: means of features say nothing once they are normalised."""
        shares = coarsest.softmax(1)[:, 1:].mean((3, 4))
        shares = (shares / shares.sum(1, keepdim=True).clamp_min(1e-6) + 1e-4).sqrt()
        return self.region(shares.transpose(1, 2)).transpose(1, 2)

    def fine_logits(self, finest: Tensor, below: Tensor) -> Tensor:
        """Logits of every voxel, of the finest decoder stage and the sum of `coarse_logits`; float32."""
        return self.classes(finest).float() + functional.interpolate(below, scale_factor=2.0)


def looking() -> AbstractContextManager[object]:
    """No gradients, and bfloat16 where the processor computes it: the same label in 99.9 % of the voxels, in less time."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode())
    able = torch.cpu.get_capabilities()
    stack.enter_context(
        torch.autocast("cpu", torch.bfloat16, enabled=bool(able.get("avx512_bf16") or able.get("amx_bf16")))
    )
    return stack


def blocks(x: Tensor) -> Tensor:
    """[B, 1, z, y, x] with even sizes → [B, 8, z/2, y/2, x/2]: the voxels of a block as channels."""
    batch, _, z, y, w = x.shape
    split = x.reshape(batch, z // 2, 2, y // 2, 2, w // 2, 2).permute(0, 2, 4, 6, 1, 3, 5)
    return split.reshape(batch, 8, z // 2, y // 2, w // 2).contiguous(memory_format=torch.channels_last_3d)


def normalised(x: Tensor, reference: Statistics) -> Tensor:
    """Raw intensities as the network sees them: HU by a fixed curve, everything else by mean and deviation.

    HU are told by values below -300, which no MR has. Mean and two deviations of a whole MR, air included, grow with the
    signal and hardly with the share of air (by 15 % between 30 and 100 % body).

    Args:
        x: HU or MR intensities, any shape.
        reference: Of the whole image, air included; `HOUNSFIELD` where it is known to be in HU, even if a piece holds no air.

    Returns:
        float32 of the same shape.
    """
    x = x.float()
    if reference.minimum < HU_BELOW:
        hu = x.clamp(*_HU_RANGE)
        return hu.sign() * (hu.abs() / _HU_UNIT).log1p()
    floor = max(reference.minimum, 0.0)
    top = max(reference.mean + 2 * reference.std - floor, 1e-6)
    return (2 * (x - floor) / top).clamp(0, _MR_TOP)


def write_network(network: AnatomyNetwork, path: Path, facts: dict[str, Any]) -> Path:
    """One safetensors file in fp16, with what is needed to build the network again and how it was made."""
    record = {"name": "anatomy", "kind": "anatomy", "network": network.settings.model_dump(), "classes": NAMES} | facts
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in _own_tensors(network).items()}
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({k: v.detach().contiguous() for k, v in tensors.items()}, temporary, {METADATA: json.dumps(record)})
    return path


def read_network(path: str | Path) -> AnatomyNetwork:
    """The network of a file, in evaluation mode.

    Raises:
        WeightsError: Not a file of `write_network`, or one with other classes.
    """
    from safetensors import SafetensorError, safe_open

    record = network_record(path)
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(path, found=f"can't be read ({error})", expected="a complete safetensors file") from error
    try:
        network = AnatomyNetwork(NetworkSettings.model_validate(record["network"]))
        classes = tuple(record["classes"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(path, found=f"no record of an anatomy network ({error})", expected="its metadata") from error
    own = _own_tensors(network)
    damaged = [k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if damaged:
        raise WeightsError(path, found=f"values that are not finite in {damaged[0]}", expected="finite weights")
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


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once: the library's networks hold theirs under several names."""
    return dict(network.named_parameters()) | dict(network.named_buffers())
