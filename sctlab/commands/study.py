"""`sctlab study`: experiments on what registration does to training and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sctlab.commands.choices import one_of
from sctlab.commands.default import default_group
from sctlab_model.errors import InputError

app = typer.Typer(
    cls=default_group("run"),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Experiments on what registration does to training and scores. `sctlab study PLAN OUT` is `sctlab study run PLAN OUT`.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("tables")
def tables(
    scores: Annotated[Path, typer.Argument(help="CSV: train, evaluate, region, case, one column per metric.")],
    out: Annotated[Path, typer.Argument(help="Where tables.csv, tables.tex and tables.html go.")],
    against: Annotated[str, typer.Option(help="Reference cell of the tests, train/evaluate.")] = "impact/impact",
) -> None:
    """Make the tables of a study from per-case scores."""
    from sctlab.reporting import counted
    from sctlab.study.tables import write_tables

    result = write_tables(scores, out, against=against)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{counted(len(result.cells), 'cell')} written to {out}")


@app.command("run")
def run(
    plan: Annotated[str, typer.Argument(help="quick, registration, extractors, supervision, or a YAML file.")],
    out: Annotated[Path, typer.Argument(help="Folder of the study; the same folder goes on where a run ended.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Cases and trainings at a time.")] = 1,
    executor: Annotated[str, one_of("--executor", ("local", "ray"), "Processes here, or a cluster.")] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print cells, cost and what is there; run nothing.")
    ] = False,
) -> int:
    """Run a study: cohorts, training pairs, trainings, scores and the report."""
    from sctlab.study.plan import load_study

    study_plan = load_study(plan)
    from sctlab.reporting import counted
    from sctlab.study.cells import StudyFiles, estimate
    from sctlab.study.run import run_study
    from sctlab_model.monitor import ConsoleMonitor

    if dry_run:
        costs = estimate(StudyFiles(study_plan, out))
        for cost in costs:
            typer.echo(f"{cost.seconds / 60:8.1f} min  {cost.done:4.0%} there  {cost.name}")
        left = sum(c.seconds * (1 - c.done) for c in costs)
        typer.echo(f"{left / 60:8.1f} min of one core left, at the rates measured in {out} or else a first guess")
        return 0
    with ConsoleMonitor("study") as monitor:
        result = run_study(study_plan, out, jobs=jobs, executor=executor, monitor=monitor)
    for name, reason in result.failed.items():
        typer.echo(f"failed {name}: {reason}", err=True)
    typer.echo(f"{counted(result.cells, 'cell')}; report: {result.out / 'report.html'}")
    return int(result.exit_code)


@app.command("report")
def report(out: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Make a study's tables and figures again."""
    from sctlab.study.plan import PLAN

    if not (out / PLAN).is_file():
        raise InputError(out, found=f"no {PLAN}", expected="the folder of a study")
    from sctlab.study.report import report_study

    typer.echo(str(report_study(out)))
