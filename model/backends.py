"""Backends: slices in, slices out, for one fold. The ensemble knows nothing else about a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from model.bundle import Fold, load_fold
from model.errors import InputError, WeightsError
from model.network import build_network, fold_batch_norm
from model.recipe import NetworkSettings

if TYPE_CHECKING:
    from pathlib import Path


class Backend(Protocol):
    """One fold, ready to run.

    `__call__` takes float32 stacks [N, slices, Y, X] in the recipe's normalised units on `device`, with Y and X
    multiples of 32, and returns float32 [N, 1, Y, X] in [-1, 1] on the same device. The result for a sample
    doesn't depend on what else is in the batch.
    """

    device: torch.device
    description: str

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor: ...


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: Unknown name, or CUDA asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("--device", f"'{name}'", "auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError("--device", f"'{name}'", "auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            "--device", f"'{name}' with {torch.cuda.device_count()} CUDA devices here", "a device that exists"
        )
    return device


def describe_device(device: torch.device) -> str:
    """The device in words, for the report."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


class TorchBackend:
    """PyTorch: float32 on the CPU; on CUDA fp16 with the head and the output in float32, never bf16.

    Args:
        network: A `SynthesisNetwork` (moved, put into eval mode and changed in place).
        slices: Channels of its input.
        device: Where to run.
        half: fp16; by default on CUDA only.
    """

    def __init__(
        self, network: torch.nn.Module, slices: int, device: torch.device, *, half: bool | None = None
    ) -> None:
        self.device = device
        self.half = device.type == "cuda" if half is None else half
        self.network = fold_batch_norm(network.float().cpu(), slices)
        self.network = self.network.to(device=device, memory_format=torch.channels_last).eval()
        if self.half:
            self.network.unet.half()
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.description = f"PyTorch {torch.__version__}, {'fp16' if self.half else 'fp32'}"

    def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            stacks = stacks.to(memory_format=torch.channels_last, dtype=torch.half if self.half else torch.float32)
            # tanh in float32: near -1 (air) fp16 steps are 1 HU
            return torch.tanh(self.network.unet(stacks).float())


def load_backend(folder: Path, fold: Fold, settings: NetworkSettings, device: torch.device) -> TorchBackend:
    """Load one fold of a bundle.

    Raises:
        WeightsError: The file is missing, altered, or doesn't fit the recipe's network.
    """
    # The state dict overwrites every parameter: skip the initialisation, which costs seconds at start.
    with torch.device("meta"):
        network = build_network(settings)
    state = load_fold(folder, fold)
    try:
        network.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(folder / fold.weights.file, f"weights of another network ({reason[:160]})",
                           f"U-Net++ with {settings.encoder}") from error  # fmt: skip
    return TorchBackend(network, settings.slices, device)
