"""`sctlab study`: experiments on what registration does to training and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Experiments on what registration does to training and scores, and their tables.",
)


@app.callback()
def study() -> None:
    """Keep the subcommands' names: a group with one command would take its place."""


@app.command("tables")
def tables(
    scores: Annotated[Path, typer.Argument(help="CSV: train, evaluate, region, case, one column per metric.")],
    out: Annotated[Path, typer.Argument(help="Where tables.csv, tables.tex and tables.html go.")],
    against: Annotated[str, typer.Option(help="Reference cell of the tests, train/evaluate.")] = "impact/impact",
) -> None:
    """Make the tables of a study from per-case scores."""
    from sctlab.study.tables import write_tables

    result = write_tables(scores, out, against=against)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{len(result.cells)} cells written to {out}")
