#!/usr/bin/env python3
"""Synthetic CT from MR or CBCT: one Grand Challenge case, a folder of cases, one image, or a server.

Without arguments it speaks Grand Challenge's exec API: /input to /output.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import fields, replace
from pathlib import Path

from sctlab_model.cases import (
    Case,
    Region,
    Task,
    challenge_results,
    find_cohort,
    find_flat,
    is_challenge,
    is_cohort,
    read_challenge,
    read_json,
    single_case,
)
from sctlab_model.errors import ExitCode, InputError, ProductError
from sctlab_model.io.writing import atomic_path, split_suffix, write_json
from sctlab_model.processors import heed_quota
from sctlab_model.synthesiser import CaseReport, LoadedCase, Synthesiser, output_paths

PREDICTIONS = "predictions.json"  # of a folder: which weights and folds made each result
ALIKE = ("--device", "ONNX Runtime")  # errors of these are no case's own


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code (see `sctlab_model.errors.ExitCode`)."""
    heed_quota()
    options = _parser().parse_args(arguments)
    if not options.debug:
        warnings.filterwarnings("ignore")
    try:
        return _run(options)
    except ProductError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        return _fail(f"internal error: {type(error).__name__}: {error} (--debug shows the trace)", ExitCode.INTERNAL)


def _run(options: argparse.Namespace) -> int:
    synthesiser = Synthesiser(options.weights, options.device, options.batch, options.uncertainty, options.runtime)
    if options.serve:
        from sctlab_model.server import serve

        return serve(synthesiser, options.input, options.output, port=options.port, task=options.task)
    root: Path = options.input
    if not root.exists():
        raise InputError(
            root, found="no such file or folder", expected="a case, a cohort, a folder of images or an image"
        )
    if root.is_file():
        if options.task is None:
            raise InputError(
                "--task", found="not given", expected="mri or cbct, because a single image doesn't say what it is"
            )
        return _one(single_case(root, options.task, options.mask, options.region), synthesiser, options)
    if options.mask is not None:
        raise InputError("--mask", found=f"given for the folder {root}", expected="a single image as --input")
    if is_challenge(root):
        return _one(read_challenge(root), synthesiser, options, challenge=True)
    if is_cohort(root):
        cases = find_cohort(root, task=options.task, region=options.region)
    elif options.task is None:
        raise InputError(root, found="a folder of images, and no --task", expected="--task mri or --task cbct")
    else:
        cases = find_flat(root, options.task, options.region)
    return _many(cases, synthesiser, options)


def _keep_inputs(cases: list[Case], options: argparse.Namespace) -> None:
    """Refuse an output folder where a result would take the place of an input image."""
    inputs = {p.resolve() for c in cases for p in c.input_files}
    for case in cases:
        for path in output_paths(case, options.output):
            if path.resolve() in inputs:
                raise InputError(
                    path,
                    found="the result would replace this input image",
                    expected="another folder",
                    advice="change --output",
                )


def _one(case: Case, synthesiser: Synthesiser, options: argparse.Namespace, *, challenge: bool = False) -> int:
    for name in ("zip", "skip_existing"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')}",
                found=f"given for one case, {case.id}",
                expected="a folder of cases",
            )
    _keep_inputs([case], options)
    report = synthesiser.synthesise(case, options.output)
    _tell(report, synthesiser)
    if challenge:
        results = challenge_results(case, options.output / case.output_name, options.input / "region.json")
        write_json(options.output / "results.json", results)
    _write_report(options.report, [report], synthesiser)
    return ExitCode.OK


def _many(cases: list[Case], synthesiser: Synthesiser, options: argparse.Namespace) -> int:
    """Every case, whatever happens to the others; a table and an exit code at the end."""
    from rich.console import Console
    from rich.progress import Progress

    _keep_inputs(cases, options)
    for task in {case.task for case in cases}:
        synthesiser.bundle(task)  # weights that a task lacks are missed now, not after hours
    console, reports = Console(stderr=True), []
    there = {c.id for c in cases if options.skip_existing and (options.output / c.output_name).is_file()}
    known = _recorded(options.output / PREDICTIONS, synthesiser) if there else {}
    # The next case is read and prepared while the network is busy with this one.
    waiting = iter([case for case in cases if case.id not in there])
    try:
        with Progress(console=console) as progress, ThreadPoolExecutor(1, "read ahead") as reader:
            bar = progress.add_task("synthetic CT", total=len(cases))

            def read_next() -> Future[LoadedCase] | None:
                case = next(waiting, None)
                return reader.submit(synthesiser.load, case) if case is not None else None

            ahead = read_next()
            for case in cases:
                progress.update(bar, description=case.id)
                if case.id in there:
                    report = known.get(case.id) or CaseReport(case.id, output=case.output_name)
                    reports.append(replace(report, warnings=[*report.warnings, "was there already: skipped"]))
                else:
                    loaded = ahead
                    wait([loaded])
                    ahead = read_next()
                    reports.append(_attempt(case, loaded, synthesiser, options))
                progress.advance(bar)
    finally:  # what is finished keeps its record when the run is interrupted
        if reports:
            _summary(reports, synthesiser, console)
            told = {r.case for r in reports}
            _write_report(
                options.output / PREDICTIONS,
                [*reports, *(r for r in known.values() if r.case not in told)],
                synthesiser,
            )
            _write_report(options.report, reports, synthesiser)
    if options.zip:
        _zip(cases, reports, options.output)
    failed = sum(bool(r.error) for r in reports)
    return ExitCode.SOME_CASES_FAILED if failed else ExitCode.OK


def _recorded(path: Path, synthesiser: Synthesiser) -> dict[str, CaseReport]:
    """What an earlier run into the same folder wrote of its cases, without their notes.

    Raises:
        InputError: Its results are of other weights: one record can't hold both.
    """
    if not path.is_file():
        return {}
    record, now = read_json(path), synthesiser.provenance()["bundles"]
    for task, bundle in record.get("bundles", {}).items():
        if task in now and bundle.get("weights_sha256") != now[task]["weights_sha256"]:
            raise InputError(
                path,
                found=f"results of other weights ({bundle.get('name')})",
                expected=f"those of {now[task]['name']}",
                advice="choose another --output, or leave --skip-existing out",
            )
    names = {f.name for f in fields(CaseReport)} - {"warnings"}
    cases = [CaseReport(**{k: v for k, v in c.items() if k in names}) for c in record.get("cases", []) if "case" in c]
    return {c.case: c for c in cases if not c.error}


def _attempt(
    case: Case, loaded: Future[LoadedCase], synthesiser: Synthesiser, options: argparse.Namespace
) -> CaseReport:
    try:
        return synthesiser.finish(loaded.result(), options.output)
    except ProductError as error:
        if error.where in ALIKE or (error.exit_code == ExitCode.BAD_WEIGHTS and not _is_seen(error, case)):
            raise  # every other case would fail alike
        return CaseReport(case.id, error=str(error))
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        return CaseReport(case.id, error=f"{type(error).__name__}: {error}")


def _is_seen(error: ProductError, case: Case) -> bool:
    return error.where == case.id


def _summary(reports: list[CaseReport], synthesiser: Synthesiser, console) -> None:
    from rich.table import Table

    table = Table("case", "seconds", "result", title=f"device: {synthesiser.device or 'none'}")
    for report in reports:
        text = f"[red]failed[/red] {report.error}" if report.error else "; ".join(report.warnings) or "ok"
        table.add_row(report.case, f"{_total(report):.1f}", text)
    console.print(table)
    failed = sum(bool(r.error) for r in reports)
    console.print(f"{len(reports) - failed} of {len(reports)} cases done" + (f", {failed} failed" if failed else ""))


def _total(report: CaseReport) -> float:
    return sum(v for k, v in report.seconds.items() if k != "network")


def _tell(report: CaseReport, synthesiser: Synthesiser) -> None:
    for warning in report.warnings:
        print(f"warning: {report.case}: {warning}", file=sys.stderr)
    demonstration = any(b["demonstration"] for b in synthesiser.provenance()["bundles"].values())
    if demonstration:
        print("note: demonstration weights, not for clinical use", file=sys.stderr)
    print(
        f"{report.case}: {report.slices} slices in {_total(report):.1f} s on {synthesiser.device} -> {report.output}",
        file=sys.stderr,
    )


def _write_report(path: Path | None, reports: list[CaseReport], synthesiser: Synthesiser) -> None:
    if path is not None:
        write_json(path, {**synthesiser.provenance(), "cases": [vars(r) for r in reports]})


def _zip(cases: list[Case], reports: list[CaseReport], output: Path) -> None:
    """`sct_<case id>.mha` files in one archive, as validation phases want them."""
    with atomic_path(output / "predictions.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for case, report in zip(cases, reports, strict=True):
            if not report.error:
                suffix = split_suffix(case.output_name)[1]
                archive.write(output / case.output_name, f"sct_{case.id}{suffix}")


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return int(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "process.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, default=Path("/input"), help="case, cohort, flat folder or image [/input]")
    add("--output", type=Path, default=Path("/output"), help="where results go [/output]")
    add("--task", type=Task, choices=list(Task), help="what the source is; needed for flat folders and single images")
    add("--region", type=_region, help="AB, HN or TH; needed by bundles with region groups")
    add("--mask", type=Path, help="body mask of a single image; computed when left out")
    add("--weights", type=Path, help="bundle folder [/opt/ml/model if not empty, else weights/ by task]")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N [auto]")
    add("--runtime", choices=("torch", "onnx"), default="torch", help="PyTorch, or ONNX Runtime for exported bundles")
    add("--batch", type=_positive, help="samples that run together [planned from free memory]")
    add("--uncertainty", action="store_true", help="also write the ensemble's standard deviation in HU")
    add("--report", type=Path, help="write versions, device, weights, timings and warnings to this JSON file")
    add("--zip", action="store_true", help="also pack the results of a folder as sct_<ID>.mha in predictions.zip")
    add("--skip-existing", action="store_true", help="leave cases alone whose result is there")
    add("--serve", action="store_true", help="Grand Challenge's invoke API")
    add("--port", type=int, default=4743, help="port of --serve [4743]")
    add("--debug", action="store_true", help="show the trace of an internal error")
    return parser


def _region(text: str) -> Region:
    try:
        return Region.parse(text, "--region")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
