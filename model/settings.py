"""Settings from YAML, one way: a strict pydantic model, and an error that names the file, the key and the closest
known key."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sctlab_model.errors import InputError

MAX_YAML_BYTES = 1_000_000


class Settings(BaseModel):
    """Base of everything that a person writes in YAML: unknown keys are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(model: type[Model], path: str | Path) -> Model:
    """Read a YAML file into `model`.

    Raises:
        InputError: No such file, not YAML, or settings that `model` refuses; with file, key and the closest known key.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a YAML file")
    if path.stat().st_size > MAX_YAML_BYTES:
        raise InputError(path, found=f"{path.stat().st_size} bytes", expected=f"at most {MAX_YAML_BYTES} bytes")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(path, found=f"not YAML ({' '.join(str(error).split())})", expected="valid YAML") from error
    return validate(model, value, path)


def validate(model: type[Model], value: Any, where: object) -> Model:
    """`value` (plain dictionaries and lists) as a `model`.

    Args:
        where: File or option that the value came from, for the message.

    Raises:
        InputError: The first of the model's refusals, with the key's path and, for an unknown key, the closest one.
    """
    if not isinstance(value, dict):
        raise InputError(where, found=f"a {type(value).__name__}", expected="a mapping of settings")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = sorted(_known_keys(model, first["loc"][:-1]))
            close = get_close_matches(str(first["loc"][-1]), known, n=1)
            raise InputError(
                where,
                found=f"unknown key '{path}'",
                expected=f"'{close[0]}'" if close else "one of " + ", ".join(known),
            ) from error
        raise InputError(where, found=f"{path or 'settings'}: {first['msg']}", expected="valid settings") from error


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Keys of the model (or models, of a union) that lies at `path` inside `model`."""
    models: list[type[BaseModel]] = [model]
    for key in path:
        inner = [
            found
            for one in models
            if (field := one.model_fields.get(str(key))) is not None
            for found in _models_in(field.annotation)
        ]
        # Indices of lists and tags of unions stand in the path, too; they stay at the same model.
        models = inner or models
    return {name for one in models for name in one.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None or annotation is Union:
        for argument in get_args(annotation):
            yield from _models_in(argument)
