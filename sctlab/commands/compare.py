"""`sctlab compare`: two evaluations, case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def compare(
    a: Annotated[Path, typer.Argument(help="Output folder of sctlab evaluate.")],
    b: Annotated[Path, typer.Argument(help="Another, of the same cases.")],
    out: Annotated[Path | None, typer.Option(help="Where comparison.json and comparison.html go.")] = None,
) -> int:
    """Compare two evaluations case by case."""
    from sctlab.evaluation.compare import HEADER, compare_evaluations

    comparison = compare_evaluations(a, b, out)
    for line in comparison.record.warnings:
        Console(stderr=True).print(f"warning: {line}", soft_wrap=True, markup=False)
    console = Console()
    console.print(f"A: {comparison.record.a}, B: {comparison.record.b}", markup=False, highlight=False)
    for region in comparison.regions:
        table = Table(title=f"region {region}" if region != "all" else "all regions", padding=(0, 0))
        for heading in HEADER:
            table.add_column(heading, justify="left" if heading == HEADER[0] else "right")
        for row in comparison.rows(region):
            table.add_row(*row)
        console.print(table)
    console.print(
        "p: two-sided Wilcoxon signed-rank test, not corrected for the number of metrics and regions.", style="dim"
    )
    return 0
