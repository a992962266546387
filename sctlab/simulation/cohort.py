"""Many simulated cases in the SynthRAD layout."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from sctlab.simulation.case import simulate_case
from sctlab.simulation.settings import CaseSettings, SimulationSettings, case_id
from sctlab.simulation.truth import SimulationTruth
from sctlab.workflow.cases import run_cases
from sctlab.workflow.locking import one_run
from sctlab.workflow.outcomes import Outcome, exit_code
from sctlab_model.case_output import check_writable
from sctlab_model.cases import Task
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.atomic import remove_stale_parts
from sctlab_model.monitor import Monitor


@dataclass(frozen=True)
class SimulationResult:
    """How simulating a cohort ended.

    Args:
        folders: Of all cases that are there now.
        kept: How many of them were there before.
        outcomes: Of the cases that were simulated.
    """

    folders: tuple[Path, ...]
    kept: int
    outcomes: tuple[Outcome, ...] = field(default=())

    @property
    def exit_code(self) -> ExitCode:
        """0 if every case is there, else as for any work on cases."""
        return exit_code(self.outcomes)


def simulate_cohort(
    out: Path,
    settings: SimulationSettings,
    *,
    jobs: int | None = 1,
    executor: str = "local",
    monitor: Monitor = Monitor(),
) -> SimulationResult:
    """Simulate a cohort into `out`. Cases that are there already are kept: an interrupted run goes on where it stopped.
    Another run in the same folder is waited for.

    Args:
        out: Folder of the cohort.
        jobs: Cases at a time; None for one, or on a cluster a case for every core or GPU.
        executor: `local` or `ray`.

    Raises:
        InputError: A case is there that was made with other settings, or the folder can't be written to.
        ResourceError: The disk is full.
    """
    check_writable(out)
    with one_run(out / "simulate", monitor):
        return _simulate(out, settings, jobs, executor, monitor)


def _simulate(
    out: Path, settings: SimulationSettings, jobs: int | None, executor: str, monitor: Monitor
) -> SimulationResult:
    remove_stale_parts(out)
    work, folders = [], []
    for region in settings.regions:
        for index in range(settings.cases):
            case = settings.of_case(index)
            folder = out / settings.task.folder / region / case_id(settings.task, region, index, settings.centre)
            folders.append(folder)
            if not _is_finished(folder, case, settings.task, index):
                work.append((folder.name, (folder, settings.task, region, index, case)))
    kept = len(folders) - len(work)
    if kept:
        monitor.info(f"{kept} cases are there already")
    outcomes = run_cases(simulate_case, work, jobs=jobs, executor=executor, monitor=monitor)
    failed = {o.name for o in outcomes if not o.ok}
    return SimulationResult(tuple(f for f in folders if f.name not in failed), kept, outcomes)


def _is_finished(folder: Path, settings: CaseSettings, task: Task, index: int) -> bool:
    """Whether the case is there and was made with these settings.

    Raises:
        InputError: It was made with others.
    """
    path = folder / "truth" / "truth.json"
    if not path.is_file():
        return False
    made = SimulationTruth.read(path).options
    wanted = json.loads(json.dumps(settings.model_dump(mode="json") | {"task": str(task), "index": index}))
    # Settings that an older release did not have stand at their defaults.
    made = CaseSettings().model_dump(mode="json") | made
    if made != wanted:
        other = {k: v for k, v in made.items() if wanted.get(k) != v}
        raise InputError(
            folder,
            found=f"a case made with {other}",
            expected="the options of this run",
            advice="choose another folder",
        )
    return True
