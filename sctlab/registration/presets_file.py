"""A preset from a YAML file: any extractors, layers and weights, checked before the first image is read."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Required

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic asks for it below Python 3.12

from sctlab.features import load_extractor
from sctlab.registration.engine.impact import FeatureTerm
from sctlab.registration.presets import PRESETS, Discrete, Level, Preset
from sctlab_model.errors import InputError, ProductError

SUFFIXES = (".yaml", ".yml")
_EXTRACTOR_FILES = (".pt", ".safetensors")

Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[int, Field(strict=True, gt=0)]
_strict = with_config(ConfigDict(extra="forbid"))


# What may stand in the file, with types and ranges. The dataclasses of the same names say what the fields mean, and what
# they are where they are left out.


@_strict
class _Term(TypedDict, total=False):
    extractor: str
    weight: Above0
    layers: Annotated[tuple[Count, ...], Field(min_length=1)]
    layer_weights: tuple[Weight, ...]
    distance: str
    mode: str
    pca: Count
    channels: Count
    patch: Count
    points: Number


@_strict
class _Level(TypedDict, total=False):
    voxel_mm: Required[Above0]
    iterations: Required[Number]
    rate_mm: Required[Above0]
    points: Number


@_strict
class _Discrete(TypedDict, total=False):
    reach_mm: Above0
    step_mm: Above0
    caution: Weight
    gain: Share


@_strict
class _Preset(TypedDict, total=False):
    base: str
    features: list[_Term]
    mutual_information: Weight
    bins: Annotated[int, Field(strict=True, ge=2)]
    knots_mm: Above0
    levels: Annotated[list[_Level], Field(min_length=1)]
    bending: Weight
    rigidity: Weight
    folding: Weight
    least_determinant: Share
    discrete: _Discrete | None


def load_preset(path: str | Path) -> Preset:
    """The preset that a YAML file describes; its name is the file's.

    Keys are the fields of `Preset` but for `name` and `rigid`, and `base`: the built-in preset whose fields they
    change (`mind` when left out). An extractor that is a file is looked for from the YAML file's folder.

    Raises:
        InputError: No such file, not YAML, an unknown key, a wrong type, an impossible value, an unknown extractor or
            layer; names the file and the key.
        WeightsError: An extractor whose weights aren't here.
    """
    path = Path(path)
    try:
        given = TypeAdapter(_Preset).validate_python(_read(path))
    except ValidationError as error:
        raise _refusal(error, path) from error
    base = given.pop("base", "mind")
    if base not in PRESETS or not PRESETS[base].levels:
        raise InputError(
            f"{path}, base",
            found=f"'{base}'",
            expected="one of " + ", ".join(n for n, p in PRESETS.items() if p.levels),
        )
    if "features" in given:
        given["features"] = tuple(_term(f, path, f"features.{i}") for i, f in enumerate(given["features"]))
    if "levels" in given:
        given["levels"] = tuple(Level(**v) for v in given["levels"])
    if given.get("discrete") is not None:
        given["discrete"] = Discrete(**given["discrete"])
    return replace(PRESETS[base], name=path.name, **given)


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(path, found=f"can't be read ({reason})", expected="a preset as a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else path
        raise InputError(
            where, found=f"not YAML ({getattr(error, 'problem', 'no text')})", expected="a preset"
        ) from error
    if not isinstance(value, dict):
        raise InputError(path, found=f"a YAML {type(value).__name__}", expected="a mapping with features, levels, …")
    return value


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML would silently take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (k for k, _ in node.value if isinstance(k, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' again", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(error: ValidationError, path: Path) -> InputError:
    first = error.errors()[0]
    where = f"{path}, " + ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return InputError(
            where, found="unknown key", expected="a field of a preset", advice="docs/registration.md shows an example"
        )
    if first["type"] == "missing":
        return InputError(where, found="is missing", expected="a value: it has no default")
    return InputError(where, found=f"{first['input']!r}", expected=first["msg"].removeprefix("Input should be "))


def _term(given: dict[str, Any], path: Path, key: str) -> FeatureTerm:
    """A feature term whose extractor and layers exist."""
    if Path(given.get("extractor", "")).suffix in _EXTRACTOR_FILES:
        given["extractor"] = str((path.parent / given["extractor"]).resolve())
    try:
        term = FeatureTerm(**given)
        names = _layer_names(term.extractor)
    except ProductError as error:
        raise type(error)(f"{path}, {key}", f"{error.where}: {error.found}", error.expected, error.advice) from error
    if max(term.layers) >= len(names):
        raise InputError(
            f"{path}, {key}.layers",
            found=f"{list(term.layers)}",
            expected=f"some of 0 to {len(names) - 1}: " + ", ".join(names),
        )
    return term


@lru_cache
def _layer_names(extractor: str) -> tuple[str, ...]:
    """Layers of an extractor; remembered, because a cohort asks once a case and a network takes seconds to load."""
    return tuple(layer.name for layer in load_extractor(extractor).layers)
