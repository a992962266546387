"""Checkpoints: tensors in safetensors, everything else in JSON; whole or absent, nothing pickled.

A checkpoint `last` is two files: `last.json`, which names a safetensors file and its SHA-256, and that file. The
tensors are written first, under a name of their own; replacing the JSON is the moment the checkpoint changes. A
process that is killed at any point leaves the one before or the new one, never a mixture.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sctlab_model.cases import read_json
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.atomic import atomic_path, write_json
from sctlab_model.io.paths import not_a_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write checkpoint `name` in `folder`, replacing the one before.

    Args:
        tensors: On any device; stored with their type.
        values: JSON values.

    Raises:
        InputError: The disk is full or the folder can't be written; the checkpoint before stays.
    """
    from safetensors.torch import save  # here, because it loads torch, and a run is refused without

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
    """The JSON part of a checkpoint.

    Raises:
        WeightsError: It isn't there, or isn't what `save_checkpoint` writes.
    """
    path = folder / f"{name}.json"
    if not has_checkpoint(folder, name):
        raise WeightsError(path, found=not_a_file(path), expected="a checkpoint of `sctlab train`")
    try:
        values = read_json(path)
    except InputError as error:
        raise WeightsError(path, found=error.found, expected="a checkpoint of `sctlab train`") from error
    if not isinstance(values, dict) or not {"file", "sha256"} <= values.keys():
        raise WeightsError(path, found="no file and sha256 in it", expected="a checkpoint of `sctlab train`")
    return values


def load_checkpoint(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and values of a checkpoint.

    Raises:
        WeightsError: A file is missing, altered or cut.
    """
    values = read_values(folder, name)
    path = folder / str(values["file"])
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected=f"the tensors of {folder / name}.json")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != values["sha256"]:
        raise WeightsError(
            path, found=f"SHA-256 {found}", expected=values["sha256"], advice="the checkpoint was altered"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data), values
    except SafetensorError as error:
        raise WeightsError(
            path, found=f"not safetensors ({error})", expected="a checkpoint of `sctlab train`"
        ) from error


MAIN = "generator"  # the network of the bundle and its optimiser have short names: checkpoints outlive objectives


def pack_networks(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Weights as `model.<name>` for the generator and `networks.<network>.<name>` for the others."""
    return {
        f"{_prefix(name, 'model', 'networks')}.{k}": v
        for name, n in networks.items()
        for k, v in n.state_dict().items()
    }


def pack_optimisers(optimisers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of each parameter as `optimiser.<index>.<name>` or `optimisers.<optimiser>.<index>.<name>`."""
    import torch

    tensors: dict[str, Tensor] = {}
    for name, optimiser in optimisers.items():
        prefix = _prefix(name, "optimiser", "optimisers")
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{prefix}.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors


def _prefix(name: str, own: str, others: str) -> str:
    return own if name == MAIN else f"{others}.{name}"


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def restore_networks(networks: dict[str, nn.Module], tensors: dict[str, Tensor], where: object) -> None:
    """Put back what `pack_networks` took.

    Raises:
        WeightsError: The checkpoint holds other networks.
    """
    for name, network in networks.items():
        try:
            network.load_state_dict(part(tensors, _prefix(name, "model", "networks")))
        except RuntimeError as error:
            raise WeightsError(
                where,
                found=f"a checkpoint without this {name}",
                expected="one of the plan's own objective and networks",
            ) from error


def restore_optimisers(optimisers: dict[str, torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what `pack_optimisers` took; settings (learning rate, …) stay as they are."""
    import torch

    for name, optimiser in optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part(tensors, _prefix(name, "optimiser", "optimisers")).items():
            index, entry = key.split(".", 1)
            state.setdefault(int(index), {})[entry] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        # A fused optimiser walks memory, not indices: its state must lie as the parameter does (channels_last).
        for parameter, values in optimiser.state.items():
            for entry, value in values.items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                    values[entry] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
