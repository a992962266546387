"""Options that choose among names: one type for all commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import typer

from sctlab_model.cases import Region, Task
from sctlab_model.choices import chosen


def one_of(name: str, kind: type[StrEnum] | Sequence[str], help: str) -> Any:
    """An option that takes one of the members or names of `kind`, however they are written.

    Args:
        name: `--task`, for the message.
        kind: An enumeration, whose member the command gets, or names.
        help: The option's line of help.

    Raises:
        InputError: When the command is parsed: none of them.
    """
    names = [str(value) for value in kind]
    return typer.Option(name, parser=_reader(name, kind, names), metavar=f"[{'|'.join(names)}]", help=help)


def _reader(name: str, kind: type[StrEnum] | Sequence[str], names: list[str]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        text = str(value)  # a default is a member already
        if kind is Task:
            return Task.parse(text, name)
        if kind is Region:
            return Region.parse(text, name)
        found = chosen(text, names, name)
        return kind(found) if isinstance(kind, type) else found

    return read
