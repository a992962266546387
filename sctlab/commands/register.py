"""`sctlab register`: a cohort, one pair, a published transform applied, a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sctlab.commands.choices import one_of
from sctlab.commands.default import default_group
from sctlab.commands.failures import print_failures
from sctlab.registration.methods import check_settings
from sctlab.registration.records import EXCLUSIONS, Verdict
from sctlab.registration.request import check_cohort, check_images, check_results
from sctlab.registration.settings import Convention, Method, RegistrationSettings
from sctlab_model.cases import Region, Task
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.monitor import ConsoleMonitor, Monitor

if TYPE_CHECKING:
    from sctlab.registration.case import CaseResult
    from sctlab.registration.cohort import RegistrationResult

_DEFAULT = "pairs"


app = typer.Typer(
    cls=default_group(_DEFAULT),
    help="Register pairs, or apply a registration. `sctlab register COHORT OUT` is `sctlab register pairs COHORT OUT`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(_DEFAULT)
def pairs(
    paths: Annotated[
        list[Path], typer.Argument(help="COHORT OUT, or OUT with --fixed and --moving.", metavar="[COHORT] OUT")
    ],
    method: Annotated[Method, one_of("--method", Method, "How to register.")] = Method.IMPACT,
    preset: Annotated[
        str, typer.Option(help="The engine's preset, or a YAML file; several, with commas, are averaged.")
    ] = "",
    convention: Annotated[
        Convention, one_of("--convention", Convention, "Which image stays.")
    ] = Convention.CT_TO_SOURCE,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; 1 when left out, on Ray a case a core or GPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    executor: Annotated[str, one_of("--executor", ("local", "ray"), "Processes here, or a cluster.")] = "local",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    task: Annotated[Task | None, one_of("--task", Task, "Only this task; for one pair: what the source is.")] = None,
    region: Annotated[Region | None, one_of("--region", Region, "Only this region; for one pair: its region.")] = None,
    cases: Annotated[int, typer.Option(min=0, help="At most this many cases a region; 0 takes all.")] = 0,
    fixed: Annotated[Path | None, typer.Option(help="One pair: the fixed image.")] = None,
    moving: Annotated[Path | None, typer.Option(help="One pair: the moving image.")] = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="One pair: the body on the fixed image's grid.")] = None,
    moving_labels: Annotated[
        Path | None,
        typer.Option(help="One pair: labels on the moving image's grid; the CT's also say where organs slide."),
    ] = None,
    fixed_labels: Annotated[
        Path | None, typer.Option(help="One pair: the same labels on the fixed image's grid.")
    ] = None,
    displacement: Annotated[bool, typer.Option("--displacement-field", help="Also write the vectors.")] = False,
    both_ways: Annotated[
        bool, typer.Option("--inverse-consistency", help="Also register the other way round and report the difference.")
    ] = False,
) -> int:
    """Register a cohort into OUT/<method>, or one pair into OUT. Finished cases are left as they are."""
    settings = RegistrationSettings(
        method=method,
        # A file's full path: workers of a cluster may start elsewhere.
        presets=tuple(str(Path(p).absolute()) if Path(p).suffix else p for p in _words(preset)),
        convention=convention,
        seed=seed,
        device=device,
        both_ways=both_ways,
        displacement=displacement,
    )
    one_pair = {"--fixed-mask": fixed_mask, "--moving-labels": moving_labels, "--fixed-labels": fixed_labels}
    if fixed is not None or moving is not None:
        if len(paths) != 1 or fixed is None or moving is None:
            raise InputError(
                "register",
                found=f"{len(paths)} folders with --fixed or --moving",
                expected="OUT --fixed IMAGE --moving IMAGE",
            )
        check_images(fixed, moving, *one_pair.values())
        check_settings(settings)
        from sctlab.registration.single import register_files

        with ConsoleMonitor("register") as monitor:
            case = register_files(
                fixed,
                moving,
                paths[0],
                settings,
                task=task,
                region=region,
                fixed_mask=fixed_mask,
                fixed_labels=fixed_labels,
                moving_labels=moving_labels,
                monitor=monitor,
            )
            return _report_case(case, monitor)
    if len(paths) != 2:
        raise InputError(
            "register", found=f"{len(paths)} folders", expected="COHORT OUT, or OUT --fixed IMAGE --moving IMAGE"
        )
    given = next((name for name, value in one_pair.items() if value is not None), None)
    if given is not None:
        raise InputError(
            given,
            found="a file with a cohort",
            expected="--fixed and --moving",
            advice="a cohort has its own masks and labels",
        )
    check_cohort(*paths)
    check_settings(settings)
    from sctlab.registration.cohort import register_cohort
    from sctlab.registration.report import REPORT

    with ConsoleMonitor(f"register ({method})") as monitor:
        result = register_cohort(
            paths[0],
            paths[1],
            settings,
            task=task,
            region=region,
            cases=cases,
            jobs=jobs,
            executor=executor,
            monitor=monitor,
        )
        if result.skipped:
            monitor.info(f"{result.skipped} of {len(result.outcomes)} cases were finished before")
        monitor.info(
            f"{result.root / REPORT}; {len(result.excluded)} proposed for exclusion in {result.root / EXCLUSIONS}"
        )
        _print_verdicts(result, monitor)
    print_failures(result.outcomes)
    return result.exit_code


@app.command("apply")
def apply(
    transform: Annotated[Path, typer.Argument(help="TransformParameters .txt, ITK .h5/.tfm, or a displacement image.")],
    image: Annotated[Path, typer.Argument(help="Moving image; or points, a .csv with x, y, z in mm (LPS) a line.")],
    out: Annotated[Path, typer.Argument(help="The result.")],
    like: Annotated[
        Path | None, typer.Option(help="An image whose grid the result gets; needed for ITK files.")
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="The image holds labels or a mask: nearest neighbour.")
    ] = False,
    interpolation: Annotated[
        str, typer.Option(help="safe (cubic without overshoot), cubic, linear or nearest.")
    ] = "safe",
    outside: Annotated[float | None, typer.Option(help="Value where the image has no data.")] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Apply the inverse; its error is printed.")] = False,
) -> int:
    """Apply a published registration to an image, labels or points."""
    from sctlab.transforms.apply_file import apply_file

    monitor = ConsoleMonitor()
    interpolation = "nearest" if labels else interpolation
    for line in apply_file(
        transform, image, out, like=like, interpolation=interpolation, outside=outside, inverse=inverse
    ):
        monitor.info(line)
    return ExitCode.OK


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="OUT/<method>.")],
) -> int:
    """Write report.html and exclusions.json of a registered cohort again."""
    check_results(folder)
    from sctlab.registration.report import REPORT, write_report

    excluded = write_report(folder)
    ConsoleMonitor().info(f"{folder / REPORT}: {len(excluded)} proposed for exclusion")
    return ExitCode.OK


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _report_case(case: CaseResult, monitor: Monitor) -> int:
    """What one pair's registration came to, in two lines."""
    from sctlab.registration.case import OVERVIEW

    quality = case.quality
    before, after = quality.similarity.before, quality.similarity.after
    state = "was already registered with these settings" if case.skipped else f"registered in {quality.seconds} s"
    monitor.info(f"{case.pair.case} {state} on {case.pair.device}")
    monitor.info(
        f"NMI {before.nmi:.3f} → {after.nmi:.3f}, features {before.feature_distance:.3f} → "
        f"{after.feature_distance:.3f}, folds {quality.field.jacobian.folds:.2%}; see {case.folder / OVERVIEW}"
    )
    verdict, judgement = quality.verdict, quality.judgement
    if verdict is None or judgement is None:
        return ExitCode.OK
    low, high = judgement.interval_mm
    line = f"predicted error {judgement.error_mm:.1f} mm (90 % interval {low:.1f} to {high:.1f} mm)"
    if verdict is Verdict.FAILED:
        # The predicted error alone would look harmless: a mirrored image can lie neatly on the other.
        line = f"it looks as if it were not aligned, or other anatomy; if it is neither, {line}"
    line = f"{verdict}: {line}"
    (monitor.info if verdict is Verdict.TRUSTED else monitor.warning)("; ".join((line, *quality.reasons)))
    return ExitCode.SOME_CASES_FAILED if verdict is Verdict.FAILED else ExitCode.OK


def _print_verdicts(result: RegistrationResult, monitor: Monitor) -> None:
    """How many verdicts of each kind, and the reasons of those that aren't `trusted`."""
    verdicts = {key: case.quality for key, case in result.cases.items() if case.quality.verdict is not None}
    counts = [f"{sum(q.verdict is v for q in verdicts.values())} {v}" for v in Verdict]
    monitor.info("verdicts: " + ", ".join(counts))
    rows = [
        (key, quality, quality.judgement)
        for key, quality in verdicts.items()
        if quality.verdict is not Verdict.TRUSTED and quality.judgement is not None
    ]
    if not rows:
        return
    table = Table("case", "verdict", "predicted error", "reasons")
    for key, quality, judgement in sorted(rows, key=lambda row: -row[2].failure_probability):
        table.add_row(str(key), str(quality.verdict), f"{judgement.error_mm:.1f} mm", "; ".join(quality.reasons))
    Console(stderr=True).print(table)
