"""Groups of subcommands in which one is meant where none is named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def default_group(name: str) -> type[TyperGroup]:
    """A group for `typer.Typer(cls=...)`: a first word that is no subcommand is an argument of the subcommand `name`."""

    class DefaultGroup(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and args[0] not in (*self.commands, "-h", "--help"):
                args = [name, *args]
            return super().parse_args(ctx, args)

    return DefaultGroup
