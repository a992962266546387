"""Many cases: what is a case's own fault, and what is not; workers that die, and interruptions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sctlab.workflow.cases import run_cases
from sctlab.workflow.outcomes import attempt, exit_code, refuse_broken
from sctlab_model.errors import ExitCode, InputError, ResourceError
from sctlab_model.io import reading
from sctlab_model.io.reading import read_volume
from sctlab_model.monitor import Monitor


class Notes(Monitor):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, label: str = "") -> None:
        self.steps.append((done, total, label))

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_only_the_case_that_kills_its_worker_fails() -> None:
    numbers = [0, signal.SIGKILL, 0, 0, 0, signal.SIGKILL, 0, 0]  # signal 0 does nothing
    work = [(f"case {k}", (number,)) for k, number in enumerate(numbers)]
    outcomes = run_cases(signal.raise_signal, work, jobs=3)
    assert [o.name for o in outcomes] == [name for name, _ in work]
    assert [o.ok for o in outcomes] == [number == 0 for number in numbers]
    assert all(o.broken and "worker ended" in o.error and "signal 9" in o.error for o in outcomes if not o.ok)


def test_workers_that_all_die_say_so_once() -> None:
    notes = Notes()
    outcomes = run_cases(os._exit, [(f"case {k}", (9,)) for k in range(5)], jobs=2, monitor=notes)
    assert all(o.broken and "exit code 9" in o.error for o in outcomes)
    assert len(notes.warnings) == 1
    with pytest.raises(InputError, match="dying: 5 of 5 cases weren't finished"):
        refuse_broken(outcomes, "dying")


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_counts_every_case_and_names_failures(jobs: int) -> None:
    notes = Notes()
    outcomes = run_cases(int, [("a", ("1",)), ("b", ("x",)), ("c", ("3",))], jobs=jobs, monitor=notes)
    assert [o.result for o in outcomes] == [1, None, 3]
    assert [step[:2] for step in notes.steps] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert {step[2] for step in notes.steps[1:]} == {"a", "b", "c"}
    assert [w.startswith("failed b: ValueError") for w in notes.warnings] == [True]


def test_cases_in_workers_share_the_cores() -> None:
    work = [(name, ("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",)) for name in "ab"]
    assert all(int(o.result) >= 1 for o in run_cases(os.getenv, work, jobs=2))


def test_a_refused_case_is_not_broken(tmp_path: Path) -> None:
    (tmp_path / "damaged.mha").write_bytes(b"no header")
    (tmp_path / "damaged.nii.gz").write_bytes(b"not gzip")
    names = ("missing.mha", "damaged.mha", "damaged.nii.gz")
    outcomes = run_cases(read_volume, [(n, (tmp_path / n,)) for n in names])
    assert not any(o.ok or o.broken for o in outcomes)
    refuse_broken(outcomes, "reading")


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError(), ValueError("a bug")])
def test_a_failing_system_is_no_fault_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(path: Path, **options: object) -> None:
        raise error

    (tmp_path / "ct.mha").write_bytes(b"")
    monkeypatch.setitem(reading._READERS, ".mha", failing)
    (outcome,) = run_cases(read_volume, [("ct", (tmp_path / "ct.mha",))])
    assert outcome.broken


def test_what_cannot_be_sent_to_a_worker_fails_alone() -> None:
    work = [("fine", (1,)), ("a generator", (x for x in "ab")), ("fine too", (2,))]
    assert [o.ok for o in run_cases(str, work, jobs=2)] == [True, False, True]


def test_unknown_executors_are_refused() -> None:
    with pytest.raises(InputError, match="local or ray"):
        run_cases(str, [("a", (1,))], executor="slurm")


def test_exit_codes_of_outcomes() -> None:
    def fail(error: Exception) -> None:
        raise error

    good, bad = attempt(str, "a", (1,)), attempt(fail, "b", (InputError("b", found="no"),))
    assert exit_code([good, good]) == ExitCode.OK
    assert exit_code([good, bad]) == ExitCode.SOME_CASES_FAILED
    assert exit_code([bad]) == ExitCode.BAD_INPUT
    assert exit_code([attempt(fail, "c", (ResourceError("c", found="disk full"),))]) == ExitCode.RESOURCES
    assert exit_code([attempt(fail, "d", (ZeroDivisionError("bug"),))]) == ExitCode.INTERNAL


# A case that tidies up in `finally`, as one that registers does; and a run of two of them.
SCRIPT = """
import sys, time
from pathlib import Path
from sctlab.workflow.cases import run_cases
from sctlab.cli import run

def case(folder, name):
    path = Path(folder) / name
    try:
        path.write_text("")
        time.sleep(60)
    finally:
        path.unlink(missing_ok=True)

if __name__ == "__main__":
    work = [(n, (sys.argv[1], n)) for n in "ab"]
    sys.exit(run(lambda: run_cases(case, work, jobs=int(sys.argv[2]))))
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_ends_like_ctrl_c_and_leaves_nothing(tmp_path: Path, jobs: int) -> None:
    script, folder = tmp_path / "cases.py", tmp_path / "left"
    script.write_text(SCRIPT)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), str(folder), str(jobs)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8") as process:
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < jobs and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(list(folder.iterdir())) == jobs
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in error
    assert "Traceback" not in error
    assert not list(folder.iterdir())
