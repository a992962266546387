"""The earlier name of `run_cases`, with a console; goes when its last caller has gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sctlab.workflow.cases import run_cases
from sctlab.workflow.outcomes import Outcome, exit_code, refuse_broken
from sctlab.workflow.signals import sigterm_as_interrupt
from sctlab_model.errors import ExitCode
from sctlab_model.monitor import ConsoleMonitor


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[str, tuple[Any, ...]]],
    *,
    title: str,
    processes: int | None = 1,
    executor: str = "local",
    gpus: int = 0,
    console: Console | None = None,
) -> list[Outcome]:
    """`run_cases` with a progress bar."""
    with ConsoleMonitor(title, quiet=console is not None and console.quiet) as monitor:
        return list(run_cases(function, jobs, jobs=processes, executor=executor, gpus=gpus, monitor=monitor))


def summarise(outcomes: Sequence[Outcome], console: Console | None = None) -> ExitCode:
    """Print a table of the cases that failed; the exit code says whether some or all did."""
    failed = [o for o in outcomes if not o.ok]
    if failed:
        table = Table("case", "what went wrong", title=f"{len(failed)} of {len(outcomes)} cases failed")
        for outcome in failed:
            table.add_row(outcome.name, outcome.error)
        (console or Console(stderr=True)).print(table)
    return exit_code(outcomes)


__all__ = ["Outcome", "refuse_broken", "run_jobs", "sigterm_as_interrupt", "summarise"]
