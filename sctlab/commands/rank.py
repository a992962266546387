"""`sctlab rank`: places of several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def rank(
    evaluations: Annotated[
        list[Path], typer.Argument(help="Output folders of sctlab evaluate, or one leaderboard CSV.")
    ],
    scheme: Annotated[str, typer.Option(help="How ranks become places.")] = "synthrad2025",
    out: Annotated[Path | None, typer.Option(help="Where ranking.json, ranking.csv and ranking.html go.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Resamplings of the cases.")] = 1000,
) -> int:
    """Rank methods as the challenge does, with how stable each place is."""
    from sctlab.evaluation.rank import rank_evaluations
    from sctlab.evaluation.rank import table as ranking_table

    result = rank_evaluations(evaluations, out, scheme=scheme, samples=samples)
    header, rows = ranking_table(result.record)
    columns = [
        i for i, name in enumerate(header) if name in ("place", "method", "95 % of places", "first", "mean rank")
    ]
    columns += list(range(columns[-1] + 1, columns[-1] + 1 + len(result.ranking.groups)))
    shown = Table(*(header[i] for i in columns), box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(row[i] for i in columns))
    Console().print(shown)
    for note in result.record.notes:
        Console(stderr=True).print(f"note: {note}", soft_wrap=True, markup=False)
    return 0
