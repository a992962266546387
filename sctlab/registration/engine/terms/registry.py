"""Terms register themselves: a term is one file in this folder with a function under `register_term`.

A file says which terms a preset asks for at a level; each `term(sample)` is one summand of the level's objective.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar

import torch
from torch import Tensor

from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Preset
from sctlab_model.errors import InputError


class Term(ABC):
    """One summand of a level's objective, its weight included; smaller is better.

    `regularises` tells terms of the field alone (bending, folding) from the metric, which compares the images: the
    metric's values are recorded apart.
    """

    regularises: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, sample: Sample) -> Tensor:
        """The value at a sample, a scalar with gradient."""

    def restart(self) -> None:  # noqa: B027 - most terms keep nothing
        """Forget what was kept from earlier samples of this level."""


Builder = Callable[[LevelImages, Preset, torch.Generator], Iterable[Term]]
_BUILDERS: dict[str, tuple[int, Builder]] = {}


def register_term(name: str, *, position: int = 100) -> Callable[[Builder], Builder]:
    """Make a function the builder of terms of this name.

    Args:
        name: Where a preset has no field for the term, its weight stands under this name in `Preset.terms`.
        position: Terms are summed in this order, so that a result repeats bit by bit.
    """

    def keep(builder: Builder) -> Builder:
        _BUILDERS[name] = (position, builder)
        return builder

    return keep


def build_terms(level: LevelImages, preset: Preset, generator: torch.Generator) -> list[Term]:
    """The terms that a preset asks for at a level.

    Raises:
        InputError: `Preset.terms` names one that is not registered.
    """
    import sctlab.registration.engine.terms as folder

    for module in iter_modules(folder.__path__):
        import_module(f"{folder.__name__}.{module.name}")
    unknown = sorted(set(preset.terms) - set(_BUILDERS))
    if unknown:
        raise InputError(
            f"preset {preset.name}", found=f"term '{unknown[0]}'", expected="one of " + ", ".join(sorted(_BUILDERS))
        )
    ordered = sorted(_BUILDERS.values(), key=lambda entry: entry[0])
    return [term for _, builder in ordered for term in builder(level, preset, generator)]
