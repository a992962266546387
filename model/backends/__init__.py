"""Backends: slices in, slices out, for one fold. The ensemble knows nothing else about a network.

A runtime is a file in this folder with a function `load`, and its name in `RUNTIMES`; it is imported when it is chosen.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol

from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sctlab_model.bundle import Fold
    from sctlab_model.network.settings import NetworkSettings
    from sctlab_model.window import Window

Runtime = Literal["torch", "onnx", "openvino"]
Precision = Literal["fp32", "bf16"]  # bf16: OpenVINO only, and only when it was asked for
RUNTIMES: dict[Runtime, str] = {"torch": "torch_backend", "onnx": "onnx_backend", "openvino": "openvino_backend"}


class Backend(Protocol):
    """One fold, ready to run.

    `__call__` takes float32 stacks [N, slices, Y, X] in the recipe's normalised units on `device`, with Y and X
    multiples of the recipe's `canvas.multiple`, and returns float32 [N, 1, Y, X] in [-1, 1] on the same device. The
    result for a sample doesn't depend on what else is in the batch. Outside of `window`, where one is given, a backend
    may skip the work and return -1. `batch_limit` is how many samples it may be given
    where PyTorch doesn't see its memory, None where it does.
    """

    device: torch.device
    description: str
    batch_limit: int | None

    def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor: ...


def load_backend(
    folder: Path,
    fold: Fold,
    settings: NetworkSettings,
    device: torch.device,
    runtime: Runtime = "torch",
    precision: Precision = "fp32",
) -> Backend:
    """Load one fold of a bundle.

    Raises:
        WeightsError: A file is missing, altered, or doesn't fit the recipe's network.
        InputError: The runtime can't use the device or the precision.
    """
    if precision != "fp32" and runtime != "openvino":
        raise InputError("--precision", found=f"{precision} with --runtime {runtime}", expected="--runtime openvino")
    module = import_module(f"sctlab_model.backends.{RUNTIMES[runtime]}")
    backend: Backend = module.load(folder, fold, settings, device, precision)
    return backend
