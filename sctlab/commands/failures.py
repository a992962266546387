"""The table of failed cases that commands end with."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sctlab.workflow.outcomes import Outcome


def print_failures(outcomes: Sequence[Outcome]) -> None:
    """Print a table of the cases that failed to stderr; nothing when none did."""
    failed = [o for o in outcomes if not o.ok]
    if not failed:
        return
    table = Table("case", "what went wrong", title=f"{len(failed)} of {len(outcomes)} cases failed")
    for outcome in failed:
        table.add_row(outcome.name, outcome.error)
    Console(stderr=True).print(table)
