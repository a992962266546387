"""Published TorchScript extractors, loaded unchanged through their public interface."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from model.errors import InputError
from sctlab.features.extractor import FeatureExtractor, Layer, Statistics

_PROBE = 64  # voxels of the probe image; a power of two shows the strides up to 64


class TorchScriptExtractor(FeatureExtractor):
    """A TorchScript file with `forward(x, nb_layers, stats, direction) -> list[Tensor]`.

    The model normalises raw intensities itself: with `stats` (min, max, mean, std) when they are given, with its
    input's own otherwise. Channels, dimension, layers and strides are found by probing it with a small image.
    The file is TorchScript's own archive; no Python pickle is executed.

    Args:
        path: The `.pt` file.
        field_of_view: Edge of the region that each layer sees, in voxels; measured by probing when left out.

    Raises:
        InputError: Not a TorchScript file, or one with another interface.
    """

    def __init__(self, path: str | Path, *, field_of_view: tuple[int, ...] | None = None) -> None:
        path = Path(path)
        if not path.is_file():
            raise InputError(path, "no such file", "a TorchScript extractor")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch.jit is deprecated, the published models still use it
                script = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise InputError(path, f"can't be loaded ({str(error).strip().splitlines()[0][:120]})",
                             "a TorchScript file (torch.jit.save)") from error  # fmt: skip
        dimension, channels, maps = _probe(script, path)
        strides = [max(1, round(_PROBE / m.shape[-1])) for m in maps]
        reach = _measure_reach(script, dimension, channels, strides)
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
            minimum_size=max(2, layers[-1].stride),
        )
        self.script = script
        self.freeze()

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        return _call(self.script, x.float(), count, statistics)


def _call(script, x: Tensor, count: int, statistics: Statistics | None = None) -> list[Tensor]:
    values = [] if statistics is None else [statistics.minimum, statistics.maximum, statistics.mean, statistics.std]
    stats = torch.tensor(values, dtype=torch.float32, device=x.device)
    direction = torch.empty(0, dtype=torch.float32, device=x.device)
    return list(script(x, torch.tensor([count], device=x.device), stats, direction))


@torch.no_grad()
def _probe(script, path: Path) -> tuple[int, int, list[Tensor]]:
    """Dimension, channels and the maps of all layers for a small image."""
    reason = ""
    for dimension, channels in ((3, 1), (2, 3), (2, 1), (3, 3)):
        x = torch.linspace(0, 1, channels * _PROBE**dimension).reshape(1, channels, *[_PROBE] * dimension)
        try:
            maps = _call(script, x, 1)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:120]
            continue
        for count in range(2, 65):  # the interface has no way to ask how many layers there are
            try:
                more = _call(script, x, count)
            except RuntimeError:
                break
            if len(more) <= len(maps):
                break
            maps = more
        if all(isinstance(m, Tensor) and m.ndim == dimension + 2 for m in maps) and maps:
            return dimension, channels, maps
        reason = f"outputs of shapes {[tuple(getattr(m, 'shape', ())) for m in maps]}"
    raise InputError(path, f"a model that can't be called ({reason})",
                     "forward(x, nb_layers, stats, direction) -> list of [B, C, *spatial]")  # fmt: skip


def _measure_reach(script, dimension: int, channels: int, strides: list[int]) -> list[tuple[int, float]]:
    """Field of view and offset of every layer: where the gradient of its central voxel arrives, along one axis.

    Where normalisation layers couple all voxels weakly, only gradients above 1 % of the largest count. A layer that
    sees the whole probe, or passes no gradient (a one-hot map), gets the probe's edge and no offset.
    """
    x = torch.rand(1, channels, *[_PROBE] * dimension, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = _call(script, x, len(strides), Statistics(0.0, 1.0, 0.5, 0.3))
    found = []
    for feature, stride in zip(features, strides, strict=True):
        if not feature.requires_grad:
            found.append((_PROBE, 0.0))
            continue
        middle = feature.shape[2] // 2
        centre = (slice(None), slice(None), *(n // 2 for n in feature.shape[2:]))
        (gradient,) = torch.autograd.grad(feature[centre].sum(), x, retain_graph=True)
        profile = gradient.abs().amax(dim=(0, 1, *range(3, gradient.ndim)))
        reached = torch.nonzero(profile > 0.01 * profile.max()).flatten().tolist() or [0, _PROBE - 1]
        first, last = reached[0], reached[-1]
        inside = first > 0 and last < _PROBE - 1
        found.append((last - first + 1, (first + last) / 2 - stride * middle if inside else 0.0))
    return found
