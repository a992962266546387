"""`sctlab evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab.commands.choices import one_of
from sctlab.evaluation.dose.plan import Modality
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predictions, or a zip of sct_<ID>.mha.")],
    cohort: Annotated[Path, typer.Option(help="References in SynthRAD's layout.")],
    out: Annotated[Path, typer.Option(help="Where metrics.json, metrics.csv, details.json and report.html go.")],
    reference: Annotated[str, typer.Option(help="File stem of the reference in a case folder; ct, else ct_def.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Folder with organ labels of the predictions, <ID>.*.")] = None,
    segmenter: Annotated[
        str,
        typer.Option(help="Where no label file is: auto (what is here, or none), none, a name, or a TorchScript file."),
    ] = "auto",
    input_labels: Annotated[Path | None, typer.Option(help="Folder with labels drawn on the inputs, <ID>.*.")] = None,
    structures: Annotated[
        Path | None,
        typer.Option(help="Folder with an RTSTRUCT of each reference, <ID>.dcm: target and organs at risk."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="What rays and plans aim at: a label or a structure's name; default a central ball."),
    ] = None,
    truth: Annotated[Path | None, typer.Option(help="Cohort with truth/ folders, if it isn't --cohort.")] = None,
    round_trip: Annotated[
        bool, typer.Option("--round-trip", help="Also each reference through its registration and back.")
    ] = False,
    control: Annotated[
        Path | None, typer.Option(help="Pairs registered otherwise: also the control of the two registrations.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="Distance in an extractor's features (see features list), or lpips; several times."),
    ] = None,
    dose: Annotated[str, typer.Option(help="Recalculate a default plan: photons, protons, or both with a comma.")] = "",
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Also a table by field_strength, sequence, scanner, centre or a column of SynthRAD's parameters."
        ),
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option(help="Folder with overviews/*_parameters.xlsx, if it isn't --cohort.")
    ] = None,
    task: Annotated[Task | None, one_of("--task", Task, "Only this task.")] = None,
    region: Annotated[Region | None, one_of("--region", Region, "Only this region.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this case, id or key; several times.")] = None,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Score cases that the weights saw.")] = False,
    challenge_only: Annotated[bool, typer.Option("--challenge-only", help="Only the challenge's metrics.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html; without it only the numbers.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    jobs: Annotated[int, typer.Option(help="Cases at a time.")] = 1,
) -> int:
    """Score predictions as the challenge does, and beyond."""
    from sctlab.evaluation.predictions import check_predictions
    from sctlab.evaluation.settings import EvaluationSettings
    from sctlab_model.cases import find_cohort

    settings = EvaluationSettings(
        reference=reference,
        labels=labels,
        segmenter=segmenter,
        input_labels=input_labels,
        structures=structures,
        target=target,
        truth=truth,
        round_trip=round_trip,
        control=control,
        features=tuple(features or ()),
        dose=modalities(dose),
        by=tuple(by or ()),
        parameters=parameters,
        task=task,
        region=region,
        only=tuple(only or ()),
        allow_seen=allow_seen,
        challenge_only=challenge_only,
        report=report,
        device=device,
    )
    check_predictions(predictions)
    find_cohort(cohort)
    # From here on PyTorch is imported: what can be refused without it was.
    from sctlab.evaluation.cohort import evaluate_cohort
    from sctlab.evaluation.report import group_cases
    from sctlab_model.monitor import ConsoleMonitor

    with ConsoleMonitor("evaluate") as monitor:
        result = evaluate_cohort(predictions, cohort, out, settings, jobs=jobs, monitor=monitor)
    console = Console()
    console.print(_summary(group_cases(result.cases)))
    for name in settings.by:
        console.print(_summary(group_cases(result.cases, name), name))
    console.print(f"written to {out / 'report.html' if report else out}", soft_wrap=True, markup=False, highlight=False)
    return int(result.exit_code)


def modalities(text: str) -> tuple[Modality, ...]:
    """`photons,protons` as a tuple.

    Raises:
        InputError: Another word.
    """
    known: tuple[Modality, ...] = ("photons", "protons")
    words = [w.strip() for w in text.split(",") if w.strip()]
    for word in words:
        if word not in known:
            raise InputError("--dose", found=f"'{word}'", expected="photons, protons, or photons,protons")
    return tuple(m for m in known if m in words)


def _summary(groups: list[tuple[str, list]], by: str = "region") -> Table:
    """Means of the main metrics by group."""
    from sctlab.evaluation.definitions import METRICS, SUMMARY
    from sctlab.evaluation.report import baselines, shown
    from sctlab.measures.statistics import aggregate

    table = Table(f"mean of, by {by}", *(f"{name} ({len(chosen)})" for name, chosen in groups))
    for key in SUMMARY:
        metric = METRICS[key]
        means = [aggregate(c.metrics.get(key) for c in chosen)["mean"] for _, chosen in groups]
        if any(m is not None for m in means):
            table.add_row(metric.label, *(shown(m, metric) for m in means))
            for name, values in baselines(groups, key):
                table.add_row(f"  {name}", *(shown(v, metric) for v in values), style="dim")
    return table
