"""For inference: batch norms folded into the convolutions before them, and ReLUs computed with them."""

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


class FusedConvolution(nn.Module):
    """A 2D convolution with its bias and the ReLU after it: on a GPU one call of cuDNN, elsewhere two.

    Args:
        convolution: What it computes; with a bias.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert not isinstance(convolution.padding, str)
        self.convolution, self.padding = convolution, convolution.padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, y, x] to [N, channels', y', x'], none of it negative."""
        conv = self.convolution
        if not x.is_cuda:
            return torch.relu_(conv(x))
        made: torch.Tensor = torch.cudnn_convolution_relu(
            x, conv.weight, conv.bias, conv.stride, self.padding, conv.dilation, conv.groups
        )
        return made


def fuse_relu(network: nn.Module, slices: int) -> int:
    """Put convolutions and the ReLUs that directly follow them into one call, in place; for inference only.

    Which follows which is observed in one forward pass. A ReLU that is also called elsewhere (a residual block calls one
    after its sum, too) stays, and so does the convolution before it; the network's first convolution stays as well, because
    it may have a precision of its own.

    Args:
        network: On the CPU, in float32, after `fold_batch_norm`.
        slices: Channels of its input.

    Returns:
        How many pairs there were.
    """
    made_by: dict[int, tuple[nn.Conv2d, int]] = {}
    alive: list[torch.Tensor] = []  # keeps outputs alive, or a freed tensor's id could be reused
    before: dict[nn.ReLU, list[nn.Conv2d | None]] = {}
    order: list[nn.Conv2d] = []

    def after_conv(module: Any, inputs: tuple, output: torch.Tensor) -> None:
        made_by[id(output)] = module, output._version
        alive.append(output)
        order.append(module)

    def before_relu(module: Any, inputs: tuple) -> None:
        conv, version = made_by.get(id(inputs[0]), (None, 0))
        untouched = inputs[0]._version == version  # nothing was added to it in place
        before.setdefault(module, []).append(conv if untouched else None)

    hooks = [m.register_forward_hook(after_conv) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_relu) for m in network.modules() if isinstance(m, nn.ReLU)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, slices, 64, 64))
    for hook in hooks:
        hook.remove()
    fused = 0
    names = {module: name for name, module in network.named_modules()}
    for relu, convolutions in before.items():
        kept = [c for c in convolutions if c is not None and c.bias is not None and not isinstance(c.padding, str)]
        once = len(set(kept)) == len(convolutions) and all(order.count(c) == 1 for c in kept)
        if not once or order[0] in kept:
            continue
        for conv in kept:
            network.set_submodule(names[conv], FusedConvolution(conv))
        network.set_submodule(names[relu], nn.Identity())
        fused += len(kept)
    return fused
