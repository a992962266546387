"""Checkpoints of other programs, which are pickles: read without executing anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctlab_model.errors import WeightsError

_SCALAR = np._core.multiarray.scalar
# Besides tensors and plain containers: scores that NumPy computed.
ALLOWED_GLOBALS = [np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"),  # its name before NumPy 2
                   np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]  # fmt: skip


def read_pickled(path: Path, expected: str) -> Any:
    """What a `.pt` or `.pth` file holds, on the CPU: tensors, numbers, strings and containers of them.

    Args:
        path: The file.
        expected: What it should be, for messages.

    Raises:
        WeightsError: No such file, not a checkpoint, or objects of any other kind in it.
    """
    if not path.is_file():
        raise WeightsError(path, found="no such file", expected=expected)
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the restricted unpickler stumbles over in a file that isn't one of its own
        raise WeightsError(
            path,
            found=f"can't be read safely ({_globals(path) or str(error).strip().split(chr(10))[0][:120]})",
            expected=f"{expected}, of tensors and numbers",
            advice="objects in it are not executed",
        ) from error


def _globals(path: Path) -> str:
    """The Python names that a checkpoint asks for, without importing them."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not even an archive
        return ""
    return "it asks for " + ", ".join(sorted(found)[:5]) if found else ""
