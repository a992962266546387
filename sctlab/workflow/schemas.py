"""JSON schemas of every record on disk and of all settings, made from the types themselves."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import sctlab
import sctlab_model
from sctlab_model.bundle import Bundle
from sctlab_model.io.atomic import write_text
from sctlab_model.records import Record
from sctlab_model.settings import Settings

INDEX = "index.md"


def schemas() -> dict[str, str]:
    """File name → JSON schema of each record and of each settings type that is no part of another one.

    Imports every module of both packages.

    Raises:
        ValueError: Two types have one name.
    """
    types: set[type[BaseModel]] = {Bundle, *_subclasses(Record), *_subclasses(Settings)}
    made = {t: t.model_json_schema() for t in types}
    parts = {name for schema in made.values() for name in schema.get("$defs", {})}
    files: dict[str, str] = {}
    for kind, schema in sorted(made.items(), key=lambda item: item[0].__name__):
        if not issubclass(kind, Record) and kind.__name__ in parts:
            continue
        name = f"{kind.__name__}.json"
        if name in files:
            raise ValueError(f"two types are called {kind.__name__}: rename one")
        files[name] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    files[INDEX] = _index({t.__name__: t for t in made}, files)
    return files


def write_schemas(folder: Path) -> list[Path]:
    """Write all schemas and their index; schemas of types that are gone are removed.

    Returns:
        The files.
    """
    files = schemas()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def _index(types: dict[str, type[BaseModel]], files: dict[str, str]) -> str:
    lines = [
        "# Schemas",
        "",
        "What stages hand to each other on disk, and what they are told. Made by `sctlab schemas docs/schemas`.",
        "",
        "| schema | module | version | what |",
        "|---|---|---|---|",
    ]
    for name in files:
        kind = types[name.removesuffix(".json")]
        version = str(kind.current_version) if issubclass(kind, Record) else ""
        first = (kind.__doc__ or "").strip().split("\n")[0]
        lines.append(f"| [{kind.__name__}]({name}) | `{kind.__module__}` | {version} | {first} |")
    return "\n".join(lines) + "\n"


def _subclasses(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for package in (sctlab_model, sctlab):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    waiting = list(base.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if kind.__module__.split(".")[0] in (sctlab.__name__, sctlab_model.__name__):
            yield kind
