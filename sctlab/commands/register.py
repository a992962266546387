"""`sctlab register`: a cohort, one pair, a published transform applied, a report."""

from __future__ import annotations

from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from sctlab.registration.methods import Method, Settings, device_in_words
from sctlab.registration.pairs import Convention, PairFiles, find_case_folders
from sctlab.registration.scratch import remove_stale
from sctlab.workflow.jobs import run_jobs, sigterm_as_interrupt, summarise
from sctlab_model.cases import Region, Task, is_cohort
from sctlab_model.errors import ExitCode, InputError

_DEFAULT = "pairs"


class _DefaultGroup(TyperGroup):
    """`register COHORT OUT` is `register pairs COHORT OUT`: a first word that is no subcommand is an argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultGroup,
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
    method: Annotated[Method, typer.Option(help="How to register.")] = Method.IMPACT,
    preset: Annotated[
        str, typer.Option(help="The engine's preset, or a YAML file; several, with commas, are averaged.")
    ] = "",
    convention: Annotated[Convention, typer.Option(help="Which image stays.")] = Convention.CT_TO_SOURCE,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cases at a time; 1 when left out, on Ray a case a core or GPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    executor: Annotated[str, typer.Option(help="local (processes) or ray (a cluster).")] = "local",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    task: Annotated[Task | None, typer.Option(help="Only this task; for one pair: what the source is.")] = None,
    region: Annotated[Region | None, typer.Option(help="Only this region; for one pair: its region.")] = None,
    cases: Annotated[int, typer.Option(min=0, help="At most this many cases a region; 0 takes all.")] = 0,
    fixed: Annotated[Path | None, typer.Option(help="One pair: the fixed image.")] = None,
    moving: Annotated[Path | None, typer.Option(help="One pair: the moving image.")] = None,
    fixed_mask: Annotated[Path | None, typer.Option(help="One pair: the body on the fixed image's grid.")] = None,
    moving_labels: Annotated[Path | None, typer.Option(help="One pair: labels on the moving image's grid.")] = None,
    fixed_labels: Annotated[
        Path | None, typer.Option(help="One pair: the same labels on the fixed image's grid.")
    ] = None,
    displacement: Annotated[bool, typer.Option("--displacement-field", help="Also write the vectors.")] = False,
    both_ways: Annotated[
        bool, typer.Option("--inverse-consistency", help="Also register the other way round and report the difference.")
    ] = False,
) -> int:
    """Register a cohort into OUT/<method>, or one pair into OUT. Finished cases are left as they are."""
    console = Console(stderr=True)
    presets = tuple(p.strip() for p in preset.split(",") if p.strip())
    # A file's full path: workers of a cluster may start elsewhere.
    presets = tuple(str(Path(p).absolute()) if Path(p).suffix else p for p in presets)
    settings = Settings(method, presets, convention, seed, device, both_ways, displacement)
    check_settings(settings)
    if fixed is not None or moving is not None:
        if len(paths) != 1 or fixed is None or moving is None:
            raise InputError(
                "register",
                found=f"{len(paths)} folders with --fixed or --moving",
                expected="OUT --fixed IMAGE --moving IMAGE",
            )
        files = pair_files(fixed, moving, fixed_mask, moving_labels, fixed_labels, convention, task, region, console)
        return _register_one(files, settings, paths[0], console)
    if len(paths) != 2:
        raise InputError(
            "register", found=f"{len(paths)} folders", expected="COHORT OUT, or OUT --fixed IMAGE --moving IMAGE"
        )
    for name, value in (
        ("--fixed-mask", fixed_mask),
        ("--moving-labels", moving_labels),
        ("--fixed-labels", fixed_labels),
    ):
        if value is not None:
            raise InputError(
                name,
                found="a file with a cohort",
                expected="--fixed and --moving",
                advice="a cohort has its own masks and labels",
            )
    return _register_cohort(paths[0], paths[1], settings, task, region, cases, jobs, executor, console)


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

    console = Console(stderr=True)
    interpolation = "nearest" if labels else interpolation
    for line in apply_file(
        transform, image, out, like=like, interpolation=interpolation, outside=outside, inverse=inverse
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return ExitCode.OK


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="OUT/<method>.")],
) -> int:
    """Write report.html and exclusions.json of a registered cohort again."""
    from sctlab.registration.report import REPORT, write_report

    excluded = write_report(folder)
    Console(stderr=True).print(f"{folder / REPORT}: {len(excluded)} proposed for exclusion", soft_wrap=True)
    return ExitCode.OK


def check_settings(settings: Settings) -> None:
    """Refuse what no case can be registered with, before the first one is read.

    Raises:
        InputError: An unknown device, a GPU that isn't there, an unknown preset.
    """
    from sctlab.registration.engine.register import choose_device
    from sctlab.registration.presets import find_presets

    choose_device(settings.device)
    if settings.presets and settings.method is not Method.IMPACT:
        raise InputError(
            "--preset",
            found=", ".join(settings.presets),
            expected=f"none with --method {settings.method}",
            advice="presets belong to --method impact",
        )
    if settings.presets:
        find_presets(",".join(settings.presets))


def pair_files(
    fixed: Path,
    moving: Path,
    fixed_mask: Path | None,
    moving_labels: Path | None,
    fixed_labels: Path | None,
    convention: Convention,
    task: Task | None,
    region: Region | None,
    console: Console,
) -> PairFiles:
    """The files of one pair given by options. A task that isn't given follows from the source's values."""
    from sctlab_model.io.reading import read_volume

    ct_is_fixed = convention is Convention.SOURCE_TO_CT
    source, ct = (moving, fixed) if ct_is_fixed else (fixed, moving)
    if task is None:
        task = Task.CBCT if float(read_volume(source).array.min()) < -300 else Task.MRI
        console.print(f"task {task} (by the values of {source.name}; --task says otherwise)", highlight=False)
    if region is None:
        region = Region.AB
        console.print("region AB (--region says otherwise)", highlight=False)
    ct_labels, source_labels = (fixed_labels, moving_labels) if ct_is_fixed else (moving_labels, fixed_labels)
    for path in (ct, source, fixed_mask, ct_labels, source_labels):
        if path is not None and not path.is_file():
            raise InputError(path, found="no such file", expected="an image")
    name = moving.name.split(".")[0]
    return PairFiles(name, task, region, source, ct, fixed_mask, ct_labels, source_labels, mask_is_fixed=True)


def _register_one(files: PairFiles, settings: Settings, out: Path, console: Console) -> int:
    from sctlab.registration.case import PAIR, PARTIAL, QUALITY, register_case
    from sctlab_model.cases import read_json

    remove_stale(out.parent, f"{PARTIAL}{files.id}-")
    with sigterm_as_interrupt():
        result = register_case(files, settings, out)
    quality, pair = read_json(out / QUALITY), read_json(out / PAIR)
    before, after = quality["similarity"]["before"], quality["similarity"]["after"]
    state = (
        "was already registered with these settings" if result["skipped"] else f"registered in {quality['seconds']} s"
    )
    console.print(f"{files.id} {state} on {pair['device']}", highlight=False, soft_wrap=True)
    console.print(
        f"NMI {before['nmi']:.3f} → {after['nmi']:.3f}, features {before['feature_distance']:.3f} → "
        f"{after['feature_distance']:.3f}, folds {quality['field']['jacobian']['folds']:.2%}; see {out / 'overview.png'}",
        highlight=False,
        soft_wrap=True,
    )
    return ExitCode.OK


def _register_cohort(
    cohort: Path,
    out: Path,
    settings: Settings,
    task: Task | None,
    region: Region | None,
    cases: int,
    jobs: int | None,
    executor: str,
    console: Console,
) -> int:
    from sctlab.registration.case import PARTIAL, record_failure, recorded_failure, refuse_inputs
    from sctlab.registration.report import EXCLUSIONS, REPORT, write_report

    if not cohort.is_dir():
        raise InputError(cohort, found="no such folder", expected="a cohort with Task1/ or Task2/")
    cohort, root = cohort.absolute(), (out / settings.method).absolute()  # workers of a cluster may start elsewhere
    if not is_cohort(cohort):
        raise InputError(cohort, found="neither Task1/ nor Task2/ in it", expected="a SynthRAD cohort")
    if cohort.resolve() in (root.resolve(), out.resolve()):
        raise InputError(out, found="the cohort's own folder", expected="another folder for the registered pairs")
    found = find_case_folders(cohort, task=task, region=region)
    if cases:
        found = [case for _, group in groupby(found, lambda case: case[1:]) for case in islice(group, cases)]
    work = []
    for folder, this_task, this_region in found:
        target = root / this_task.folder / this_region / folder.name
        refuse_inputs(target, folder)
        work.append(
            (
                f"{this_task.folder}/{this_region}/{folder.name}",
                (folder, this_task, this_region, settings, target, root),
            )
        )
    remove_stale(root, PARTIAL)
    device = device_in_words(settings)
    told = f", {jobs} at a time" if jobs else ""
    console.print(f"{settings.method} on {device}; {len(work)} cases{told}", highlight=False)
    outcomes = run_jobs(
        _register_job,
        work,
        title=f"register ({settings.method})",
        processes=jobs,
        executor=executor,
        gpus=int(device.startswith("cuda")),
        console=console,
    )
    for (_, (folder, *_, target, _)), outcome in zip(work, outcomes, strict=True):
        if not outcome.ok and recorded_failure(target) != outcome.error:  # its worker died
            with suppress(InputError, OSError):  # files of somebody else lie there, or the disk is full
                record_failure(target, root, folder.name, outcome.error, settings)
    skipped = sum(1 for o in outcomes if o.ok and o.result["skipped"])
    if skipped:
        console.print(f"{skipped} of {len(outcomes)} cases were finished before", highlight=False)
    excluded = write_report(root)
    console.print(
        f"{root / REPORT}; {len(excluded)} proposed for exclusion in {root / EXCLUSIONS}",
        highlight=False,
        soft_wrap=True,
    )
    return summarise(outcomes, console)


def _register_job(
    folder: Path, task: Task, region: Region, settings: Settings, target: Path, scratch: Path
) -> dict[str, Any]:
    """One case in whatever process runs it; what its folder lacks is a failure of this case."""
    from sctlab.registration.case import record_failure, register_case

    try:
        files = PairFiles.in_folder(folder, task, region)
    except InputError as error:
        record_failure(target, scratch, folder.name, str(error), settings)
        raise
    return register_case(files, settings, target, scratch)
