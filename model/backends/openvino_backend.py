"""OpenVINO on the CPU, from a bundle's safetensors: an optional package (`pip install sctlab[openvino]`)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sctlab_model.backends import Precision
from sctlab_model.backends.torch_backend import load_network
from sctlab_model.bundle import Fold
from sctlab_model.errors import InputError
from sctlab_model.network.base import SynthesisNetwork
from sctlab_model.network.fusing import fold_batch_norm
from sctlab_model.network.settings import NetworkSettings
from sctlab_model.window import Window


class OpenVinoBackend:
    """A network compiled by OpenVINO, any batch and plane size.

    Args:
        network: Put into eval mode and changed in place.
        slices: Slices of its input.
        precision: `bf16` computes the layers in bfloat16 where the processor can, tanh and the output in float32. It
            moves a CT by tens of HU: only what a user asks for.

    Raises:
        InputError: OpenVINO isn't installed, or computes in float32 what was to be bfloat16.
    """

    batch_limit: int | None = 8

    def __init__(self, network: SynthesisNetwork, slices: int, precision: Precision = "fp32") -> None:
        try:
            import openvino
        except ImportError as error:
            raise InputError(
                "--runtime openvino",
                found=f"OpenVINO can't be imported ({error})",
                expected="the package openvino",
                advice="pip install 'sctlab[openvino]', or choose --runtime torch",
            ) from error
        fold_batch_norm(network.float().cpu(), slices)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's front end uses PyTorch's deprecated tracing
            example = torch.zeros(1, slices, 64, 64)
            model = openvino.convert_model(_Logits(network).eval(), example_input=example, input=[-1, slices, -1, -1])
        # Without the hint OpenVINO chooses bfloat16 by itself wherever the processor has it.
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        check_precision(precision, compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        self.request = compiled.create_infer_request()
        self.device = torch.device("cpu")
        self.description = f"OpenVINO {openvino.__version__.split('-')[0]}, {precision}"

    def __call__(self, stacks: Tensor, window: Window | None = None) -> Tensor:
        self.request.infer([stacks.float().contiguous().numpy()], share_inputs=True)
        # A copy: the request overwrites its output the next time. tanh in float32, as in every backend.
        return torch.tanh(torch.from_numpy(self.request.get_output_tensor(0).data.copy()))


def check_precision(asked: Precision, used: str) -> None:
    """Refuse to say bfloat16 of what OpenVINO computes otherwise, e.g. because the processor hasn't got it.

    Args:
        asked: What the user wants.
        used: OpenVINO's name of what it computes with, such as `bf16` or `f32`.

    Raises:
        InputError: Another one.
    """
    if asked == "bf16" and used != "bf16":
        raise InputError(
            "--precision bf16", found=f"a processor on which OpenVINO computes in {used}", expected="--precision fp32"
        )


class _Logits(nn.Module):
    def __init__(self, network: SynthesisNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, stacks: Tensor) -> Tensor:
        return self.network.logits(stacks)


def load(
    folder: Path, fold: Fold, settings: NetworkSettings, device: torch.device, precision: Precision
) -> OpenVinoBackend:
    """Compile a fold's safetensors.

    Raises:
        WeightsError: The file is missing, altered, or doesn't fit the recipe's network.
        InputError: Another device than the CPU, or no OpenVINO.
    """
    if device.type != "cpu":
        raise InputError(
            "--runtime openvino", found=f"device {device}", expected="--device cpu", advice="choose --runtime torch"
        )
    return OpenVinoBackend(load_network(folder, fold, settings), settings.slices, precision)
