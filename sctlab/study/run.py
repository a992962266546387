"""`run_study`: cohorts, pairs, trainings and scores of a plan, resumable at every step; a cell that fails is named."""

from __future__ import annotations

import json
import time
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path

from sctlab.cohort.pairs import find_pairs
from sctlab.cohort.splits import FoldsRecord
from sctlab.registration.cohort import register_cohort
from sctlab.registration.settings import RegistrationSettings
from sctlab.simulation.cohort import simulate_cohort
from sctlab.study.cells import RATES, PairSet, StudyFiles
from sctlab.study.folds import left_out, split_of, study_cases, usable_pairs
from sctlab.study.plan import PLAN, StudyPlan
from sctlab.study.planted import PLANTED, plant_case
from sctlab.study.real import judge_real_images
from sctlab.study.scoring import score_cell, unlabelled_cases, unscored
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.pack import pack_runs
from sctlab.training.plan import TrainingPlan
from sctlab.training.run import FOLDS
from sctlab.workflow.cases import run_cases
from sctlab.workflow.keys import mark_finished
from sctlab.workflow.locking import one_run
from sctlab.workflow.outcomes import Outcome
from sctlab_model.cases import Case
from sctlab_model.cohort import PredictionSettings, predict_cohort
from sctlab_model.errors import ExitCode, InputError, ProductError
from sctlab_model.io.atomic import write_json
from sctlab_model.monitor import Monitor

FAILURES = "failures.json"


@dataclass(frozen=True)
class StudyResult:
    """How a study ended.

    Args:
        out: Its folder, with `report.html`.
        cells: How many there are.
        failed: Cell or step → why.
    """

    out: Path
    cells: int
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """1 where a cell or a case of it failed."""
        return ExitCode.SOME_CASES_FAILED if self.failed else ExitCode.OK


def run_study(
    plan: StudyPlan,
    out: str | Path,
    *,
    jobs: int | None = 1,
    executor: str = "local",
    monitor: Monitor = Monitor(),
) -> StudyResult:
    """Run what is missing of a study, then write its report.

    Args:
        plan: Checked by `load_study`.
        out: Folder of everything; the same folder goes on where an earlier call ended.
        jobs: Cases and trainings at a time.
        executor: `local` or `ray`.
        monitor: Told of progress and of what failed.

    Another run in the same folder is waited for.

    Raises:
        InputError: No cell could be scored, or the folder can't be written to.
        ResourceError: The disk is full.
    """
    files = StudyFiles(plan, Path(out))
    # two at once would train the same folds into the same files
    with one_run(files.out / "study", monitor):
        return _run(files, jobs, executor, monitor)


def _run(files: StudyFiles, jobs: int | None, executor: str, monitor: Monitor) -> StudyResult:
    from sctlab.study.report import write_report

    plan = files.plan
    write_json(files.out / PLAN, plan.model_dump(mode="json"))
    failed: dict[str, str] = {}
    rates = _Rates(files.out)
    for cohort in plan.cohorts:
        try:
            _make_cohort(files, cohort, jobs, executor, monitor, failed, rates)
            _check_cohort(files, cohort, jobs, monitor, failed)
        except ProductError as error:
            failed[cohort] = str(error)
            continue
        for pairs in files.pair_sets:
            try:
                _make_pairs(files, cohort, pairs, jobs, executor, monitor, failed, rates)
            except ProductError as error:
                failed[f"{cohort}/{pairs.name}"] = str(error)
    _train(files, jobs, executor, monitor, failed, rates)
    work = [(cell.name, (plan, files.out, cell)) for cell in files.cells if not files.scores_file(cell).is_file()]
    monitor.info(f"scoring {len(work)} of {len(files.cells)} cells")
    for outcome in run_cases(score_cell, work, jobs=jobs, executor=executor, monitor=monitor):
        if not outcome.ok:
            failed.setdefault(outcome.name, outcome.error)
    judge_real_images(files, jobs=jobs, executor=executor, monitor=monitor, failed=failed)
    failed |= unscored(files)
    for case, reason in unlabelled_cases(files).items():
        monitor.warning(f"{case}: {reason}")
    write_json(files.out / FAILURES, failed)
    if not files.scored_cohorts:
        reasons = "; ".join(list(failed.values())[:3]) + ("; …" if len(failed) > 3 else "")
        raise InputError(files.out, found="no cell could be scored", expected="one", advice=reasons)
    write_report(plan, files.out)
    return StudyResult(files.out, len(files.cells), failed)


class _Rates:
    """Seconds per case and iteration, as measured in this study."""

    def __init__(self, out: Path) -> None:
        self.path = out / RATES
        try:
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.values = {}

    def add(self, name: str, seconds: float, count: int) -> None:
        if count > 0:
            self.values[name] = round(seconds / count, 4)
            write_json(self.path, self.values)


def _make_cohort(
    files: StudyFiles,
    name: str,
    jobs: int | None,
    executor: str,
    monitor: Monitor,
    failed: dict[str, str],
    rates: _Rates,
) -> None:
    settings = files.plan.cohorts[name].simulate
    if settings is None:
        return
    start = time.perf_counter()
    result = simulate_cohort(files.cohort_folder(name), settings, jobs=jobs, executor=executor, monitor=monitor)
    failed |= {f"{name}/{o.name}": o.error for o in result.outcomes if not o.ok}
    rates.add("simulate", time.perf_counter() - start, len(result.outcomes))


def _check_cohort(files: StudyFiles, name: str, jobs: int | None, monitor: Monitor, failed: dict[str, str]) -> None:
    """Name the cases that no cell can use.

    Raises:
        InputError: There is no other.
    """
    usable, lost = usable_pairs(files, name, jobs or 1)
    for key, reason in lost.items():
        monitor.warning(f"{name}/{key} is left out: {reason}")
    if not usable:
        raise InputError(
            files.cohort_folder(name),
            found=f"no case that can be used, of {len(lost)} ({next(iter(lost.values()), 'all are excluded')})",
            expected="cases with source, CT and mask",
        )
    failed |= {f"{name}/{key}": reason for key, reason in lost.items()}


def _make_pairs(
    files: StudyFiles,
    cohort: str,
    pairs: PairSet,
    jobs: int | None,
    executor: str,
    monitor: Monitor,
    failed: dict[str, str],
    rates: _Rates,
) -> None:
    folder, source = files.pairs_folder(cohort, pairs), files.cohort_folder(cohort)
    if pairs.plan.kind == "truth":
        return
    start = time.perf_counter()
    if pairs.plan.registered:
        assert pairs.convention is not None
        settings = RegistrationSettings(
            method=pairs.plan.method,
            presets=pairs.plan.presets,
            convention=pairs.convention,
            device=files.plan.device,
        )
        plan = files.plan.cohorts[cohort]
        unusable = [key.rsplit("/", 1)[-1] for key in usable_pairs(files, cohort)[1]]
        result = register_cohort(
            source, folder.parent, settings,
            task=plan.of_task, exclude=[*plan.exclude, *unusable], jobs=jobs, executor=executor, monitor=monitor,
        )  # fmt: skip
        outcomes, fresh = result.outcomes, len(result.outcomes) - result.skipped
    else:
        cases = [c for c in study_cases(files, cohort) if not (folder / str(c.key) / PLANTED).is_file()]
        work = [
            (str(c.key), (c.folder, folder / str(c.key), c.task, c.region, pairs.plan, files.plan.split_seed))
            for c in cases
        ]
        outcomes, fresh = run_cases(plant_case, work, jobs=jobs, executor=executor, monitor=monitor), len(work)
    failed |= {f"{cohort}/{pairs.name}/{o.name}": o.error for o in outcomes if not o.ok}
    rates.add(pairs.plan.kind, time.perf_counter() - start, fresh)


def _train(
    files: StudyFiles, jobs: int | None, executor: str, monitor: Monitor, failed: dict[str, str], rates: _Rates
) -> None:
    """The folds of all cells that are not there."""
    work = []
    for cell in files.cells:
        try:
            split, skipped = split_of(files, cell.cohort), left_out(files, cell)
        except ProductError as error:
            failed[cell.name] = str(error)
            continue
        for fold in range(files.plan.folds):
            if not files.finished(cell, fold):
                cases = [c for c in study_cases(files, cell.cohort) if str(c.key) in split.validation[fold]]
                arguments = (
                    files.training_plan(cell), files.pairs_folder(cell.cohort, cell.pairs), split, fold,
                    files.fold_folder(cell, fold), files.fold_key(cell, fold), cases, files.plan.device, skipped,
                )  # fmt: skip
                work.append((f"{cell.name}/fold{fold}", arguments))
    total = len(files.cells) * files.plan.folds
    monitor.info(f"training {len(work)} folds; {total - len(work)} of {total} are there")
    outcomes: tuple[Outcome, ...] = run_cases(
        train_fold, work, jobs=jobs, executor=executor, gpus=int(files.plan.device == "cuda"), monitor=monitor
    )
    for outcome in outcomes:
        if not outcome.ok:
            failed[outcome.name] = outcome.error
    seconds = [o.result for o in outcomes if o.ok]
    rates.add("iteration", sum(seconds), len(seconds))


def train_fold(
    plan: TrainingPlan,
    pairs: Path,
    split: FoldsRecord,
    fold: int,
    folder: Path,
    key: str,
    cases: list[Case],
    device: str,
    skipped: Set[str] = frozenset(),
) -> float:
    """Train one fold, pack it, and predict the cases that it has not seen.

    Args:
        plan: What is trained.
        pairs: Cohort of pairs.
        split: The division that all cells share.
        fold: Which of its parts validates.
        folder: Where run, bundle and predictions go.
        key: Content key, written last.
        cases: What is predicted.
        device: Of training and prediction.
        skipped: Keys of cases that are not trained on.

    Returns:
        Processor seconds per iteration, preparation and prediction included.
    """
    start = time.process_time()
    run = folder / "run"
    found, _ = find_pairs(pairs, plan.recipe.task, target=plan.data.target, failed=plan.data.failed)
    keys = {p.key for p in found} & set(split.patients)
    # Every cell has the same division; a pair that a registration lost is missing from its own cell only.
    FoldsRecord(
        validation=tuple(
            tuple(k for k in part if k in keys and (index == fold or k not in skipped))
            for index, part in enumerate(split.validation)
        ),
        seed=split.seed,
        patients={k: p for k, p in split.patients.items() if k in keys},
    ).write(run / FOLDS)
    train_cohort(plan, pairs, run, TrainSettings((fold,), resume=True, jobs=1, device=device))
    pack_runs([run], folder / "bundle", demonstration=True, name="study", folds=[fold])
    settings = PredictionSettings(
        weights=folder / "bundle", device=device, uncertainty=True, accept_implausible=True, skip_existing=True
    )
    result = predict_cohort(cases, folder / "predictions", settings)
    if result.failed:
        reasons = "; ".join(f"{k}: {result.results[k].error}" for k in result.failed)
        raise InputError(folder / "predictions", found=reasons, expected="a prediction of every case")
    mark_finished(folder, key)
    return (time.process_time() - start) / sum(s.iterations for s in plan.stages)
