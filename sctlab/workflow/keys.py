"""Content keys: a step is done when a result is there that the same inputs, settings and code made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sctlab_model.io.atomic import write_json
from sctlab_model.io.hashing import file_sha256

KEY_FILE = "key.json"


def content_key(step: str, *, settings: BaseModel | Mapping[str, Any], inputs: Iterable[Path | str] = ()) -> str:
    """SHA-256 over what determines a result.

    Args:
        step: Name and version of the step, `register/2`: raise the version when its code changes results.
        settings: What the step is told; the order of keys does not matter.
        inputs: Files (by their bytes, not their names) and keys of earlier steps, in order.

    Raises:
        OSError: An input file can't be read.
    """
    values = settings.model_dump(mode="json") if isinstance(settings, BaseModel) else dict(settings)
    parts = [i if isinstance(i, str) else file_sha256(i) for i in inputs]
    text = json.dumps([step, values, parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished result of the step with this key."""
    try:
        found = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("key") == key


def mark_finished(folder: Path, key: str) -> None:
    """Say that everything of the step with this key is in `folder`; call it last."""
    write_json(folder / KEY_FILE, {"key": key})
