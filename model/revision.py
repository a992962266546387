"""Which code runs: the image says it, a checkout is asked, an installed package has only its version."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

VARIABLE = "SCTLAB_REVISION"  # set when an image is built


@cache
def code_revision() -> str:
    """The git commit, with `-modified` where tracked files differ; `version X` without one."""
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
