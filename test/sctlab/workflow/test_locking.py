"""Two runs into one output: the second waits, or is refused; one that was killed is in nobody's way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sctlab.evaluation.cohort import evaluate_cohort
from sctlab.registration.cohort import register_cohort
from sctlab.registration.settings import Method, RegistrationSettings
from sctlab.registration.single import register_files
from sctlab.simulation.cohort import simulate_cohort
from sctlab.simulation.settings import SimulationSettings
from sctlab.training.plan import load_plan
from sctlab.training.run import Run
from sctlab.training.setup import one_trainer
from sctlab.workflow import locking
from sctlab.workflow.locking import one_at_a_time
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.monitor import Monitor
from sctlab_model.volume import Geometry, Volume


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits until the first is through, and nothing stays behind."""
    path, order, blocked = tmp_path / "below" / "file", [], threading.Event()

    def second() -> None:
        with one_at_a_time(path, blocked.set):
            order.append("second")

    with one_at_a_time(path):
        other = threading.Thread(target=second)
        other.start()
        assert blocked.wait(30)
        order.append("first")
    other.join(30)
    assert order == ["first", "second"]
    assert not list(path.parent.iterdir())

    def no_locks(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(locking.fcntl, "flock", no_locks)
    with one_at_a_time(path):
        order.append("without locks")
    assert order[-1] == "without locks"
    (tmp_path / "flat").write_text("")
    with pytest.raises(InputError, match="can't be written"), one_at_a_time(tmp_path / "flat" / "file"):
        pass


class _Waits(Exception):
    """A run said that it waits for another one."""


class _Heard(Monitor):
    def info(self, text: str) -> None:
        if "another run writes" in text:
            raise _Waits


RIGID = RegistrationSettings(method=Method.RIGID, device="cpu")
RUNS: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "simulate": (
        "simulate",
        lambda _, out: simulate_cohort(out, SimulationSettings(), monitor=_Heard()),
    ),
    "register": (
        "rigid/register",
        lambda cohort, out: register_cohort(cohort, out, RIGID, monitor=_Heard()),
    ),
    "one pair": (
        "../out",
        lambda cohort, out: register_files(
            *(cohort / "Task1/AB/1ABA001" / f"{name}.mha" for name in ("mr", "ct")),
            out, RIGID, task=Task.MRI, region=Region.AB, monitor=_Heard(),
        ),
    ),
    "evaluate": (
        "evaluate",
        lambda cohort, out: evaluate_cohort(cohort / "predictions", cohort, out, monitor=_Heard()),
    ),
}  # fmt: skip


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    for name in ("mr", "ct", "mask"):
        image = Volume(np.ones((2, 4, 4), np.int16), Geometry((4, 4, 2)))
        write_volume(image, folder / "Task1/AB/1ABA001" / f"{name}.mha")
    (folder / "predictions").mkdir()
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_second_run_into_one_output_waits(name: str, cohort: Path, tmp_path: Path) -> None:
    lock, run = RUNS[name]
    out = tmp_path / "out"
    with one_at_a_time(Path(os.path.normpath(out / lock))), pytest.raises(_Waits):
        run(cohort, out)


def test_a_fold_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    run, (stage, *_) = Run(tmp_path / "run"), load_plan("demo-mri").stages
    with one_trainer(run, 0, stage):
        with (
            pytest.raises(InputError, match=f"fold_0/{stage.name}: another process that trains it"),
            one_trainer(run, 0, stage),
        ):
            pass
        with one_trainer(run, 1, stage):
            pass
    with one_trainer(run, 0, stage):
        pass
    assert not (tmp_path / "run").exists()  # a run that is refused later leaves nothing


@contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds a lock."""
    code = (
        "import sys, time; from pathlib import Path; from sctlab.workflow.locking import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "work"

    def refuse() -> None:
        raise _Waits

    with _holder(path) as process:
        with pytest.raises(_Waits), one_at_a_time(path, refuse):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [p.name for p in tmp_path.iterdir()] == [".work.lock"]
    with one_at_a_time(path, refuse):
        pass
    assert not list(tmp_path.iterdir())
