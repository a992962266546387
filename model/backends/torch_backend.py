"""PyTorch: the runtime that every bundle has weights for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sctlab_model.backends import Precision
from sctlab_model.bundle import MANIFEST, Fold, load_fold
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.network import build_network
from sctlab_model.network.base import SynthesisNetwork
from sctlab_model.network.fusing import fold_batch_norm, fuse_relu
from sctlab_model.network.settings import NetworkSettings
from sctlab_model.window import Window

# On a GPU: bias and ReLU in cuDNN's call of the convolution. Nobody has timed it: `benchmarks/predict.py --table` does.
FUSE_RELU = False


class TorchBackend:
    """PyTorch: float32 on the CPU; on CUDA fp16 with the first convolution, tanh and the output in float32, never bf16.

    Rounding the first convolution's weights alone moved a trained fold's 99.9th percentile by 5 HU: differences between
    neighbours are what they see, and those are small beside the values.

    Args:
        network: Moved, put into eval mode and changed in place.
        slices: Slices of its input.
        device: Where to run.
        half: fp16; by default on CUDA only.
    """

    batch_limit: int | None = None

    def __init__(
        self, network: SynthesisNetwork, slices: int, device: torch.device, *, half: bool | None = None
    ) -> None:
        self.device = device
        self.half = device.type == "cuda" if half is None else half
        fold_batch_norm(network.float().cpu(), slices)
        if device.type == "cpu":  # not tried on a GPU, where windows of many shapes would be tuned one by one
            network.prepare_inference()
        elif FUSE_RELU:
            fuse_relu(network, slices)
        placed: Any = network.to(device)
        self.network: SynthesisNetwork = placed.to(memory_format=network.memory_format).eval()
        if self.half:
            _to_half(self.network)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = False  # float32 here is what fp16 is too coarse for, and TF32 as well
        self.description = f"PyTorch {torch.__version__}, {'fp16' if self.half else 'fp32'}"

    def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        with torch.inference_mode():
            stacks = stacks.to(
                memory_format=self.network.memory_format, dtype=torch.half if self.half else torch.float32
            )
            window = window or Window.whole(tuple(stacks.shape))
            unit = torch.full((len(stacks), 1, *stacks.shape[2:]), -1.0, device=stacks.device)
            # tanh in float32: near -1 (air) fp16 steps are 1 HU
            unit[window.part] = torch.tanh(self.network.logits_in(stacks, window).float())
            return unit


class InFloat32(nn.Module):
    """A convolution of float32 weights in a network of fp16.

    Args:
        convolution: What it computes.
    """

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any precision in, fp16 out."""
        made: torch.Tensor = self.convolution(x.float()).half()
        return made


def _to_half(network: nn.Module) -> None:
    """fp16, but for the first convolution."""
    name = next(n for n, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    first = copy.deepcopy(network.get_submodule(name))
    assert isinstance(first, nn.Conv2d | nn.Conv3d)
    network.half()
    network.set_submodule(name, InFloat32(first))


def load(
    folder: Path, fold: Fold, settings: NetworkSettings, device: torch.device, precision: Precision = "fp32"
) -> TorchBackend:
    """Run a fold's safetensors.

    Raises:
        WeightsError: The file is missing, altered, or doesn't fit the recipe's network.
    """
    return TorchBackend(load_network(folder, fold, settings), settings.slices, device)


def load_network(folder: Path, fold: Fold, settings: NetworkSettings) -> SynthesisNetwork:
    """A fold's network with its weights, on the CPU.

    Raises:
        WeightsError: The file is missing, altered, or doesn't fit the recipe's network.
    """
    try:
        with torch.device("meta"), _Unfilled():  # the state dict brings every value
            network = build_network(settings)
    except InputError as error:
        raise WeightsError(
            folder / MANIFEST, found=f"recipe.{error.where}: {error.found}", expected=error.expected
        ) from error
    state = load_fold(folder, fold)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(
            folder / fold.weights.file,
            found=f"weights of another network ({reason[:240]})",
            expected=f"{settings.description} and {settings.slices} slices, as recipe.network says in {MANIFEST}",
        ) from error
    return network


class _Unfilled(TorchFunctionMode):
    """Leaves out drawing initial values: on the meta device PyTorch would import its compiler for it, which takes
    as long as all the rest of loading."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if getattr(function, "__name__", "") in {"normal_", "uniform_"}:
            return named["tensor"] if named and "tensor" in named else arguments[0]
        return function(*arguments, **(named or {}))
