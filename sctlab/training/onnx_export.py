"""Folds as ONNX files: any batch and plane size, fp32 and fp16, one self-contained file each."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sctlab_model.bundle import Bundle, Fold, HashedFile, load_fold, read_bundle, write_bundle
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path
from sctlab_model.network import build_network
from sctlab_model.network.base import SynthesisNetwork
from sctlab_model.network.fusing import fold_batch_norm
from sctlab_model.network.settings import NetworkSettings

OPSET = 18


class _InferenceNetwork(nn.Module):
    """What a backend computes: float32 in and out; on request with some of the network's parts in fp16."""

    def __init__(self, network: SynthesisNetwork, half: bool) -> None:
        super().__init__()
        self.network = network
        self.half_parts = network.half_parts if half else ()
        for name in self.half_parts:
            network.parts[name].half()

    def forward(self, stacks: Tensor) -> Tensor:
        values: Any = self.network.prepare_stacks(stacks)
        for name, part in self.network.parts.items():
            values = part(_cast(values, torch.half if name in self.half_parts else torch.float))
        return torch.tanh(self.network.middle_slice(values).float())


def _cast(values: Any, dtype: torch.dtype) -> Any:
    """A part's input, one tensor or a list of them, in a type."""
    return [v.to(dtype) for v in values] if isinstance(values, list | tuple) else values.to(dtype)


def export_network(state: dict[str, Tensor], settings: NetworkSettings, *, half: bool) -> bytes:
    """An ONNX model: input `stacks` float32 [n, slices, y, x], output `unit` float32 [n, 1, y, x] in [-1, 1].

    Batch norms are folded. `n` is free, `y` and `x` are multiples of 32.
    """
    import onnx

    network = build_network(settings)
    network.load_state_dict(state)
    fold_batch_norm(network, settings.slices)
    wrapped = _InferenceNetwork(network, half).eval()
    example = torch.zeros(2, settings.slices, 64, 96)
    free = {"stacks": {0: "n", 2: "y", 3: "x"}, "unit": {0: "n", 2: "y", 3: "x"}}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # this exporter is deprecated, see below
        # The TorchScript-based exporter: 0.6 s of processor time a file where dynamo=True takes 14 s (torch 2.14,
        # onnxscript 0.7) for files that agree with PyTorch as well: 0.001 HU in fp32 and 0.7 HU in fp16 (99.9th
        # percentile). When torch drops it: dynamo=True, dynamic_shapes {0: Dim, 2: 32 * Dim, 3: 32 * Dim},
        # external_data=False.
        torch.onnx.export(
            wrapped,
            (example,),
            cast(Any, file),  # the exporter that is left takes streams, its type says paths only
            dynamo=False,
            dynamic_axes=free,
            input_names=["stacks"],
            output_names=["unit"],
            opset_version=OPSET,
        )
    data = file.getvalue()
    onnx.checker.check_model(onnx.load_from_string(data))
    return data


def export_bundle(folder: Path, precisions: Sequence[Literal["fp32", "fp16"]] = ("fp32", "fp16")) -> Bundle:
    """Add ONNX files of every fold to a bundle and to its manifest.

    Raises:
        WeightsError: The bundle is damaged.
        InputError: The exporter refuses the network.
    """
    bundle = read_bundle(folder)
    groups = []
    for group in bundle.groups:
        folds = [_export_fold(folder, fold, bundle.recipe.network, precisions) for fold in group.folds]
        groups.append(group.model_copy(update={"folds": tuple(folds)}))
    bundle = bundle.model_copy(update={"groups": tuple(groups)})
    write_bundle(bundle, folder)
    return bundle


def _export_fold(
    folder: Path, fold: Fold, settings: NetworkSettings, precisions: Sequence[Literal["fp32", "fp16"]]
) -> Fold:
    state = load_fold(folder, fold)
    files = dict(fold.onnx)
    for precision in precisions:
        try:
            data = export_network(state, settings, half=precision == "fp16")
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise InputError(
                folder / fold.weights.file,
                found=f"can't be exported ({type(error).__name__}: {reason})",
                expected="a network of operators that ONNX has",
            ) from error
        name = f"{Path(fold.weights.file).stem}_{precision}.onnx"
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(data)
        files[precision] = HashedFile(file=name, sha256=hashlib.sha256(data).hexdigest())
    return fold.model_copy(update={"onnx": files})
