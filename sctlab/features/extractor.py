"""The protocol of a frozen extractor: raw intensities in, one feature map a layer out, gradient to the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sctlab_model.errors import InputError
from sctlab_model.image_statistics import Statistics

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Layer:
    """One feature map of an extractor.

    Args:
        name: Its name in the network.
        channels: Feature channels.
        stride: Input voxels per feature voxel, along every axis.
        field_of_view: Edge of the input region that one feature voxel depends on, in voxels.
        offset: Where the first feature voxel is centred, in input voxels; voxel i is centred on stride * i + offset.
    """

    name: str
    channels: int
    stride: int
    field_of_view: int
    offset: float = 0.0


class FeatureExtractor(nn.Module):
    """Base of every extractor. Subclasses implement `_extract` and describe themselves to this constructor.

    The network is frozen and stays in evaluation mode; gradients flow to the input only.

    Args:
        name: For messages and records.
        dimension: 2 or 3 spatial axes.
        channels: Input channels of the network; a single-channel input is repeated.
        layers: The layers, shallow to deep.
        normalisation: What happens to raw intensities, in words, for the record.
        minimum_size: Smallest edge of an input in voxels.
    """

    def __init__(
        self,
        name: str,
        *,
        dimension: int,
        channels: int,
        layers: Sequence[Layer],
        normalisation: str,
        minimum_size: int = 1,
    ) -> None:
        super().__init__()
        self.name, self.dimension, self.channels = name, dimension, channels
        self.layers, self.normalisation, self.minimum_size = tuple(layers), normalisation, minimum_size

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every layer."""
        return tuple(layer.stride for layer in self.layers)

    @property
    def field_of_view(self) -> int:
        """Field of view of the deepest layer in voxels."""
        return max(layer.field_of_view for layer in self.layers)

    def describe(self) -> dict[str, object]:
        """What a record of a run keeps about the extractor."""
        return {
            "name": self.name,
            "dimension": self.dimension,
            "channels": self.channels,
            "normalisation": self.normalisation,
            "layers": [vars(layer) for layer in self.layers],
        }

    def architecture(self) -> dict[str, object] | None:
        """What a weights file says so that the network can be built again: `name`, and for a registered architecture
        `kind` and its arguments. None for an extractor without weights of its own."""
        return None

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of the network as published → under this extractor's own."""
        return tensors

    def forward(
        self, x: Tensor, *, layers: Sequence[int] | None = None, statistics: Statistics | None = None
    ) -> list[Tensor]:
        """Feature maps of raw intensities.

        Args:
            x: Raw HU or MR intensities, [B, C, *spatial]; C is 1 or the network's channels.
            layers: Indices of the layers wanted, in the order wanted; all of them when left out.
            statistics: What normalisation refers to; each image's own when left out.

        Returns:
            One tensor [B, channels, *ceil(spatial / stride)] a layer.

        Raises:
            InputError: Wrong number of axes or channels, an image below `minimum_size`, an unknown layer.
        """
        indices = tuple(range(len(self.layers))) if layers is None else tuple(layers)
        self._check(x, indices)
        if x.shape[1] == 1 and self.channels > 1:
            x = x.expand(-1, self.channels, *x.shape[2:])
        found = self._extract(x, max(indices) + 1, statistics)
        return [found[i] for i in indices]

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stays in evaluation mode whatever the caller's model does."""
        return super().train(False)

    def freeze(self) -> FeatureExtractor:
        """No gradient to the weights; called once by every subclass when its weights are in place."""
        self.eval()
        return self.requires_grad_(False)

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        """The first `count` layers of `x` [B, C, *spatial] (channels already right)."""
        raise NotImplementedError

    def _check(self, x: Tensor, indices: Sequence[int]) -> None:
        if x.ndim != self.dimension + 2:
            raise InputError(
                self.name, found=f"an input of shape {tuple(x.shape)}", expected=f"[B, C, {self.dimension} axes]"
            )
        if x.shape[1] not in (1, self.channels):
            raise InputError(self.name, found=f"{x.shape[1]} channels", expected=f"1 or {self.channels}")
        if min(x.shape[2:]) < self.minimum_size:
            raise InputError(
                self.name,
                found=f"an image of {'x'.join(map(str, x.shape[2:]))} voxels",
                expected=f"at least {self.minimum_size} along every axis",
                advice="use finer voxels, a larger image or a shallower extractor",
            )
        if not indices or min(indices) < 0 or max(indices) >= len(self.layers):
            raise InputError(
                self.name,
                found=f"layers {list(indices)}",
                expected=f"some of 0 to {len(self.layers) - 1}: " + ", ".join(v.name for v in self.layers),
            )


def per_image(x: Tensor, statistics: Statistics | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Minimum, maximum, mean and deviation as tensors that broadcast over `x` [B, C, *spatial], without gradient."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    if statistics is not None:
        given = (statistics.minimum, statistics.maximum, statistics.mean, statistics.std)
        low, high, mean, std = (torch.full(shape, v, dtype=torch.float32, device=x.device) for v in given)
    else:
        flat = x.detach().float().flatten(1)
        own = (flat.amin(1), flat.amax(1), flat.mean(1), flat.std(1, unbiased=False))
        low, high, mean, std = (v.reshape(shape) for v in own)
    return low, high, mean, std


def min_max(x: Tensor, statistics: Statistics | None) -> Tensor:
    """`x` with its range (or the given one) mapped to [0, 1]; float32."""
    low, high, _, _ = per_image(x, statistics)
    return (x.float() - low) / (high - low).clamp_min(1e-6)


def z_score(x: Tensor, statistics: Statistics | None) -> Tensor:
    """`x` with zero mean and unit deviation (its own, or the given ones); float32."""
    _, _, mean, std = per_image(x, statistics)
    return (x.float() - mean) / std.clamp_min(1e-6)


def imagenet(x: Tensor, statistics: Statistics | None) -> Tensor:
    """Min-max, then ImageNet's channel means and deviations; `x` is [B, 3, y, x]."""
    mean = torch.tensor(IMAGENET_MEAN, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=x.device).view(1, 3, 1, 1)
    return (min_max(x, statistics) - mean) / std


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last voxels so that every spatial size is a multiple; [B, C, *spatial]."""
    pads = [n for size in reversed(x.shape[2:]) for n in (0, -size % multiple)]
    return functional.pad(x, pads, mode="replicate") if any(pads) else x


def crop_to_stride(features: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """Undo `pad_to_multiple` on a feature map: ceil(size / stride) voxels along every axis."""
    kept = [slice(0, -(-n // stride)) for n in size]
    return features[(slice(None), slice(None), *kept)]
