"""Settings from YAML, one way: a strict pydantic model, and an error that names the file, the line, the key and the
closest known key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sctlab_model.errors import InputError, closest
from sctlab_model.io.text import read_text

MAX_YAML_BYTES = 1_000_000
MAX_YAML_VALUES = 200_000


class Settings(BaseModel):
    """Base of everything that a person writes in YAML: unknown keys and infinite numbers are refused, instances are
    immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked like a new one.

        Raises:
            pydantic.ValidationError: An unknown field or an impossible value.
        """
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)


Model = TypeVar("Model", bound=BaseModel)


def load_yaml(model: type[Model], path: str | Path) -> Model:
    """Read a YAML file into `model`.

    Raises:
        InputError: No such file, not YAML, a key twice, or settings that `model` refuses; with file, line, key and,
            for an unknown key, the closest known one.
    """
    path = Path(path)
    return parse_yaml(model, read_text(path, max_bytes=MAX_YAML_BYTES), path)


def parse_yaml(model: type[Model], text: str, where: object) -> Model:
    """YAML text as a `model`; `where` names it in messages. Raises what `load_yaml` raises."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _count_values(node, where, {})
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(_line(where, mark), found=f"not YAML ({problem})", expected="valid YAML") from error
    if node is not None:
        repeated = _repeated_key(node)
        if repeated is not None:
            raise InputError(
                _line(where, repeated.start_mark), found=f"'{repeated.value}' again", expected="each key once"
            )
    return validate(model, value, where, node)


def validate(model: type[Model], value: Any, where: object, node: yaml.Node | None = None) -> Model:
    """`value` (plain dictionaries and lists) as a `model`.

    Args:
        where: File or option that the value came from, for the message.
        node: The YAML that the value was read from, for the line in the message.

    Raises:
        InputError: The first of the model's refusals, with the key's path and, for an unknown key, the closest one.
    """
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(where, found=found, expected="a mapping of settings")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _refusal(model, error, where, node) from error


def _refusal(model: type[BaseModel], error: ValidationError, where: object, node: yaml.Node | None) -> InputError:
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    path = ".".join(map(str, location)) or "settings"
    if node is not None:
        mark, keys = _position(node, location)
        if not location:  # a check of the whole file names the key at fault first: `pairs.truth is …`
            named = first["msg"].removeprefix("Value error, ").split(" ")[0].rstrip(":").split(".")
            mark, _ = _position(node, named)
        where, path = _line(where, mark), ".".join(map(str, keys)) or "settings"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, location[:-1]))
        close = closest(location[-1], known)
        expected = f"'{close}'" if close else "one of " + ", ".join(known)
        return InputError(where, found=f"unknown key '{path}'{more}", expected=expected)
    if first["type"] == "missing":
        return InputError(where, found=f"{path}: is missing{more}")
    message = first["msg"].removeprefix("Value error, ")
    reason = f"{message[0].lower()}{message[1:]}"
    if not isinstance(first["input"], dict | list | tuple) and first["type"] != "value_error":
        reason = f"{first['input']!r}: {reason}"
    return InputError(where, found=f"{path}: {reason}{more}")


def _line(where: object, mark: Any) -> object:
    return where if mark is None else f"{where}, line {mark.line + 1}"


def _position(node: yaml.Node, location: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Where the deepest part of `location` stands in the text, and the location without the tags of unions."""
    mark, keys = node.start_mark, []
    for index, part in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            entries = [(key, value) for key, value in node.value if key.value == str(part)]
            if entries:
                mark, node = entries[0][0].start_mark, entries[0][1]
                keys.append(part)
            elif index == len(location) - 1:
                keys.append(part)  # a missing key
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
            keys.append(part)
    return mark, keys


def _count_values(node: yaml.Node, where: object, counts: dict[int, int]) -> int:
    """Values of a node with its aliases written out: a few lines of them may stand for more than a memory holds.

    Args:
        counts: By identity of the node; 0 for one whose parts are being counted.

    Raises:
        InputError: Too many, or a value that contains itself.
    """
    if id(node) not in counts:
        counts[id(node)] = 0
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        below = [] if isinstance(node, yaml.ScalarNode) else [_count_values(part, where, counts) for part in parts]
        counts[id(node)] = 1 + sum(below)
        if counts[id(node)] > MAX_YAML_VALUES:
            raise InputError(
                _line(where, node.start_mark),
                found=f"more than {MAX_YAML_VALUES} values, with aliases written out",
                expected="fewer",
                advice="write the values without aliases (*name)",
            )
    elif counts[id(node)] == 0:
        raise InputError(_line(where, node.start_mark), found="a value that contains itself", expected="none that does")
    return counts[id(node)]


def _repeated_key(node: yaml.Node) -> yaml.ScalarNode | None:
    """The second of two equal keys in one mapping, which YAML would silently prefer."""
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    return key
                seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    return next((repeated for child in children if (repeated := _repeated_key(child)) is not None), None)


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Keys of the model (or models, of a union) that lies at `path` inside `model`."""
    models: list[type[BaseModel]] = [model]
    for key in path:
        inner = [
            candidate
            for one in models
            if (field := one.model_fields.get(str(key))) is not None
            for candidate in _models_in(field.annotation)
        ]
        # Indices of lists stand in the path, too, and stay at the same models; the tag of a union chooses among them.
        tagged = [one for one in models if (kind := one.model_fields.get("kind")) is not None and kind.default == key]
        models = inner or tagged or models
    return {name for one in models for name in one.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _models_in(argument)
