"""Lists of cases to leave out: read whatever an editor made of them, and refused where an entry fits no case."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sctlab_model.errors import InputError, meant
from sctlab_model.io.text import read_text

MAX_LIST_BYTES = 10_000_000


def read_exclusions(path: str | Path) -> dict[str, str]:
    """Cases to leave out: a JSON list or object (id: reason), or text with an id and a reason per line.

    An id may be the case's own (`1ABA001`) or its whole key (`Task1/AB/1ABA001`). The JSON that
    `sctlab register report` proposes has its ids under `exclude`. Text may be in any encoding that
    `read_text` knows.

    Returns:
        Id or key → reason.

    Raises:
        InputError: No such file, another encoding, or something else than ids.
    """
    path = Path(path)
    text = read_text(path, max_bytes=MAX_LIST_BYTES)
    if path.suffix.lower() == ".json":
        return _from_json(text, path)
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    parts = (line.replace(",", " ").replace(";", " ").split(None, 1) for line in lines if line)
    return {p[0].strip('"'): ("excluded: " + p[1]) if len(p) > 1 else "excluded" for p in parts if p}


def excluded_keys(exclusions: dict[str, str], keys: Iterable[str], where: object) -> dict[str, str]:
    """The keys of the cases that a list excludes, with the reasons.

    Args:
        exclusions: Of `read_exclusions`.
        keys: Every case of the folder, usable or not, also of the other task.
        where: The list, for the message.

    Raises:
        InputError: An entry fits no case, or an id fits several: what was meant to be left out would be trained on.
    """
    by_name: dict[str, list[str]] = {}
    for key in keys:
        for name in (key, key.rsplit("/", 1)[-1]):
            by_name.setdefault(name, []).append(key)
    unknown = [name for name in exclusions if name not in by_name]
    if unknown:
        raise InputError(
            where,
            found=f"{len(unknown)} of {len(exclusions)} entries fit no case ({', '.join(map(repr, unknown[:5]))})",
            expected="ids or keys of cases in the folder",
            advice=meant(unknown[0], by_name) or "correct them or take them out",
        )
    several = [name for name in exclusions if len(by_name[name]) > 1]
    if several:
        raise InputError(
            where,
            found=f"'{several[0]}' fits {', '.join(by_name[several[0]])}",
            expected="one case",
            advice="give the whole key",
        )
    return {by_name[name][0]: reason for name, reason in exclusions.items()}


def _from_json(text: str, path: Path) -> dict[str, str]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, found=f"not JSON ({error})", expected="a list of ids") from error
    if isinstance(value, dict) and "exclude" in value:
        value = value["exclude"]
    if isinstance(value, list) and all(isinstance(v, dict) and ("id" in v or "key" in v) for v in value):
        value = {v.get("key") or v["id"]: v.get("reason", "") for v in value}
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = dict.fromkeys(value, "")
    if not isinstance(value, dict):
        raise InputError(
            path, found=f"a JSON {type(value).__name__}", expected="a list of ids or an object of id: reason"
        )
    return {str(k): f"excluded: {v}".rstrip(": ") for k, v in value.items()}
