"""What made a network: the product's revision and the libraries' versions."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "lightning-fabric", "numpy", "SimpleITK", "safetensors")


@functools.cache
def versions() -> dict[str, Any]:
    """Revision of the product, of Python and of the libraries that this process runs."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return {"revision": revision(), "python": platform.python_version(), "versions": found}


def revision() -> str:
    """The product's git commit, with `-modified` where tracked files differ; an image says it by SCTLAB_REVISION."""
    told = os.environ.get("SCTLAB_REVISION", "")
    if told:
        return told
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(
            ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=True
        )
        changed = subprocess.run(
            ["git", "-C", root, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-modified" if changed.stdout.strip() else "")
