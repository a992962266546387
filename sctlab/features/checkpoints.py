"""Checkpoints of other programs, which are pickles: read without executing anything in them."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctlab.weights.download import FETCH_AGAIN, other_file
from sctlab_model.errors import WeightsError
from sctlab_model.io.paths import not_a_file

_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]  # NumPy has no public name for it
# Besides tensors and plain containers: scores that NumPy computed.
ALLOWED_GLOBALS = [np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
                   np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]  # fmt: skip


class Inert:
    """Stands for an object of another program's class: holds what the file says of it and does nothing."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickled(path: Path, expected: str, *, inert: str = "") -> Any:
    """What a `.pt` or `.pth` file holds, on the CPU: tensors, numbers, strings and containers of them.

    Args:
        path: The file.
        expected: What it should be, for messages.
        inert: Package whose classes are read as `Inert` objects instead of being refused; nothing of it is imported.

    Raises:
        WeightsError: No such file, a damaged one, not a checkpoint, or objects of any other kind in it.
    """
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected=expected)
    other = other_file(path)
    if other:
        raise WeightsError(path, found=other, expected=expected, advice=FETCH_AGAIN)
    damaged = _damaged(path)
    if damaged:
        raise WeightsError(
            path, found=f"a checksum that doesn't fit ({damaged})", expected=expected, advice="copy or fetch it again"
        )
    try:
        named = [name for name in _names(path) if inert and name.split(".")[0] == inert]
        with torch.serialization.safe_globals([*ALLOWED_GLOBALS, *((Inert, name) for name in named)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler stumbles over in a file that isn't one of its own
        raise WeightsError(
            path,
            found=f"can't be read safely ({_refused(path, inert) or _reason(error)})",
            expected=f"{expected}, of tensors and numbers",
            advice="objects in it are not executed",
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what PyTorch says, without its advice to switch safety off."""
    text = str(error).strip().split("\n")[0]
    if "TorchScript" in text:
        return "TorchScript, which is code"
    if "finding central directory" in text:
        return "an archive without its end: the file is cut"
    return "no archive or pickle of tensors" if text.startswith("Weights only load failed") else text[:120]


def _damaged(path: Path) -> str:
    """The first record of an archive whose checksum doesn't fit: PyTorch itself doesn't look. Records without one pass."""
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:
                    try:
                        with archive.open(record) as stream:
                            while stream.read(1 << 20):
                                pass
                    except (zipfile.BadZipFile, zlib.error):
                        return record.filename
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):  # none, or cut: PyTorch says so
        pass
    return ""


def _names(path: Path) -> list[str]:
    """The Python names that a checkpoint asks for and that aren't allowed, without importing them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not even an archive
        return []


def _refused(path: Path, inert: str) -> str:
    names = [name for name in _names(path) if not inert or name.split(".")[0] != inert]
    return "it asks for " + ", ".join(names[:5]) if names else ""
