"""The device to run on, chosen in one place for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sctlab_model.errors import InputError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (the first CUDA device where there is one), `cpu`, `cuda` (the current one) or `cuda:N`.

    The result of CUDA always has its index, so that two names of one device are equal.

    Raises:
        InputError: Unknown name, or a device that isn't there; never a silent run on another one.
    """
    import torch

    name = name.strip().lower()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError("--device", found=f"'{name}'", expected="auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError("--device", found=f"'{name}'", expected="auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    if (device.index or 0) >= count:
        raise InputError(
            "--device", found=f"'{name}' with {count} CUDA devices here", expected="cpu, or a device that exists"
        )
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def describe_device(device: torch.device) -> str:
    """The device in words, for reports and records."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    count = torch.get_num_threads()
    return f"cpu ({count} thread{'s' if count > 1 else ''})"
