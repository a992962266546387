"""Folds as ONNX files: any batch and plane size, fp32 and fp16, one self-contained file each."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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


class Exporter:
    """ONNX models of one network: input `stacks` float32 [n, slices, y, x], output `unit` float32 [n, 1, y, x] in [-1, 1].

    Batch norms are folded. `n` is free, `y` and `x` are multiples of 32. Making the graph takes 19 s of processor time for
    the demonstration network, once; the weights of every fold are put into it in 0.2 s. Where the exporter computes weights
    into something else (instance norms), every fold gets a graph of its own.

    Args:
        settings: Of the network.
        half: Some of its parts in fp16.
    """

    def __init__(self, settings: NetworkSettings, *, half: bool) -> None:
        self.settings, self.half = settings, half
        self._program: Any = None
        self._takes_weights = False

    def export(self, state: dict[str, Tensor]) -> bytes:
        """The model of one fold's weights.

        Raises:
            RuntimeError: The exporter refuses the network.
        """
        import onnx

        network = build_network(self.settings)
        network.load_state_dict(state)
        fold_batch_norm(network, self.settings.slices)
        wrapped = _InferenceNetwork(network, self.half).eval()
        if self._program is None or not self._takes_weights:
            self._program = self._graph(wrapped)
            # A weight that the exporter computed into something else would keep the first fold's values.
            used = _used_weights(self._program.exported_program)
            self._takes_weights = used <= set(self._program.model.graph.initializers)
        else:
            used = _used_weights(self._program.exported_program)
            self._program.apply_weights({name: value for name, value in wrapped.state_dict().items() if name in used})
        data: bytes = self._program.model_proto.SerializeToString()
        onnx.checker.check_model(onnx.load_from_string(data))
        return data

    def _graph(self, wrapped: _InferenceNetwork) -> Any:
        from torch.export import Dim

        sizes = {0: Dim("n"), 2: 32 * Dim("rows"), 3: 32 * Dim("columns")}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of libraries about their own future
            return torch.onnx.export(
                wrapped,
                (torch.zeros(2, self.settings.slices, 64, 96),),
                dynamo=True,
                dynamic_shapes=(sizes,),
                input_names=["stacks"],
                output_names=["unit"],
                opset_version=OPSET,
                verbose=False,
            )


def _used_weights(program: torch.export.ExportedProgram) -> set[str]:
    """Names of the weights that a graph computes with; some encoders own a classifier that never runs."""
    nodes = {node.name: node for node in program.graph.nodes}
    return {s.target for s in program.graph_signature.input_specs if s.target is not None and nodes[s.arg.name].users}


def export_bundle(folder: Path, precisions: Sequence[Literal["fp32", "fp16"]] = ("fp32", "fp16")) -> Bundle:
    """Add ONNX files of every fold to a bundle and to its manifest.

    Raises:
        WeightsError: The bundle is damaged.
        InputError: The exporter refuses the network.
    """
    bundle = read_bundle(folder)
    exporters = {p: Exporter(bundle.recipe.network, half=p == "fp16") for p in precisions}
    groups = []
    for group in bundle.groups:
        folds = [_export_fold(folder, fold, exporters) for fold in group.folds]
        groups.append(group.model_copy(update={"folds": tuple(folds)}))
    bundle = bundle.model_copy(update={"groups": tuple(groups)})
    write_bundle(bundle, folder)
    return bundle


def _export_fold(folder: Path, fold: Fold, exporters: Mapping[Literal["fp32", "fp16"], Exporter]) -> Fold:
    state = load_fold(folder, fold)
    files = dict(fold.onnx)
    for precision, exporter in exporters.items():
        try:
            data = exporter.export(state)
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
