"""Which software runs: the code's revision, Python, and the libraries that decide results."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

VARIABLE = "SCTLAB_REVISION"  # set when an image is built
LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "SimpleITK",
    "segmentation-models-pytorch",
    "timm",
    "onnxruntime",
    "openvino",
    "lightning-fabric",
    "safetensors",
)


@cache
def describe_software() -> dict[str, Any]:
    """`revision`, `python`, and `versions` of the libraries that are installed."""
    versions = {}
    for library in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return {"revision": code_revision(), "python": platform.python_version(), "versions": versions}


@cache
def code_revision() -> str:
    """The git commit, with `-modified` where tracked files differ; `version X` without one.

    An image states it in the environment, a checkout is asked, an installed package has only its version.
    """
    stated = os.environ.get(VARIABLE, "")
    if stated and stated != "unknown":
        return stated
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists() and (commit := _git(root, "rev-parse", "HEAD")):
        return commit + ("-modified" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    try:
        return f"version {metadata.version('sctlab')}"
    except metadata.PackageNotFoundError:
        return "unknown"


def _git(root: Path, *words: str) -> str:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, encoding="utf-8", check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
