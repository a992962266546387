"""Jobs: what is a case's own fault, and what is not; workers that die, interruptions, clusters."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from sctlab.workflow.jobs import _cores_of_a_task, refuse_broken, run_jobs
from sctlab_model.errors import InputError
from sctlab_model.io import reading
from sctlab_model.io.reading import read_volume

QUIET = Console(quiet=True)


def test_a_worker_that_dies_breaks_its_jobs_and_says_so_once(capsys: pytest.CaptureFixture) -> None:
    outcomes = run_jobs(os._exit, [(f"case {k}", (9,)) for k in range(5)], title="dying", processes=2)
    assert all(o.broken and "worker ended" in o.error for o in outcomes)
    assert capsys.readouterr().err.count("worker ended") == 1
    with pytest.raises(InputError, match="dying: 5 of 5 cases weren't finished"):
        refuse_broken(outcomes, "dying")


def test_a_refused_case_is_not_broken(tmp_path: Path) -> None:
    (tmp_path / "damaged.mha").write_bytes(b"no header")
    (tmp_path / "damaged.nii.gz").write_bytes(b"not gzip")
    names = ("missing.mha", "damaged.mha", "damaged.nii.gz")
    outcomes = run_jobs(read_volume, [(n, (tmp_path / n,)) for n in names], title="reading", console=QUIET)
    assert not any(o.ok or o.broken for o in outcomes)
    refuse_broken(outcomes, "reading")


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError(), ValueError("a bug")])
def test_a_failing_system_is_no_fault_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(path: Path, *, max_voxels: int) -> None:
        raise error

    (tmp_path / "ct.mha").write_bytes(b"")
    monkeypatch.setattr(reading, "read_metaimage", failing)
    (outcome,) = run_jobs(read_volume, [("ct", (tmp_path / "ct.mha",))], title="reading", console=QUIET)
    assert outcome.broken


def test_only_the_job_that_kills_its_worker_fails() -> None:
    numbers = [0, signal.SIGKILL, 0, 0, 0, signal.SIGKILL, 0, 0]  # signal 0 does nothing
    work = [(f"case {k}", (number,)) for k, number in enumerate(numbers)]
    outcomes = run_jobs(signal.raise_signal, work, title="killing", processes=3, console=QUIET)
    assert [o.name for o in outcomes] == [name for name, _ in work]
    assert [o.ok for o in outcomes] == [number == 0 for number in numbers]
    assert all(o.broken and "worker ended" in o.error for o in outcomes if not o.ok)


def test_what_cannot_be_sent_to_a_worker_fails_alone() -> None:
    work = [("fine", (1,)), ("a generator", (x for x in "ab")), ("fine too", (2,))]
    outcomes = run_jobs(str, work, title="sending", processes=2, console=QUIET)
    assert [o.ok for o in outcomes] == [True, False, True]


# A job that tidies up in `finally`, as one that registers does; and a run of two of them.
JOBS = """
import sys, time
from pathlib import Path
from sctlab.workflow.jobs import run_jobs
from sctlab.cli import run

def job(folder, name):
    path = Path(folder) / name
    try:
        path.write_text("")
        time.sleep(60)
    finally:
        path.unlink(missing_ok=True)

if __name__ == "__main__":
    work = [(n, (sys.argv[1], n)) for n in "ab"]
    sys.exit(run(lambda: run_jobs(job, work, title="x", processes=int(sys.argv[2]))))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_ends_like_ctrl_c_and_leaves_nothing(tmp_path: Path, processes: int) -> None:
    script, folder = tmp_path / "jobs.py", tmp_path / "left"
    script.write_text(JOBS)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, str(script), str(folder), str(processes)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8") as process:
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < processes and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(list(folder.iterdir())) == processes
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not list(folder.iterdir())


def test_tasks_of_a_cluster_share_its_cores_and_fit_a_machine() -> None:
    small, large, graphics = {"CPU": 4.0}, {"CPU": 32.0}, {"CPU": 8.0, "GPU": 1.0}
    assert _cores_of_a_task([large], 4, 0) == 8
    assert _cores_of_a_task([small, large], 1, 0) == 4
    assert _cores_of_a_task([small, large, graphics], 2, 1) == 4
    assert _cores_of_a_task([small], 100, 0) == 1
    with pytest.raises(InputError, match="no machine with a core and 1 GPUs"):
        _cores_of_a_task([small, large], 1, 1)


@pytest.mark.heavy
def test_a_cluster_runs_so_many_jobs_at_a_time_each_with_its_threads(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")

    def job(folder: str, name: str) -> tuple[int, str]:
        path = Path(folder) / name
        path.write_text("")
        time.sleep(0.5)
        together = len(list(Path(folder).iterdir()))
        path.unlink()
        return together, os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"]

    ray.init(num_cpus=6, log_to_driver=False, include_dashboard=False)
    try:
        work = [(n, (str(tmp_path), n)) for n in "abcd"]
        outcomes = run_jobs(job, work, title="tasks", processes=2, executor="ray", console=QUIET)
        unlimited = run_jobs(job, work, title="tasks", processes=None, executor="ray", console=QUIET)
    finally:
        ray.shutdown()
    assert {o.result[1] for o in unlimited} == {"1"}  # a core each
    assert max(o.result[0] for o in outcomes) <= 2
    assert {o.result[1] for o in outcomes} == {"3"}
