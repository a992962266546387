"""Many pairs: a cohort registered case by case, with one bad case stopping no other, and its report."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

from sctlab.registration.case import PARTIAL, CaseResult, record_failure, recorded_failure, refuse_inputs, register_case
from sctlab.registration.methods import check_settings, device_in_words
from sctlab.registration.pairs import PairFiles, find_case_folders
from sctlab.registration.records import Verdict
from sctlab.registration.report import write_report
from sctlab.registration.request import check_cohort
from sctlab.registration.scratch import remove_stale
from sctlab.registration.settings import RegistrationSettings
from sctlab.workflow.cases import run_cases
from sctlab.workflow.locking import one_run
from sctlab.workflow.outcomes import Outcome, exit_code
from sctlab_model.case_output import check_writable
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.atomic import remove_stale_parts
from sctlab_model.monitor import Monitor


@dataclass(frozen=True)
class RegistrationResult:
    """How registering a cohort ended.

    Args:
        root: The method's folder, with `report.html` and `exclusions.json`.
        cases: Of the cases that have a result, by key.
        outcomes: Of all cases.
        excluded: Cases proposed for exclusion: id → reason.
    """

    root: Path
    cases: dict[CaseKey, CaseResult] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Cases that were finished before."""
        return sum(case.skipped for case in self.cases.values())

    @property
    def exit_code(self) -> ExitCode:
        """0 if every case was registered and none of the verdicts is `failed`."""
        if any(case.quality.verdict is Verdict.FAILED for case in self.cases.values()):
            return ExitCode.SOME_CASES_FAILED
        return exit_code(self.outcomes)


def register_cohort(
    cohort: str | Path,
    out: str | Path,
    settings: RegistrationSettings = RegistrationSettings(),
    *,
    task: Task | None = None,
    region: Region | None = None,
    cases: int = 0,
    exclude: Collection[str] = (),
    jobs: int | None = 1,
    executor: str = "local",
    monitor: Monitor = Monitor(),
) -> RegistrationResult:
    """Register a SynthRAD cohort into `out/<method>`. Finished cases are left as they are.
    Another run in the same folder is waited for.

    Args:
        cohort: Folder with Task1/ or Task2/.
        out: Results go to `<out>/<method>/Task{1,2}/<REGION>/<ID>`.
        settings: How.
        task, region: Only these.
        cases: At most this many cases a region; 0 takes all.
        exclude: Ids of cases that stay out.
        jobs: Cases at a time; None is 1 here, and on a cluster a case for every core or GPU.
        executor: `local` or `ray`.
        monitor: Hears of progress.

    Raises:
        InputError: Nothing can be registered with these settings, no cohort, or a result would replace its own input.
    """
    cohort, out = Path(cohort), Path(out)
    check_cohort(cohort, out)
    check_settings(settings)
    cohort, root = cohort.absolute(), (out / settings.method).absolute()  # workers of a cluster may start elsewhere
    if cohort.resolve() == root.resolve():
        raise InputError(out, found="the cohort's own folder", expected="another folder for the registered pairs")
    folders = [c for c in find_case_folders(cohort, task=task, region=region) if c[0].name not in exclude]
    if cases:
        folders = [case for _, group in groupby(folders, lambda case: case[1:]) for case in islice(group, cases)]
    keys = [CaseKey(this_task, this_region, folder.name) for folder, this_task, this_region in folders]
    for (folder, *_), key in zip(folders, keys, strict=True):
        refuse_inputs(root / str(key), folder)
    check_writable(root)
    with one_run(root / "register", monitor):
        return _register(folders, keys, root, settings, jobs, executor, monitor)


def _register(
    folders: Sequence[tuple[Path, Task, Region]],
    keys: Sequence[CaseKey],
    root: Path,
    settings: RegistrationSettings,
    jobs: int | None,
    executor: str,
    monitor: Monitor,
) -> RegistrationResult:
    remove_stale(root, PARTIAL)
    remove_stale_parts(root)
    device = device_in_words(settings)
    at_a_time = f", {jobs} at a time" if jobs else ""
    monitor.info(f"{settings.method} on {device}; {len(keys)} cases{at_a_time}")
    outcomes = run_cases(
        _register_job,
        [
            (str(key), (folder, key, settings, root / str(key), root))
            for (folder, *_), key in zip(folders, keys, strict=True)
        ],
        jobs=jobs,
        executor=executor,
        gpus=int(device.startswith("cuda")),
        monitor=monitor,
    )
    for key, outcome in zip(keys, outcomes, strict=True):
        if not outcome.ok and recorded_failure(root / str(key)) != outcome.error:  # its worker died
            with suppress(InputError, OSError):  # files of somebody else lie there, or the disk is full
                record_failure(root / str(key), root, key.id, outcome.error, settings)
    excluded = write_report(root)
    done = {key: outcome.result for key, outcome in zip(keys, outcomes, strict=True) if outcome.ok}
    return RegistrationResult(root, done, tuple(outcomes), excluded)


def _register_job(
    folder: Path, key: CaseKey, settings: RegistrationSettings, target: Path, scratch: Path
) -> CaseResult:
    """One case in whatever process runs it; what its folder lacks is a failure of this case."""
    assert key.region is not None
    try:
        files = PairFiles.in_folder(folder, key.task, key.region)
    except InputError as error:
        record_failure(target, scratch, folder.name, str(error), settings)
        raise
    return register_case(files, settings, target, scratch)
