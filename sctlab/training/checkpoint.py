"""Checkpoints: tensors in safetensors, everything else in JSON; whole or absent, nothing pickled.

A checkpoint `last` is two files: `last.json`, which names a safetensors file and its SHA-256, and that file. The
tensors are written first, under a name of their own; replacing the JSON is the moment the checkpoint changes. A
process that is killed at any point leaves the one before or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sctlab_model.cases import read_json
from sctlab_model.errors import WeightsError
from sctlab_model.io.writing import atomic_path, write_json


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write checkpoint `name` in `folder`, replacing the one before.

    Args:
        tensors: On any device; stored with their type.
        values: JSON values.

    Raises:
        InputError: The disk is full or the folder can't be written; the checkpoint before stays.
    """
    # A copy of each: safetensors refuses tensors that share memory.
    data = save({k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    file = folder / f"{name}-{digest[:16]}.safetensors"
    if not file.is_file():
        with atomic_path(file) as temporary:
            temporary.write_bytes(data)
    write_json(folder / f"{name}.json", {**values, "file": file.name, "sha256": digest})
    for other in [*folder.glob(f"{name}-*.safetensors"), *folder.glob(f".{name}-*.part*")]:
        if other != file:
            other.unlink(missing_ok=True)


def has_checkpoint(folder: Path, name: str) -> bool:
    """Whether the checkpoint is there."""
    return (folder / f"{name}.json").is_file()


def read_values(folder: Path, name: str) -> dict[str, Any]:
    """The JSON part of a checkpoint."""
    if not has_checkpoint(folder, name):
        raise WeightsError(folder / f"{name}.json", found="no such file", expected="a checkpoint of `sctlab train`")
    return read_json(folder / f"{name}.json")


def load_checkpoint(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and values of a checkpoint.

    Raises:
        WeightsError: A file is missing, altered or cut.
    """
    values = read_values(folder, name)
    path = folder / str(values.get("file"))
    if not path.is_file():
        raise WeightsError(path, found="no such file", expected=f"the tensors of {folder / name}.json")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != values["sha256"]:
        raise WeightsError(
            path, found=f"SHA-256 {found}", expected=values["sha256"], advice="the checkpoint was altered"
        )
    try:
        return load(data), values
    except SafetensorError as error:
        raise WeightsError(
            path, found=f"not safetensors ({error})", expected="a checkpoint of `sctlab train`"
        ) from error


def pack_state(network: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """Weights as `model.<name>` and the optimiser's per-parameter state as `optimiser.<index>.<name>`."""
    tensors = {f"model.{k}": v for k, v in network.state_dict().items()}
    if optimiser is not None:
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `pack_state` took from an optimiser; its settings (learning rate, …) stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part(tensors, "optimiser").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    # A fused optimiser walks memory, not indices: its state must lie as the parameter does (channels_last).
    for parameter, values in optimiser.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                values[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
