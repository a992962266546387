"""`sctlab predict`: a cohort, every case by the folds that did not train on it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated

import typer

from sctlab_model.cases import Case, Region, Task, find_cohort
from sctlab_model.errors import InputError
from sctlab_model.io.writing import atomic_path, split_suffix, write_json
from sctlab_model.synthesiser import CaseReport, Synthesiser


def predict(
    cohort: Annotated[Path, typer.Argument(help="SynthRAD cohort or registered pairs.")],
    out: Annotated[Path, typer.Option(help="Results: OUT/<REGION>/<ID>.mha and predictions.json.")],
    weights: Annotated[
        Path | None, typer.Option(help="Bundle; /opt/ml/model or weights/ by task when left out.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="Only this task.")] = None,
    region: Annotated[Region | None, typer.Option(help="Only this region.")] = None,
    cases: Annotated[int | None, typer.Option(min=1, help="Only so many cases per region.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    runtime: Annotated[str, typer.Option(help="torch, or onnx for exported bundles.")] = "torch",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the ensemble's deviation in HU.")
    ] = False,
    zip_: Annotated[bool, typer.Option("--zip", help="Also pack sct_<ID>.mha into predictions.zip.")] = False,
) -> int:
    """Synthesise a cohort out of fold: a case that the bundle was trained on uses only the folds that did not see it."""
    from sctlab.workflow.jobs import run_jobs, summarise

    if runtime not in ("torch", "onnx"):
        raise InputError("--runtime", found=f"'{runtime}'", expected="torch or onnx")
    chosen = _first(find_cohort(cohort, task=task, region=region), cases)
    synthesiser = Synthesiser(weights, device, spread=uncertainty, runtime=runtime)
    for one in {case.task for case in chosen}:
        synthesiser.bundle(one)  # no bundle for a task: the whole command fails, not every case
    jobs = [(case.id, (case, out)) for case in chosen]
    outcomes = run_jobs(synthesiser.synthesise, jobs, title=f"predicting on {device}")
    reports = [o.result if o.ok else CaseReport(o.name, error=o.error) for o in outcomes]
    write_json(out / "predictions.json", {**synthesiser.provenance(), "cases": [vars(r) for r in reports]})
    if zip_:
        _pack(chosen, reports, out)
    return int(summarise(outcomes))


def _first(cases: list[Case], count: int | None) -> list[Case]:
    """The first `count` cases of each task and region."""
    if count is None:
        return cases
    taken: dict[tuple, int] = {}
    kept = []
    for case in cases:
        key = case.task, case.region
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= count:
            kept.append(case)
    return kept


def _pack(cases: list[Case], reports: list[CaseReport], out: Path) -> None:
    """`sct_<ID>.mha` in one archive, as the challenge's validation phases want them."""
    with atomic_path(out / "predictions.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for case, report in zip(cases, reports, strict=True):
            if not report.error:
                archive.write(out / case.output_name, f"sct_{case.id}{split_suffix(case.output_name)[1]}")
