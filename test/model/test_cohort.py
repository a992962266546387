"""Many cases into one folder: keys, what is left out, what is known to be wrong before the first one."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.case_output import check_writable, prepare_output
from sctlab_model.cases import CaseKey, Region, Selection, Task, find_cases
from sctlab_model.cohort import PredictionSettings, predict_cohort
from sctlab_model.errors import ExitCode, InputError, ResourceError
from sctlab_model.io.writing import write_volume
from sctlab_model.monitor import Monitor
from sctlab_model.predictions import read_predictions
from sctlab_model.synthesiser import Synthesiser
from sctlab_model.volume import Volume


class Heard(Monitor):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def put(tmp_path: Path, cbct: Volume, outline: Volume) -> Callable[[str], Path]:
    """`put("Task2/AB/x")`: a case folder in `tmp_path/in`."""

    def make(name: str) -> Path:
        folder = tmp_path / "in" / name
        stem = "mr" if name.startswith("Task1") else "cbct"
        array = cbct.array if stem == "cbct" else cbct.array + 1000
        write_volume(cbct.with_array(array.astype(np.int16)), folder / f"{stem}.mha")
        write_volume(outline, folder / "mask.mha")
        return folder

    return make


@pytest.fixture
def weights(tmp_path: Path, make_bundle) -> Path:
    for task in Task:
        make_bundle(tmp_path / "weights" / task.value, task=task, folds=1)
    return tmp_path / "weights"


def test_one_id_in_two_tasks_and_regions_is_several_results(tmp_path: Path, put, weights: Path) -> None:
    for name in ("Task1/AB/x", "Task2/AB/x", "Task2/TH/x"):
        put(name)
    out, settings = tmp_path / "out", PredictionSettings(weights=weights, device="cpu", zip=True)
    result = predict_cohort(find_cases(tmp_path / "in"), out, settings)
    assert result.exit_code is ExitCode.OK
    outputs = {key: r.output for key, r in read_predictions(out).cases.items()}
    assert outputs == {
        "Task1/AB/x": "Task1/AB/x.mha",
        "Task2/AB/x": "Task2/AB/x.mha",
        "Task2/TH/x": "TH/x.mha",
    }
    with zipfile.ZipFile(out / "predictions.zip") as archive:
        names = ["Task1/AB/sct_x.mha", "Task2/AB/sct_x.mha", "Task2/TH/sct_x.mha"]
        assert sorted(archive.namelist()) == names
    (out / "Task2/AB/x.mha").unlink()  # the missing one isn't called done
    again = predict_cohort(find_cases(tmp_path / "in"), out, settings.model_copy(update={"skip_existing": True}))
    skipped = {str(k) for k, r in again.results.items() if any("skipped" in w for w in r.warnings)}
    assert skipped == {"Task1/AB/x", "Task2/TH/x"}


def test_runs_into_one_folder_share_a_record(tmp_path: Path, put, weights: Path) -> None:
    put("Task1/AB/x")
    put("Task2/AB/x")
    out, settings = tmp_path / "out", PredictionSettings(weights=weights, device="cpu")
    for task in Task:
        predict_cohort(find_cases(tmp_path / "in", Selection(task)), out, settings)
    record = read_predictions(out)
    assert set(record.cases) == {"Task1/AB/x", "Task2/AB/x"}
    assert len({r.output for r in record.cases.values()}) == 2
    assert {record.bundles[r.bundle].task for r in record.cases.values()} == set(Task)
    assert all((out / r.output).is_file() for r in record.cases.values())


def test_another_image_under_the_same_name_is_not_skipped(tmp_path: Path, put, weights: Path, cbct: Volume) -> None:
    folder = put("Task2/AB/x")
    settings = PredictionSettings(weights=weights, device="cpu", skip_existing=True)
    for noise in (0, 1):
        write_volume(cbct.with_array((cbct.array + noise).astype(np.int16)), folder / "cbct.mha")
        result = predict_cohort(find_cases(tmp_path / "in"), tmp_path / "out", settings)
        assert "skipped" not in str(result.results[CaseKey(Task.CBCT, Region.AB, "x")].warnings)


def test_what_is_left_out_is_named(tmp_path: Path, put, weights: Path) -> None:
    put("Task2/AB/x")
    (tmp_path / "in/Task2/AB/empty").mkdir()
    shutil.copytree(tmp_path / "in/Task2/AB/x", tmp_path / "in/Task2/PELVIS/y")
    heard = Heard()
    settings = PredictionSettings(weights=weights, device="cpu")
    result = predict_cohort(find_cases(tmp_path / "in"), tmp_path / "out", settings, heard)
    assert result.exit_code is ExitCode.SOME_CASES_FAILED
    assert not result.failed
    assert sorted(str(item.where) for item in result.left_out) == ["Task2/AB/empty", "Task2/PELVIS"]
    assert sum("left out" in w for w in heard.warnings) == 2


def test_what_is_wrong_is_known_before_the_first_case(tmp_path: Path, put, weights: Path, monkeypatch) -> None:
    put("Task2/AB/x")
    cases = find_cases(tmp_path / "in")
    monkeypatch.setattr(Synthesiser, "load", lambda *_: pytest.fail("a case was begun"))
    (tmp_path / "file").write_text("")
    settings = PredictionSettings(weights=weights, device="cpu")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(InputError, match="can't be written"):
            predict_cohort(cases, out, settings)
    with pytest.raises(InputError, match="--device"):
        predict_cohort(cases, tmp_path / "out", settings.model_copy(update={"device": "cuda:63"}))
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="1 MB are free"):
        predict_cohort(cases, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    for name in (".x.0123abcd.part.mha", ".x.mha", "x.part.mha"):
        (tmp_path / name).write_bytes(b"")
    prepare_output([], tmp_path)
    check_writable(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".x.mha", "x.part.mha"]


def test_a_read_only_file_system_is_named_by_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There even removing a file that is not there is refused, and that refusal named a hidden file of ours."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(InputError, match=r"Read-only file system") as refusal:
        check_writable(tmp_path)
    assert refusal.value.where == str(tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no SIGTERM here")
def test_sigterm_keeps_the_record(tmp_path: Path, put, weights: Path) -> None:
    for k in range(40):
        put(f"Task2/AB/{k:02}")
    out = tmp_path / "out"
    command = [sys.executable, "process.py", "--input", str(tmp_path / "in"), "--output", str(out), "--device", "cpu"]
    run = subprocess.Popen(
        [*command, "--weights", str(weights)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not _done(out) and time.monotonic() < deadline:  # an image is in place a moment before the record knows it
        time.sleep(0.05)
    os.kill(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, errors
    record = read_predictions(out)
    assert 0 < len(record.cases) < 40
    assert {r.state for r in record.cases.values()} == {"done"}  # claims were taken back
    assert not [p for p in out.rglob(".*")]


def _done(out: Path) -> bool:
    record = read_predictions(out)
    return record is not None and any(r.state == "done" for r in record.cases.values())
