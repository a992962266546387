"""Any network that returns feature maps as an extractor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics, crop_to_stride, pad_to_multiple, z_score
from sctlab.features.probing import PROBE, measure_reach, multiple_of, strides_of
from sctlab_model.errors import InputError

Normalisation = Callable[[Tensor, Statistics | None], Tensor]


class ModuleExtractor(FeatureExtractor):
    """An ordinary `torch.nn.Module` behind the extractors' protocol; made by `wrap_module`."""

    def __init__(
        self, name: str, module: nn.Module, *, normalise: Normalisation, dimension: int, channels: int
    ) -> None:
        module.eval()
        with torch.no_grad():
            maps = _maps(module, torch.rand(1, channels, *[PROBE] * dimension))
        if not maps or any(m.ndim != dimension + 2 for m in maps):
            raise InputError(
                name,
                found=f"outputs of shapes {[tuple(m.shape) for m in maps]}",
                expected=f"one or more feature maps [B, C, {dimension} axes]",
            )
        strides = strides_of(maps)
        reach = measure_reach(lambda x: _maps(module, x), dimension, channels, strides)
        super().__init__(
            name,
            dimension=dimension,
            channels=channels,
            layers=[
                Layer(f"layer {i + 1}", m.shape[1], stride, view, offset)
                for i, (m, stride, (view, offset)) in enumerate(zip(maps, strides, reach, strict=True))
            ],
            normalisation=normalise.__name__,
            minimum_size=max(strides),
        )
        self.module, self.normalise = module, normalise
        self.multiple = multiple_of(lambda x: _maps(module, x), dimension, channels, strides)
        self.freeze()

    def architecture(self) -> dict[str, object]:
        return {"name": self.name}

    def rename(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The module's own names are taken, too."""
        return {k if k.startswith("module.") else f"module.{k}": v for k, v in tensors.items()}

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        padded = pad_to_multiple(self.normalise(x, statistics), self.multiple)
        maps = _maps(self.module, padded)[:count]
        return [crop_to_stride(m, x.shape[2:], stride) for m, stride in zip(maps, self.strides, strict=False)]


def wrap_module(
    name: str,
    module: nn.Module,
    *,
    normalise: Normalisation = z_score,
    dimension: int = 2,
    channels: int = 1,
) -> FeatureExtractor:
    """An extractor of a network that maps [B, C, *spatial] to one feature map or a sequence of them.

    Strides, fields of view, offsets and the sizes that it takes are measured on a small image. Inputs are normalised
    by `normalise` and padded where the network wants a multiple; the network is frozen.

    Args:
        name: For records, and the name that it is registered under.
        module: The network, with its weights or about to get them from the registered source.
        normalise: `min_max`, `z_score` or `imagenet` of `sctlab.features.extractor`, or a function like them: raw
            intensities and statistics (None: each image's own) in, the network's input out.
        dimension: Spatial axes, 2 or 3.
        channels: Input channels; a single-channel image is repeated.

    Raises:
        InputError: The network returns something else than feature maps.
    """
    return ModuleExtractor(name, module, normalise=normalise, dimension=dimension, channels=channels)


def _maps(module: nn.Module, x: Tensor) -> Sequence[Tensor]:
    found = module(x)
    return [found] if isinstance(found, Tensor) else list(found)


__all__ = ["ModuleExtractor", "wrap_module"]
