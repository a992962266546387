"""TorchScript is code: it can read and write files as soon as it is loaded. So it runs only where somebody vouches for it.

A file is trusted by its SHA-256: when it is one of the published models whose hash the code knows, when `sctlab features
download` fetched it, or when the user recorded it with `sctlab features trust FILE`. Commands that take such a file have no
option for it: a run that is repeated, or copied from a page, must not vouch for code on the way. Weights as safetensors
hold numbers only and need no trust.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import torch
from pydantic import Field

from sctlab.features.weights import FetchRecord, weights_folder
from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file
from sctlab_model.records import Record


class TrustRecord(Record):
    """`trusted.json` in the folder of downloaded weights: TorchScript files that the user vouches for."""

    sha256: dict[str, str] = Field(default_factory=dict, description="SHA-256 of a file, and its name at the time.")


def trust_file(path: str | Path) -> str:
    """Record that a TorchScript file may run here, whatever it does; returns its SHA-256.

    Raises:
        InputError: No such file.
    """
    path = Path(path)
    digest = hashlib.sha256(_content(path)).hexdigest()
    record = _recorded()
    if digest not in record.sha256:
        record.sha256[digest] = path.name
        record.write(_record_path())
    return digest


def load_torchscript(path: str | Path, *, device: str | torch.device = "cpu") -> torch.jit.ScriptModule:
    """A TorchScript model in evaluation mode, if its file is trusted.

    Raises:
        InputError: No such file, nobody vouches for it, or it is no TorchScript.
    """
    path = Path(path)
    content = _content(path)  # what was hashed is what runs
    digest = hashlib.sha256(content).hexdigest()
    if not _is_trusted(path, digest):
        raise InputError(
            path,
            found=f"TorchScript that nobody vouches for (SHA-256 {digest})",
            expected="a file whose SHA-256 is recorded",
            advice="TorchScript is code and can do what you can do: if you know where it comes from, run "
            f"`sctlab features trust {path.name}`",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, published models still use it
            return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            path,
            found=f"can't be loaded ({str(error).strip().splitlines()[0][:120]})",
            expected="a TorchScript file (torch.jit.save)",
        ) from error


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="a TorchScript file")
    return path.read_bytes()


def _is_trusted(path: Path, digest: str) -> bool:
    from sctlab.features.registry import entries

    if any(entry.source is not None and entry.source.sha256 == digest for entry in entries().values()):
        return True
    fetched = path.with_suffix(".json")
    if path.resolve().parent == weights_folder().resolve() and fetched.is_file():
        return FetchRecord.read(fetched).sha256 == digest
    return digest in _recorded().sha256


def _record_path() -> Path:
    return weights_folder() / "trusted.json"


def _recorded() -> TrustRecord:
    path = _record_path()
    return TrustRecord.read(path) if path.is_file() else TrustRecord()
