"""Batch norms folded into the convolutions before them, for inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norm(network: nn.Module, slices: int) -> nn.Module:
    """Fold every batch norm that directly follows a convolution into it, in place; for inference only.

    y = gamma (Wx + b - mean) / sqrt(var + eps) + beta is a convolution with scaled weights (Jacob 2018, eq. 14).
    Which norm follows which convolution is observed in one forward pass, so any encoder works; an
    activation that the norm carries (timm's BatchNormAct2d) stays in its place.

    Args:
        network: In float32; it is put into eval mode.
        slices: Channels of its input.
    """
    producer: dict[int, nn.Conv2d | nn.Conv3d] = {}
    alive: list[torch.Tensor] = []  # keeps outputs alive, or a freed tensor's id could be reused
    pairs: list[tuple[nn.Conv2d | nn.Conv3d, nn.BatchNorm2d | nn.BatchNorm3d]] = []

    def after_conv(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        producer[id(output)] = module
        alive.append(output)

    def before_norm(module: Any, inputs: tuple) -> None:
        if id(inputs[0]) in producer:
            pairs.append((producer[id(inputs[0])], module))

    hooks = [m.register_forward_hook(after_conv) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    hooks += [
        m.register_forward_pre_hook(before_norm)
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)
    ]
    network.eval()
    parameter = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(1, slices, 64, 64, device=parameter.device, dtype=parameter.dtype))
    for hook in hooks:
        hook.remove()
    names = {id(module): (parent, name) for parent in network.modules() for name, module in parent.named_children()}
    for conv, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        parent, name = names[id(norm)]
        activation = getattr(norm, "act", None)
        setattr(parent, name, activation if isinstance(activation, nn.Module) else nn.Identity())
    return network
