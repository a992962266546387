"""A run: the folder that holds the plan, the cohort, the folds, and every stage of every fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from sctlab.cohort.pairs import Cohort, Folds, Pair, load_cohort, make_folds, read_exclusions
from sctlab.training.cache import PreparedCase, prepare_case, prepared_case
from sctlab.training.checkpoint import has_checkpoint, read_values
from sctlab.training.loop import StageJob, train_stage
from sctlab.training.plan import Stage, TrainingPlan, load_plan, write_plan
from sctlab.workflow.jobs import refuse_broken, run_jobs
from sctlab_model.cases import Region, read_json
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_json
from sctlab_model.processors import available_cpus

PLAN, COHORT, FOLDS, CHECKS = "plan.yaml", "cohort.json", "folds.json", "checks.json"


class Run:
    """The folder of a run.

    Args:
        folder: `plan.yaml`, `cohort.json`, `folds.json`, `fold_K/STAGE/`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def plan(self) -> TrainingPlan:
        """The resolved plan."""
        if not (self.folder / PLAN).is_file():
            raise InputError(self.folder, found=f"no {PLAN}", expected="the --out folder of `sctlab train`")
        return load_plan(str(self.folder / PLAN))

    @property
    def folds(self) -> Folds:
        """The folds."""
        return Folds.read(self.folder / FOLDS)

    @property
    def cohort(self) -> dict[str, Any]:
        """The record of the pairs: digest, cases, registrations, what was left out."""
        return read_json(self.folder / COHORT)

    def stage_folder(self, fold: int, stage: str) -> Path:
        """Where a stage's checkpoints and logs lie."""
        return self.folder / f"fold_{fold}" / stage

    def finished(self, fold: int, stage: str) -> bool:
        """Whether a stage was trained to its end."""
        folder = self.stage_folder(fold, stage)
        return has_checkpoint(folder, "last") and bool(read_values(folder, "last")["finished"])


def train_run(
    plan: TrainingPlan,
    pairs: Path,
    out: Path,
    *,
    folds: Sequence[int] | None,
    stages: Sequence[str] | None,
    resume: bool,
    fabric: Fabric,
    cache: Path | None = None,
    jobs: int = 1,
    console: Console | None = None,
) -> None:
    """Check the pairs, make or read the folds, and train what is asked for.

    Args:
        plan: The resolved plan.
        pairs: Cohort, or the output of `sctlab register`.
        out: The run's folder; training more folds of the same plan and pairs adds to it.
        folds: Which folds; all when left out.
        stages: Which stages; all when left out.
        resume: Go on where the folder's checkpoints end.
        fabric: Launched.
        cache: Folder of prepared cases; inside the run when left out.
        jobs: Processes that check and prepare cases.

    Raises:
        InputError: The folder holds another plan or other pairs, or checkpoints and no `resume`; a fold and stage
            without a case to train or validate on; or what `train_stage` raises.
    """
    console = console or Console(stderr=True, quiet=not fabric.is_global_zero)
    run = Run(out)
    cache = cache or out / "cache"
    chosen_folds = list(range(plan.data.folds)) if folds is None else list(folds)
    chosen_stages = [s for s in plan.stages if stages is None or s.name in stages]

    def set_up() -> None:
        _check_choice(plan, chosen_folds, stages or [], fabric.world_size)
        if not resume:
            _refuse_checkpoints(run, chosen_folds, chosen_stages)
        _set_up(run, plan, pairs, chosen_folds, chosen_stages, cache, jobs, console)

    _in_first_process(fabric, set_up)
    cohort = _cohort(plan, pairs, run.folder / CHECKS, 1)
    division = run.folds
    for fold in chosen_folds:
        for stage in chosen_stages:
            job = _job(run, plan, stage, fold, cohort, division, cache)
            best = train_stage(job, fabric, console)
            console.print(
                f"{job.name}: best at iteration {best['best_iteration']}, "
                f"MAE {best['metrics']['mae_hu']:.1f} HU "
                f"(all water: {best['metrics']['mae_all_water_hu']:.1f} HU)",
                soft_wrap=True,
            )


def _in_first_process(fabric: Fabric, work: Callable[[], None]) -> None:
    """Do `work` in the first process while the others wait; where it fails, all of them end.

    Raises:
        Exception: Of `work`, in the first process.
        SystemExit: In the others, without a word and with code 0: the first one tells, and a launcher that sees
            another code would kill it before it has.
    """
    error = None
    if fabric.is_global_zero:
        try:
            work()
        except Exception as caught:
            error = caught
    failed = fabric.broadcast(error is not None)
    if error is not None:
        raise error
    if failed:
        raise SystemExit(0)


def _check_choice(plan: TrainingPlan, folds: Sequence[int], stages: Sequence[str], processes: int) -> None:
    """Refuse folds, stages and numbers of processes that the plan doesn't have."""
    if not all(0 <= k < plan.data.folds for k in folds):
        raise InputError("--fold", found=", ".join(map(str, folds)), expected=f"0 to {plan.data.folds - 1}, or all")
    known = [s.name for s in plan.stages]
    unknown = set(stages) - set(known)
    if unknown:
        raise InputError("--stage", found=", ".join(sorted(unknown)), expected="one of " + ", ".join(known))
    draws = plan.patch.batch // plan.patch.slab
    if draws % processes:
        raise InputError(
            "--devices",
            found=f"{processes} processes for a batch of {draws} draws",
            expected="a number that divides it",
        )


def _check_cases(
    run: Run, folds: Sequence[int], stages: Sequence[Stage], pairs: Sequence[Pair], division: Folds
) -> None:
    """Refuse what could not be trained, before hours are spent on what comes first.

    Raises:
        InputError: A fold and stage without a training or a validation case, or whose start isn't there.
    """
    for fold in folds:
        for stage in stages:
            for name, found in zip(("training", "validation"), _cases(stage, fold, pairs, division), strict=True):
                if not found:
                    where = f"regions {', '.join(stage.regions)}" if stage.regions else "any region"
                    raise InputError(
                        f"fold {fold}, stage {stage.name}",
                        found=f"no {name} case of {where}",
                        expected="at least one",
                        advice="train fewer folds, or on a larger cohort",
                    )
            starts_now = stage.start is None or any(s.name == stage.start for s in stages)
            if not starts_now and not run.finished(fold, stage.start):
                raise InputError(
                    f"fold {fold}, stage {stage.name}",
                    found=f"stage {stage.start} isn't finished",
                    expected="its best network, which this stage starts from",
                    advice=f"train it first: --stage {stage.start}",
                )


def _cases(stage: Stage, fold: int, pairs: Sequence[Pair], division: Folds) -> tuple[list[Pair], list[Pair]]:
    """The pairs that a stage of a fold trains and validates on, sorted by id."""
    of_regions = {p.id: p for p in pairs if stage.regions is None or p.region in stage.regions}
    ids = division.training_ids(fold), division.validation[fold]
    training, validation = ([of_regions[i] for i in found if i in of_regions] for found in ids)
    return training, validation


def _job(
    run: Run, plan: TrainingPlan, stage: Stage, fold: int, cohort: Cohort, division: Folds, cache: Path
) -> StageJob:
    training, validation = _cases(stage, fold, cohort.pairs, division)
    if plan.data.validation_cases is not None:
        validation = _spread(validation, plan.data.validation_cases)

    def prepared(found: list[Pair]) -> list[PreparedCase]:
        return [prepared_case(p, plan.recipe, cache) for p in found]

    start = None if stage.start is None else run.stage_folder(fold, stage.start)
    return StageJob(
        plan,
        stage,
        fold,
        prepared(training),
        prepared(validation),
        run.stage_folder(fold, stage.name),
        start,
        cohort.digest,
    )


def _spread(pairs: list[Pair], count: int) -> list[Pair]:
    """`count` cases, the regions in turn."""
    by_region: dict[Region, list[Pair]] = {}
    for pair in pairs:
        by_region.setdefault(pair.region, []).append(pair)
    order = sorted(
        ((k, pair.id, pair) for found in by_region.values() for k, pair in enumerate(found)), key=lambda item: item[:2]
    )
    return sorted((pair for _, _, pair in order[:count]), key=lambda p: p.id)


def _refuse_checkpoints(run: Run, folds: Sequence[int], stages: Sequence[Stage]) -> None:
    for fold in folds:
        for stage in stages:
            if has_checkpoint(run.stage_folder(fold, stage.name), "last"):
                raise InputError(
                    run.stage_folder(fold, stage.name),
                    found="a checkpoint is there",
                    expected="a new --out folder",
                    advice="or --resume to go on with it",
                )


def _cohort(plan: TrainingPlan, pairs: Path, checks: Path, jobs: int) -> Cohort:
    exclusions = read_exclusions(plan.data.exclude) if plan.data.exclude else None
    regions = {r for s in plan.stages for r in (s.regions or tuple(Region))}
    return load_cohort(
        pairs,
        plan.recipe.task,
        target=plan.data.target,
        exclusions=exclusions,
        regions=regions,
        jobs=jobs,
        remember=checks,
    )


def _set_up(
    run: Run,
    plan: TrainingPlan,
    pairs: Path,
    folds: Sequence[int],
    stages: Sequence[Stage],
    cache: Path,
    jobs: int,
    console: Console,
) -> None:
    """Write plan, cohort and folds, or see that those of the folder are the same; prepare the cases."""
    if (run.folder / PLAN).is_file() and run.plan != plan:
        raise InputError(
            run.folder,
            found=f"its {PLAN} is another plan",
            expected="the plan that the run began with",
            advice="choose another --out",
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    cohort = _cohort(plan, pairs, run.folder / CHECKS, jobs)
    if (run.folder / COHORT).is_file() and run.cohort["digest"] != cohort.digest:
        raise InputError(
            pairs,
            found="other pairs than those that the run began with",
            expected="the same files",
            advice="choose another --out",
        )
    if cohort.left_out:
        table = Table("case", "why it is left out", title=f"{len(cohort.left_out)} cases are left out")
        for case_id, reason in sorted(cohort.left_out.items()):
            table.add_row(case_id, reason)
        console.print(table)
    there = (run.folder / FOLDS).is_file()
    division = (
        run.folds
        if there
        else make_folds(cohort.pairs, plan.data.folds, seed=plan.data.seed, held_out=plan.data.held_out)
    )
    _check_cases(run, folds, stages, cohort.pairs, division)
    if not there:
        division.write(run.folder / FOLDS)
    write_json(run.folder / COHORT, describe(cohort, pairs))
    if not (run.folder / PLAN).is_file():  # the recipe that the user wrote may lie there
        write_plan(plan, run.folder / PLAN)
    missing = [(p.id, (p, plan.recipe, cache)) for p in cohort.pairs]
    outcomes = run_jobs(prepare_case, missing, title="preparing cases", processes=jobs, console=console)
    refuse_broken(outcomes, "preparing cases")
    failed = [o for o in outcomes if not o.ok]
    if failed:
        raise InputError(
            failed[0].name,
            found=failed[0].error,
            expected="cases that can be prepared",
            advice="exclude it, or repair it",
        )


def describe(cohort: Cohort, pairs: Path) -> dict[str, Any]:
    """The record of a cohort, for the run and the bundle."""
    return {
        "folder": str(pairs),
        "digest": cohort.digest,
        "registrations": cohort.registrations,
        "left_out": cohort.left_out,
        "cases": {
            p.id: {"region": p.region, "centre": p.centre, "patient": p.patient, "digest": p.digest}
            for p in cohort.pairs
        },
    }


def default_jobs() -> int:
    """Processes for checking and preparing: one for every two cores, because reading inflates in one thread."""
    return max(1, available_cpus() // 2)


__all__ = ["Run", "default_jobs", "describe", "train_run"]
