"""`train_cohort`: check the pairs, make or read the folds, and train what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sctlab.cohort.load import Cohort
from sctlab.cohort.pairs import Pair
from sctlab.cohort.splits import FoldsRecord
from sctlab.training.cache import PreparedCase, prepared_case
from sctlab.training.devices import end_others, launch
from sctlab.training.job import StageJob
from sctlab.training.loop import train_stage
from sctlab.training.plan import Stage, TrainingPlan
from sctlab.training.run import CHECKS, Run
from sctlab.training.setup import cases_of, check_choice, load_pairs, one_trainer, refuse_checkpoints, set_up
from sctlab.training.start import origins, unseen
from sctlab.workflow.locking import one_run
from sctlab_model.cases import Region
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.atomic import writing_error
from sctlab_model.monitor import Monitor

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class TrainSettings:
    """How a plan is carried out; none of it belongs to what is learnt.

    Args:
        folds: Which folds; all when left out.
        stages: Which stages; all when left out.
        resume: Go on where the folder's checkpoints end.
        cache: Folder of prepared cases; inside the run when left out.
        jobs: Processes that check and prepare cases; one for every two cores when left out, because reading inflates
            in one thread.
        device, devices, nodes: See `sctlab.training.devices.launch`.
    """

    folds: tuple[int, ...] | None = None
    stages: tuple[str, ...] | None = None
    resume: bool = False
    cache: Path | None = None
    jobs: int | None = None
    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None


@dataclass(frozen=True)
class StageResult:
    """The best network of a stage of a fold.

    Args:
        fold, stage: Which.
        iteration: Where it was found.
        metrics: Means over the validation cases: `mae_hu`, `psnr_db`, `mae_all_water_hu`, …
    """

    fold: int
    stage: str
    iteration: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """What a call of `train_cohort` trained.

    Args:
        folder: The run.
        stages: In the order of training, finished ones of an earlier call included.
        left_out: Case key → why it was not trained on though nobody asked for that.
        excluded: Case key → reason, as the exclusion list asks for.
        doubtful: Case key → why its registration is doubtful; these were trained on.
    """

    folder: Path
    stages: tuple[StageResult, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """1 where cases were left out unasked."""
        return ExitCode.SOME_CASES_FAILED if self.left_out else ExitCode.OK


def train_cohort(
    plan: TrainingPlan,
    pairs: str | Path,
    out: str | Path,
    settings: TrainSettings = TrainSettings(),
    *,
    fabric: Fabric | None = None,
    monitor: Monitor = Monitor(),
) -> TrainingResult:
    """Check the pairs, make or read the folds, and train what is asked for.

    Args:
        plan: The resolved plan.
        pairs: Cohort, or the output of `sctlab register`.
        out: The run's folder; training more folds of the same plan and pairs adds to it.
        settings: Which folds and stages, on what.
        fabric: Launched; made by `settings` when left out.
        monitor: Told of progress; in the first process only.

    Raises:
        InputError: The folder holds another plan or other pairs, or checkpoints and no `resume`; another process trains
            one of the folds there; a fold and stage
            without a case to train or validate on; or what `load_cohort` and `train_stage` raise.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was trained by then is in a checkpoint.
    """
    pairs, run = Path(pairs), Run(out)
    if not pairs.is_dir():
        raise InputError("--pairs", found=f"{pairs} is no folder", expected="a cohort or registered pairs")
    fabric = fabric or launch(plan, settings.device, settings.devices, settings.nodes)
    if not fabric.is_global_zero:
        monitor = Monitor()
    try:
        return _train(plan, pairs, run, settings, fabric, monitor)
    except BaseException:
        end_others(fabric)
        raise


def _train(
    plan: TrainingPlan, pairs: Path, run: Run, settings: TrainSettings, fabric: Fabric, monitor: Monitor
) -> TrainingResult:
    cache = settings.cache or run.folder / "cache"
    folds = tuple(range(plan.data.folds)) if settings.folds is None else settings.folds
    stages = [s for s in plan.stages if settings.stages is None or s.name in settings.stages]

    def prepare() -> None:
        check_choice(plan, folds, settings.stages or (), fabric.world_size)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise writing_error(run.folder, error) from error
        for fold in folds:
            for stage in stages:
                held.enter_context(one_trainer(run, fold, stage))
        if not settings.resume:
            refuse_checkpoints(run, folds, stages)
        with one_run(run.folder / "train", monitor):  # runs of other folds write the same plan, folds and cache
            set_up(run, plan, pairs, folds, stages, cache, settings.jobs, monitor)

    with ExitStack() as held:
        _in_first_process(fabric, prepare)
        return _train_stages(plan, pairs, run, folds, stages, cache, fabric, monitor)


def _train_stages(
    plan: TrainingPlan,
    pairs: Path,
    run: Run,
    folds: Sequence[int],
    stages: Sequence[Stage],
    cache: Path,
    fabric: Fabric,
    monitor: Monitor,
) -> TrainingResult:
    cohort = load_pairs(plan, pairs, run.folder / CHECKS, 1, Monitor())
    division = run.folds
    results = []
    for fold in folds:
        for stage in stages:
            job = _job(run, plan, stage, fold, cohort, division, cache, monitor)
            best = train_stage(job, fabric, monitor)
            metrics = best["metrics"]
            results.append(StageResult(fold, stage.name, best["best_iteration"], metrics))
            monitor.info(
                f"{job.name}: best at iteration {best['best_iteration']}, MAE {metrics['mae_hu']:.1f} HU "
                f"(all water: {metrics['mae_all_water_hu']:.1f} HU)"
            )
    return TrainingResult(run.folder, tuple(results), cohort.left_out, cohort.excluded, cohort.doubtful)


def _in_first_process(fabric: Fabric, work: Callable[[], None]) -> None:
    """Do `work` in the first process while the others wait; where it fails, all of them end.

    Raises:
        Exception: Of `work`, in the first process.
        SystemExit: In the others, without a word and with code 0: the first one says it, and a launcher that sees
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


def _unseen(
    plan: TrainingPlan, stage: Stage, fold: int, validation: list[Pair], division: FoldsRecord, monitor: Monitor
) -> list[Pair]:
    """The validation cases of patients whom no bundle that the stage goes on from has trained on: others score too well.

    Where there are none of those, all are kept; a warning says which it is.
    """
    before = origins(plan, stage, fold)
    kept = unseen([p.key for p in validation], before, division.patients)
    seen = [p.id for p in validation if p.key not in kept]
    if seen:
        done = f"not validated on {', '.join(seen)}" if kept else "validation scores say nothing about new patients"
        trained = ", ".join(str(o["bundle"]) for o in before)
        monitor.warning(
            f"fold {fold}, stage {stage.name}: {done}: {trained} has trained on {'these' if kept else 'all of its'} patients"
        )
    return [p for p in validation if not kept or p.key in kept]


def _job(
    run: Run,
    plan: TrainingPlan,
    stage: Stage,
    fold: int,
    cohort: Cohort,
    division: FoldsRecord,
    cache: Path,
    monitor: Monitor,
) -> StageJob:
    training, validation = cases_of(stage, fold, cohort.pairs, division)
    validation = _unseen(plan, stage, fold, validation, division, monitor)
    if plan.data.validation_cases is not None:
        validation = _spread(validation, plan.data.validation_cases)

    def prepared(chosen: list[Pair]) -> list[PreparedCase]:
        return [prepared_case(p, plan.recipe, cache, plan.data.contrast is not None) for p in chosen]

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
        ((k, pair.id, pair) for group in by_region.values() for k, pair in enumerate(group)), key=lambda item: item[:2]
    )
    return sorted((pair for _, _, pair in order[:count]), key=lambda p: (p.id, p.key))


__all__ = ["StageResult", "TrainSettings", "TrainingResult", "train_cohort"]
