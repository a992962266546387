"""The checkpoints of KonfAI and its app folders, which name theirs in an app.json; looked at without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

from sctlab.weights.download import FETCH_AGAIN, other_file
from sctlab_model.errors import WeightsError
from sctlab_model.io.paths import not_a_file

CHECKPOINT = "a KonfAI checkpoint (.pt)"
_BEGINNINGS = (b"PK", b"\x80")  # of torch.save's archives, and of its pickles before PyTorch 1.6


def check_checkpoint(path: Path) -> None:
    """Refuse what can't be a checkpoint, by its first bytes.

    Raises:
        WeightsError: No such file, one that stands in another's place, or one of another type.
    """
    if not path.is_file():
        raise WeightsError(path, found=not_a_file(path), expected=CHECKPOINT)
    other = other_file(path)
    if other:
        raise WeightsError(path, found=other, expected=CHECKPOINT, advice=FETCH_AGAIN)
    with path.open("rb") as handle:
        head = handle.read(2)
    if not head.startswith(_BEGINNINGS):
        found = "can't be read safely (no archive or pickle of tensors)" if head else "an empty file"
        raise WeightsError(path, found=found, expected=CHECKPOINT)


def app_checkpoints(path: Path) -> list[Path]:
    """A checkpoint as it is; of an app's folder those that its app.json names, or all `.pt` where it names none.

    Raises:
        WeightsError: A folder without app.json, a damaged one, or one that names files that aren't there.
    """
    if not path.is_dir():
        return [path]
    manifest = path / "app.json"
    if not manifest.is_file():
        raise WeightsError(path, found="a folder without app.json", expected="checkpoints (.pt), or a KonfAI app")
    files = [path / name for name in app_models(manifest)] or sorted(path.glob("*.pt"))
    twice = sorted({f.name for f in files if files.count(f) > 1})
    if twice:
        raise WeightsError(manifest, found=f"models: {', '.join(twice)} twice", expected="each checkpoint once")
    # By name, not by where links lead: in a cache of the hub's client each file is a link out of the folder.
    missing = [f.name for f in files if not f.is_file() or _leads_out(f, path)]
    if missing or not files:
        raise WeightsError(
            manifest,
            found=f"no {', '.join(missing) or 'checkpoint'} in its folder",
            expected="the app's checkpoints (.pt)",
        )
    return files


def _leads_out(file: Path, folder: Path) -> bool:
    return not file.is_relative_to(folder) or ".." in file.relative_to(folder).parts


def app_models(manifest: Path) -> list[str]:
    """File names of the checkpoints that an app.json names; empty where it names none.

    Raises:
        WeightsError: It can't be read, or isn't one.
    """
    try:
        content = json.loads(manifest.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(manifest, found=f"can't be read ({error})", expected="a KonfAI app's app.json") from error
    if not isinstance(content, dict):
        raise WeightsError(
            manifest, found=f"can't be read (a {type(content).__name__})", expected="a KonfAI app's app.json"
        )
    named = content.get("models") or []
    if not isinstance(named, list) or not all(isinstance(n, str) and 0 < len(n) < 250 and "\0" not in n for n in named):
        raise WeightsError(manifest, found=f"models: {str(named)[:80]}", expected="a list of file names")
    return [name if name.endswith(".pt") else f"{name}.pt" for name in named]
