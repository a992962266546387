"""The stages of a U-Net of `dynamic_network_architectures`, one place for all who read its features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, autocast, cat, nn


def unet_stages(
    network: nn.Module, x: Tensor, count: int | None = None, *, float32_from: int | None = None
) -> list[Tensor]:
    """Feature maps: encoder stages from fine to deep, then decoder stages from deep to fine.

    Args:
        network: With `encoder` and `decoder` as in `dynamic_network_architectures`.
        x: [B, C, *spatial], a multiple of the deepest stride.
        count: How many are wanted; all when left out.
        float32_from: Stages of this depth and deeper leave autocast: they cost little, and oneDNN's bfloat16 gradients of
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
        x = _run(stage, x, float32_from is not None and index >= float32_from)
        found.append(x)
    skips = list(found)
    for index, (up, stage) in enumerate(steps[: max(0, count - len(skips))]):
        deep = float32_from is not None and len(skips) - 2 - index >= float32_from
        x = _run(stage, cat((up(x), skips[-(index + 2)]), dim=1), deep)
        found.append(x)
    return found


def _run(stage: nn.Module, x: Tensor, in_float32: bool) -> Tensor:
    if not in_float32:
        return stage(x)
    with autocast(x.device.type, enabled=False):
        return stage(x.float())
