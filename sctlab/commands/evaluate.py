"""`sctlab evaluate`, `sctlab compare` and `sctlab gamma`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sctlab.workflow.jobs import Outcome, run_jobs
from sctlab_model.cases import Case, Region, Task, find_cohort
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.reading import read_volume


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predictions, or a zip of sct_<ID>.mha.")],
    cohort: Annotated[Path, typer.Option(help="References in SynthRAD's layout.")],
    out: Annotated[Path, typer.Option(help="Where metrics.json, metrics.csv, details.json and report.html go.")],
    reference: Annotated[str, typer.Option(help="File stem of the reference in a case folder; ct, else ct_def.")] = "",
    labels: Annotated[Path | None, typer.Option(help="Folder with organ labels of the predictions, <ID>.*.")] = None,
    segmenter: Annotated[
        str, typer.Option(help="Where no label file is: none, totalsegmentator, or a TorchScript file.")
    ] = "none",
    input_labels: Annotated[Path | None, typer.Option(help="Folder with labels drawn on the inputs, <ID>.*.")] = None,
    target: Annotated[int | None, typer.Option(help="Label that proton rays end in; default a central ball.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Cohort with truth/ folders, if it isn't --cohort.")] = None,
    floor: Annotated[bool, typer.Option("--floor", help="Also the registration floor of each reference.")] = False,
    task: Annotated[Task | None, typer.Option(help="Only this task.")] = None,
    region: Annotated[Region | None, typer.Option(help="Only this region.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this case; may be given several times.")] = None,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Score cases that the weights saw.")] = False,
    challenge_only: Annotated[bool, typer.Option("--challenge-only", help="Only the challenge's metrics.")] = False,
    report: Annotated[bool, typer.Option(help="Write report.html; without it only the numbers.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "cpu",
    jobs: Annotated[int, typer.Option(help="Cases at a time.")] = 1,
) -> int:
    """Score predictions as the challenge does, and beyond."""
    from sctlab.evaluation.case import Options, evaluate_case
    from sctlab.evaluation.predictions import match_predictions, unpacked
    from sctlab.evaluation.provenance import mismatches, read_prediction_provenance
    from sctlab.evaluation.report import write_report
    from sctlab.evaluation.results import write_results
    from sctlab_model.backends import choose_device  # here, because it loads torch

    device = str(choose_device(device))
    _check_options(labels, input_labels, truth, segmenter, device)
    options = Options(reference, labels, segmenter, input_labels, target, truth, floor, challenge_only, device)
    everything = find_cohort(cohort)
    cases = _chosen(everything, cohort, task, region, only)
    with tempfile.TemporaryDirectory(prefix="sctlab-evaluate-") as scratch:
        folder = unpacked(predictions, Path(scratch))
        provenance = read_prediction_provenance(folder)
        if provenance.bundles and task is None:
            cases = [c for c in cases if c.task in provenance.bundles]
        matched = match_predictions(folder, cases, everything)
        left_out = _left_out(cases, matched, provenance, folder, allow_seen)
        scored = [c for c in cases if c.id not in left_out]
        work = [(c.id, (c, matched.found[c.id], matched.spreads.get(c.id), options)) for c in scored]
        outcomes = run_jobs(evaluate_case, work, title="evaluate", processes=jobs)
        left_out |= {o.name: o.error for o in outcomes if not o.ok}
        records = [o.result for o in outcomes if o.ok]
        if not records:
            raise InputError(
                predictions,
                found="no case could be scored",
                expected="predictions of the cohort's cases",
                advice=_first_reasons(left_out),
            )
        from sctlab.evaluation.provenance import Registration

        seen = [c.id for c in scored if provenance.seen_by(c)]
        lines = mismatches(
            [w.registration for w in provenance.bundles.values()], [Registration(**r.registration) for r in records]
        )
        if seen:
            lines.insert(
                0,
                f"{len(seen)} cases were used to train the folds that predicted them "
                f"({', '.join(seen[:8])}): their scores say nothing about new patients.",
            )
        if any(w.demonstration for w in provenance.bundles.values()):
            lines.append("Demonstration weights: they show that the software works, not how good it can be.")
        summary: dict[str, Any] = {
            "predictions": str(predictions),
            "cohort": str(cohort),
            "weights": ", ".join(w.name for w in provenance.bundles.values()),
            "segmenter": segmenter if labels is None else f"files in {labels}",
            "mismatches": lines,
            "left_out": left_out,
            "unknown": [str(p.relative_to(folder)) for p in matched.unknown],
        }
        write_results(records, out, summary)
        if report:
            write_report(
                out / "report.html", records, {c.id: c for c in cases}, summary, title="Synthetic CT evaluation"
            )
    _print_summary(records, summary, out)
    return ExitCode.SOME_CASES_FAILED if left_out or matched.unknown else ExitCode.OK


def compare(
    a: Annotated[Path, typer.Argument(help="Output folder of sctlab evaluate.")],
    b: Annotated[Path, typer.Argument(help="Another, of the same cases.")],
    out: Annotated[Path | None, typer.Option(help="Where comparison.json and comparison.html go.")] = None,
) -> int:
    """Compare two evaluations case by case."""
    from sctlab.evaluation.compare import compare_evaluations, print_comparison, write_comparison

    comparison = compare_evaluations(a, b)
    print_comparison(comparison, Console())
    if out is not None:
        write_comparison(comparison, out)
    return ExitCode.OK


def gamma(
    evaluated: Annotated[Path, typer.Argument(help="Dose file, e.g. recalculated on the sCT.")],
    reference: Annotated[Path, typer.Argument(help="Dose file to compare with, in the same unit.")],
) -> int:
    """Compare two dose files: gamma 2 %/2 mm, cutoff 10 %."""
    from sctlab.evaluation.dose import gamma_pass_rate

    result = gamma_pass_rate(read_volume(evaluated), read_volume(reference))
    print(f"gamma 2 %/2 mm pass rate {result.pass_rate:.2f} %, mean {result.mean_gamma:.3f}, {result.voxels} voxels")
    return ExitCode.OK


def _check_options(
    labels: Path | None, input_labels: Path | None, truth: Path | None, segmenter: str, device: str
) -> None:
    for name, folder in (("--labels", labels), ("--input-labels", input_labels), ("--truth", truth)):
        if folder is not None and not folder.is_dir():
            raise InputError(name, found=f"no folder '{folder}'", expected="a folder")
    from sctlab.evaluation.segmentation import make_segmenter

    make_segmenter(segmenter, device)  # one message now instead of one a case


def _chosen(
    cases: Sequence[Case], cohort: Path, task: Task | None, region: Region | None, only: list[str] | None
) -> list[Case]:
    chosen = [c for c in cases if task in (None, c.task) and region in (None, c.region)]
    if only:
        missing = sorted(set(only) - {c.id for c in chosen})
        if missing:
            raise InputError("--only", found=f"no case {', '.join(missing)} in {cohort}", expected="ids of the cohort")
        chosen = [c for c in chosen if c.id in only]
    if not chosen:
        raise InputError(cohort, found="no case of this task and region", expected="at least one")
    ids = [c.id for c in chosen]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise InputError(
            cohort,
            found=f"ids in two folders: {', '.join(twice[:5])}",
            expected="unique ids",
            advice="--task or --region chooses",
        )
    return chosen


def _left_out(cases: Sequence[Case], matched, provenance, folder: Path, allow_seen: bool) -> dict[str, str]:
    """Case id → why it isn't scored and what to do."""
    left_out = {}
    for case in cases:
        if case.id in matched.duplicates:
            names = ", ".join(str(p.relative_to(folder)) for p in matched.duplicates[case.id])
            left_out[case.id] = f"several predictions ({names}); keep one"
        elif case.id not in matched.found:
            left_out[case.id] = "no prediction; predict it, or leave it out with --task, --region or --only"
        elif not allow_seen and (folds := provenance.seen_by(case)):
            left_out[case.id] = (
                f"fold {', '.join(folds)} predicted it and was trained on it; use unseen folds, or "
                "--allow-seen to score it all the same"
            )
    return left_out


def _first_reasons(left_out: dict[str, str]) -> str:
    first = list(left_out.items())[:3]
    return "; ".join(f"{name}: {reason}" for name, reason in first) + ("; …" if len(left_out) > 3 else "")


def _print_summary(records: Sequence[Any], summary: dict[str, Any], out: Path) -> None:
    from sctlab.evaluation.definitions import CHALLENGE, METRICS
    from sctlab.evaluation.report import number
    from sctlab.measures.statistics import aggregate

    console = Console(stderr=True)
    for line in summary["mismatches"]:
        console.print(f"[yellow]note[/yellow] {line}", soft_wrap=True)
    keys = [
        k
        for k in (*CHALLENGE, "mean_error", "mae_truth", "bias", "floor")
        if any(r.metrics.get(k) is not None for r in records)
    ]
    regions = sorted({r.region for r in records})
    counts = {g: sum(r.region == g for r in records) for g in regions}
    table = Table("mean of", *(f"{g} ({counts[g]})" for g in regions))
    for key in keys:
        means = [aggregate(r.metrics.get(key) for r in records if r.region == g)["mean"] for g in regions]
        table.add_row(METRICS[key].label, *(number(m, METRICS[key]) for m in means))
    console.print(table)
    for name, reason in summary["left_out"].items():
        console.print(f"[red]left out[/red] {name}: {reason}", soft_wrap=True)
    for name in summary["unknown"]:
        console.print(f"[red]left out[/red] {name}: no case of the cohort has this name", soft_wrap=True)
    console.print(f"written to {out}", soft_wrap=True, markup=False)


__all__ = ["Outcome", "compare", "evaluate", "gamma"]
