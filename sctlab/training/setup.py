"""The beginning of a run: what is refused before anything is trained, and what is written and prepared."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sctlab.cohort.load import Cohort, CohortRecord, load_cohort
from sctlab.cohort.pairs import Pair, find_pairs
from sctlab.cohort.parameters import strata_of
from sctlab.cohort.splits import FoldsRecord, make_folds
from sctlab.training.cache import prepare_case
from sctlab.training.checkpoint import has_checkpoint
from sctlab.training.plan import Stage, TrainingPlan, write_plan
from sctlab.training.run import CHECKS, COHORT, FOLDS, PLAN, Run
from sctlab.workflow.cases import run_cases
from sctlab.workflow.locking import one_at_a_time
from sctlab.workflow.outcomes import refuse_broken
from sctlab_model.case_output import check_writable
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.monitor import Monitor
from sctlab_model.processors import available_cpus


def check_request(
    plan: TrainingPlan, pairs: Path, run: Run, folds: Sequence[int], stages: Sequence[str], *, resume: bool
) -> None:
    """Refuse what needs neither an image nor PyTorch to be refused, before it is imported.

    Args:
        plan: The resolved plan.
        pairs: Cohort, or the output of `sctlab register`.
        run: Where the run is to lie.
        folds, stages: Those asked for by number and name; empty for all.
        resume: Checkpoints may be there.

    Raises:
        InputError: No such fold or stage, no cohort, no case of the task in it, a folder that can't be written to, or
            checkpoints in it.
    """
    check_choice(plan, folds, stages, 1)
    if not pairs.is_dir():
        raise InputError("--pairs", found=f"{pairs} is no folder", expected="a cohort or registered pairs")
    find_pairs(pairs, plan.recipe.task, target=plan.data.target, failed=plan.data.failed)
    check_writable(run.folder)
    if not resume:
        chosen = [s for s in plan.stages if not stages or s.name in stages]
        refuse_checkpoints(run, folds or range(plan.data.folds), chosen)


def check_choice(plan: TrainingPlan, folds: Sequence[int], stages: Sequence[str], processes: int) -> None:
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


def check_cases(
    run: Run, folds: Sequence[int], stages: Sequence[Stage], pairs: Sequence[Pair], division: FoldsRecord
) -> None:
    """Refuse what could not be trained, before hours are spent on what comes first.

    Raises:
        InputError: A fold and stage without a training or a validation case, or whose start isn't there.
    """
    for fold in folds:
        for stage in stages:
            for name, cases in zip(("training", "validation"), cases_of(stage, fold, pairs, division), strict=True):
                if not cases:
                    where = f"regions {', '.join(stage.regions)}" if stage.regions else "any region"
                    raise InputError(
                        f"fold {fold}, stage {stage.name}",
                        found=f"no {name} case of {where}",
                        expected="at least one",
                        advice="train fewer folds, or on a larger cohort",
                    )
            starts_now = stage.start is None or any(s.name == stage.start for s in stages)
            if not starts_now and not run.finished(fold, str(stage.start)):
                raise InputError(
                    f"fold {fold}, stage {stage.name}",
                    found=f"stage {stage.start} isn't finished",
                    expected="its best network, which this stage starts from",
                    advice=f"train it first: --stage {stage.start}",
                )


def cases_of(stage: Stage, fold: int, pairs: Sequence[Pair], division: FoldsRecord) -> tuple[list[Pair], list[Pair]]:
    """The pairs that a stage of a fold trains and validates on, sorted by id."""
    of_regions = {p.key: p for p in pairs if stage.regions is None or p.region in stage.regions}
    keys = division.training_keys(fold), division.validation[fold]
    training, validation = ([of_regions[k] for k in chosen if k in of_regions] for chosen in keys)
    return training, validation


def one_trainer(run: Run, fold: int, stage: Stage) -> AbstractContextManager[None]:
    """Hold a stage of a fold for this process; different folds of a run may be trained at the same time.

    Raises:
        InputError: Another process trains it. Waiting, for hours or days, would end with nothing left to train.
    """
    folder = run.stage_folder(fold, stage.name)

    def refuse() -> None:
        raise InputError(
            folder,
            found="another process that trains it",
            expected="one at a time",
            advice="wait until it ends, or choose another --fold or --out",
        )

    return one_at_a_time(folder, refuse)


def refuse_checkpoints(run: Run, folds: Sequence[int], stages: Sequence[Stage]) -> None:
    for fold in folds:
        for stage in stages:
            if has_checkpoint(run.stage_folder(fold, stage.name), "last"):
                raise InputError(
                    run.stage_folder(fold, stage.name),
                    found="a checkpoint is there",
                    expected="a new --out folder",
                    advice="or --resume to go on with it",
                )


def load_pairs(plan: TrainingPlan, pairs: Path, checks: Path, jobs: int, monitor: Monitor) -> Cohort:
    return load_cohort(
        pairs,
        plan.recipe.task,
        target=plan.data.target,
        failed=plan.data.failed,
        exclude=plan.data.exclude,
        regions={r for s in plan.stages for r in (s.regions or tuple(Region))},
        jobs=jobs,
        remember=checks,
        monitor=monitor,
    )


def _first_difference(before: Any, now: Any, key: str = "") -> tuple[str, str, str]:
    """Where two plans differ first: the key, and both values, shortened."""
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        for name in before:
            if before[name] != now[name]:
                return _first_difference(before[name], now[name], f"{key}.{name}" if key else name)
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            if one != other:
                return _first_difference(one, other, f"{key}.{index}")
    return key, repr(before)[:80], repr(now)[:80]


def set_up(
    run: Run,
    plan: TrainingPlan,
    pairs: Path,
    folds: Sequence[int],
    stages: Sequence[Stage],
    cache: Path,
    jobs: int | None,
    monitor: Monitor,
) -> None:
    """Write plan, cohort and folds, or see that those of the folder are the same; prepare the cases."""
    if (run.folder / PLAN).is_file() and run.plan != plan:
        key, before, now = _first_difference(run.plan.model_dump(mode="json"), plan.model_dump(mode="json"))
        raise InputError(
            run.folder,
            found=f"its {PLAN} is another plan: {key} is {before} there, and {now} here",
            expected="the plan that the run began with",
            advice="choose another --out",
        )
    jobs = jobs or max(1, available_cpus() // 2)  # reading inflates in one thread
    cohort = load_pairs(plan, pairs, run.folder / CHECKS, jobs, monitor)
    if (run.folder / COHORT).is_file() and CohortRecord.read(run.folder / COHORT).digest != cohort.digest:
        raise InputError(
            pairs,
            found="other pairs than those that the run began with",
            expected="the same files",
            advice="choose another --out",
        )
    for key, reason in sorted(cohort.left_out.items()):
        monitor.warning(f"{key} is left out: {reason}")
    for key, reason in sorted(cohort.doubtful.items()):
        monitor.warning(f"{key} is used, though {reason}")
    there = (run.folder / FOLDS).is_file()
    division = (
        run.folds
        if there
        else make_folds(
            cohort.pairs,
            plan.data.folds,
            seed=plan.data.seed,
            held_out=plan.data.held_out,
            groups=strata_of(cohort.pairs, plan.data.stratify_by, plan.data.parameters or pairs),
        )
    )
    check_cases(run, folds, stages, cohort.pairs, division)
    CohortRecord.of(cohort).write(run.folder / COHORT)
    if not there:
        division.write(run.folder / FOLDS)
    if not (run.folder / PLAN).is_file():  # the recipe that the user wrote may lie there
        write_plan(plan, run.folder / PLAN)
    outcomes = run_cases(
        prepare_case,
        [(p.key, (p, plan.recipe, cache, plan.data.contrast is not None)) for p in cohort.pairs],
        jobs=jobs,
        monitor=monitor,
    )
    refuse_broken(outcomes, "preparing cases")
    failed = [o for o in outcomes if not o.ok]
    if failed:
        raise InputError(
            failed[0].name,
            found=failed[0].error,
            expected="cases that can be prepared",
            advice="exclude it, or repair it",
        )
