"""Published TorchScript extractors, loaded unchanged through their public interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics, crop_to_stride, pad_to_multiple
from sctlab.features.probing import PROBE, measure_reach, multiple_of, strides_of
from sctlab.features.trust import load_torchscript
from sctlab_model.errors import InputError

_FAILURES = (RuntimeError, torch.jit.Error)  # of an operation; raised by the model's own code
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class TorchScriptExtractor(FeatureExtractor):
    """A TorchScript file with `forward(x, nb_layers, stats, direction) -> list[Tensor]`.

    The model normalises raw intensities itself: with `stats` (min, max, mean, std) when they are given, with its
    input's own otherwise. Channels, dimension, layers and strides are found by probing it with a small image, and so
    is whether it takes any size: for a U-Net that doesn't pad by itself inputs are padded and its maps cropped.
    Such a file is code: it is loaded only when somebody vouches for it, see `sctlab.features.trust`.

    Args:
        path: The `.pt` file.
        field_of_view: Edge of the region that each layer sees, in voxels; measured by probing when left out.

    Raises:
        InputError: Not a TorchScript file, one that is not trusted, or one with another interface.
    """

    def __init__(self, path: str | Path, *, field_of_view: tuple[int, ...] | None = None) -> None:
        path = Path(path)
        script = load_torchscript(path)
        dimension, channels, maps = _probe(script, path)
        strides = strides_of(maps)
        neutral = Statistics(0.0, 1.0, 0.5, 0.3)
        reach = measure_reach(lambda x: _call(script, x, len(strides), neutral), dimension, channels, strides)
        layers = [
            Layer(f"layer {i + 1}", m.shape[1], s, field_of_view[i] if field_of_view else view, offset)
            for i, (m, s, (view, offset)) in enumerate(zip(maps, strides, reach, strict=True))
        ]
        super().__init__(
            path.stem,
            dimension=dimension,
            channels=channels,
            layers=layers,
            normalisation="inside the model; statistics passed on when given",
            minimum_size=max(2, *strides),
        )
        self.script, self.multiple = (
            script,
            multiple_of(lambda x: _call(script, x, len(strides)), dimension, channels, strides),
        )
        self.freeze()

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        x = x.float()
        padded = pad_to_multiple(x, self.multiple)
        if padded is x or statistics is not None:
            found = self._run(padded, count, statistics)
        else:  # the model's own statistics would count the padding
            images = [(pad_to_multiple(image, self.multiple), Statistics.of(image)) for image in x.split(1)]
            parts = [self._run(image, count, own) for image, own in images]
            found = [torch.cat(maps) for maps in zip(*parts, strict=True)]
        return [crop_to_stride(f, x.shape[2:], stride) for f, stride in zip(found, self.strides, strict=False)]

    def _run(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        """The model's maps, its failures in one sentence."""
        try:
            return _call(self.script, x, count, statistics)
        except _FAILURES as error:
            if any(words in str(error) for words in _NO_MEMORY):
                raise  # not the model's fault
            raise InputError(
                self.name,
                found=f"it fails on an input of {'x'.join(map(str, x.shape[2:]))} voxels ({_reason(error)})",
                expected="a model that takes an image of this size",
                advice="use a larger image or finer voxels",
            ) from error


def _call(script: Any, x: Tensor, count: int, statistics: Statistics | None = None) -> list[Tensor]:
    values = [] if statistics is None else [statistics.minimum, statistics.maximum, statistics.mean, statistics.std]
    stats = torch.tensor(values, dtype=torch.float32, device=x.device)
    direction = torch.empty(0, dtype=torch.float32, device=x.device)
    return list(script(x, torch.tensor([count], device=x.device), stats, direction))


def _reason(error: Exception) -> str:
    """The last line of what TorchScript says, after the trace through its interpreter."""
    return str(error).strip().splitlines()[-1].split("RuntimeError: ")[-1][:120]


@torch.no_grad()
def _probe(script: Any, path: Path) -> tuple[int, int, list[Tensor]]:
    """Dimension, channels and the maps of all layers for a small image."""
    reason = ""
    for dimension, channels in ((3, 1), (2, 3), (2, 1), (3, 3)):
        x = torch.linspace(0, 1, channels * PROBE**dimension).reshape(1, channels, *[PROBE] * dimension)
        try:
            maps = _call(script, x, 1)
        except _FAILURES as error:
            reason = _reason(error)
            continue
        for count in range(2, 65):  # the interface has no way to ask how many layers there are
            try:
                more = _call(script, x, count)
            except _FAILURES:
                break
            if len(more) <= len(maps):
                break
            maps = more
        if all(isinstance(m, Tensor) and m.ndim == dimension + 2 for m in maps) and maps:
            return dimension, channels, maps
        reason = f"outputs of shapes {[tuple(getattr(m, 'shape', ())) for m in maps]}"
    raise InputError(
        path,
        found=f"a model that can't be called ({reason})",
        expected="forward(x, nb_layers, stats, direction) -> list of [B, C, *spatial]",
    )
