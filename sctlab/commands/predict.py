"""`sctlab predict`: a cohort, every case by the folds that did not train on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from sctlab.commands.choices import one_of
from sctlab_model.cases import CaseList, Region, Selection, Task, find_cases
from sctlab_model.errors import InputError


def predict(
    cohort: Annotated[Path, typer.Argument(help="SynthRAD cohort or registered pairs.")],
    out: Annotated[Path, typer.Option(help="Results: OUT/<REGION>/<ID>.mha and predictions.json.")],
    weights: Annotated[
        Path | None, typer.Option(help="Bundle or name; /opt/ml/model or weights/ by task when left out.")
    ] = None,
    task: Annotated[Task | None, one_of("--task", Task, "Only this task.")] = None,
    region: Annotated[Region | None, one_of("--region", Region, "Only this region.")] = None,
    cases: Annotated[int | None, typer.Option(min=1, help="Only so many cases per region.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    runtime: Annotated[
        str, one_of("--runtime", ("torch", "onnx", "openvino"), "onnx is for exported bundles, openvino for CPUs.")
    ] = "torch",
    precision: Annotated[
        str, one_of("--precision", ("fp32", "bf16"), "bf16 with openvino is faster, and off by tens of HU.")
    ] = "fp32",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write the ensemble's deviation in HU.")
    ] = False,
    zip_: Annotated[bool, typer.Option("--zip", help="Also pack sct_<ID>.mha into predictions.zip.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave cases alone that are done.")] = False,
    refuse_implausible: Annotated[
        bool, typer.Option("--refuse-implausible", help="Refuse what process.py refuses, instead of warning.")
    ] = False,
    accept_implausible: Annotated[
        bool, typer.Option("--accept-implausible", help="Also write results of one value, and say so in the record.")
    ] = False,
) -> int:
    """Synthesise a cohort out of fold: a case that the bundle was trained on uses only the folds that did not see it.

    The output gate warns instead of refusing, because a score over only the plausible results would flatter.
    """
    from sctlab_model.cohort import PredictionSettings, predict_cohort
    from sctlab_model.main import report_cohort
    from sctlab_model.monitor import ConsoleMonitor
    from sctlab_model.settings import validate

    settings = validate(
        PredictionSettings,
        {
            "weights": weights,
            "device": device,
            "runtime": runtime,
            "precision": precision,
            "uncertainty": uncertainty,
            "zip": zip_,
            "skip_existing": skip_existing,
            "lenient": not refuse_implausible,
            "accept_implausible": accept_implausible,
        },
        "sctlab predict",
    )
    found = _first(find_cases(cohort, Selection(task, region)), cases)
    if found.layout == "challenge":
        raise InputError(cohort, found="a Grand Challenge case", expected="a cohort", advice="use process.py")
    with ConsoleMonitor("predict") as monitor:
        result = predict_cohort(found, out, settings, monitor)
    report_cohort(result, monitor)
    return int(result.exit_code)


def _first(cases: CaseList, count: int | None) -> CaseList:
    """The first `count` cases of each task and region."""
    if count is None:
        return cases
    taken: Counter[tuple[Task, Region | None]] = Counter()
    kept = []
    for case in cases.cases:
        taken[case.task, case.region] += 1
        if taken[case.task, case.region] <= count:
            kept.append(case)
    return replace(cases, cases=tuple(kept))
