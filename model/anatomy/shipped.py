"""The product's own networks, where they lie: one to register and to learn with, one that only ever judges.

A release may come without them (`is_here`): then a file of `sctlab anatomy train` is given instead.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field

from sctlab_model.anatomy.network import AnatomyNetwork, read_network
from sctlab_model.bundle import SHIPPED_WEIGHTS
from sctlab_model.errors import WeightsError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.records import Record

FOLDER = SHIPPED_WEIGHTS / "anatomy"
MANIFEST = "manifest.json"
NETWORK, JUDGE = "anatomy", "anatomy-judge"


class AnatomyManifest(Record):
    """`weights/anatomy/manifest.json`: the files and their hashes."""

    networks: dict[str, str] = Field(description="Name of a network, and the SHA-256 of its `<name>.safetensors`.")


def network_path(name: str) -> Path:
    """The file of a shipped network, after its hash agreed.

    Args:
        name: `anatomy`, or `anatomy-judge`.

    Raises:
        WeightsError: It isn't here, or was altered.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file() or not (FOLDER / MANIFEST).is_file():
        raise WeightsError(
            path,
            found="no such file: this release has no weights of the anatomy network",
            expected="a trained network",
            advice="train one with `sctlab anatomy train` (docs/anatomy.md), and give its file",
        )
    expected = AnatomyManifest.read(FOLDER / MANIFEST).networks.get(name)
    found = file_sha256(path)
    if found != expected:
        raise WeightsError(
            path, found=f"SHA-256 {found}", expected=f"{expected} as in {MANIFEST}", advice="copy the weights again"
        )
    return path


@lru_cache(maxsize=2)
def load_network(name: str = NETWORK) -> AnatomyNetwork:
    """A shipped network in evaluation mode; one object for all who ask.

    Raises:
        WeightsError: See `network_path`.
    """
    return read_network(network_path(name))


def is_here(name: str = NETWORK) -> bool:
    """Whether a shipped network can be had."""
    return (FOLDER / f"{name}.safetensors").is_file()
