"""The invoke API: health, one invoke at a time, refusals that leave nothing behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

import sctlab_model.bundle as bundle_module
import sctlab_model.server as server_module
from sctlab_model.cases import Task
from sctlab_model.errors import WeightsError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.server import load_all, make_app
from sctlab_model.synthesiser import Synthesiser
from sctlab_model.volume import Volume

RESULT = "images/synthetic-ct/one.mha"


@pytest.fixture
def folders(tmp_path: Path, cbct: Volume, outline: Volume) -> tuple[Path, Path]:
    """Input with one case, and an output folder that isn't there yet."""
    given = tmp_path / "input"
    write_volume(cbct.with_array(cbct.array.astype(np.int16)), given / "images/cbct/one.mha")
    write_volume(outline, given / "images/body/mask.mha")
    (given / "region.json").write_text('"Thorax"')
    return given, tmp_path / "output"


@pytest.fixture
def synthesiser(cbct_bundle: Path) -> Synthesiser:
    return Synthesiser(cbct_bundle, "cpu")


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def client_of(synthesiser: Synthesiser, folders: tuple[Path, Path]) -> tuple[TestClient, threading.Event]:
    ready = threading.Event()
    return TestClient(make_app(synthesiser, *folders, ready)), ready


def test_health_then_invoke(synthesiser: Synthesiser, folders: tuple[Path, Path]) -> None:
    client, ready = client_of(synthesiser, folders)
    assert client.get("/health").status_code == 503
    assert client.post("/invoke").status_code == 503
    assert not folders[1].exists()
    load_all(synthesiser)
    ready.set()
    assert client.get("/health", follow_redirects=False).status_code == 200
    for _ in range(2):  # it may be called several times
        answer = client.post("/invoke")
        assert answer.status_code == 201, answer.text
        assert files(folders[1]) == [RESULT, "results.json"]
        assert json.loads((folders[1] / "results.json").read_text())[0]["outputs"][0]["filename"].endswith(RESULT)
        for path in (folders[1] / RESULT, folders[1] / "results.json"):
            path.unlink()


def test_one_thread_computes_whoever_asks(
    synthesiser: Synthesiser, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call of a network is not a patient's, and every call comes from one thread."""
    import sctlab_model.backends.torch_backend as torch_backend

    calls: list[tuple[str, bool]] = []
    real = torch_backend.TorchBackend.__call__

    def call(self, stacks, window=None):
        calls.append((threading.current_thread().name, bool(stacks.any())))
        return real(self, stacks, window)

    monkeypatch.setattr(torch_backend.TorchBackend, "__call__", call)
    thread, ready = server_module.InferenceThread(), threading.Event()
    client = TestClient(make_app(synthesiser, *folders, ready, thread))
    thread.run(lambda: load_all(synthesiser))
    assert calls == [("inference", False)]
    ready.set()
    assert client.post("/invoke").status_code == 201
    assert {name for name, _ in calls} == {"inference"}
    assert any(filled for _, filled in calls)
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 / 0)
    assert thread.run(lambda: 3) == 3


def test_weights_are_loaded_once(
    synthesiser: Synthesiser, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = Synthesiser._load
    monkeypatch.setattr(Synthesiser, "_load", lambda *a: loads.append(a) or real(*a))
    client, ready = client_of(synthesiser, folders)
    load_all(synthesiser)
    ready.set()
    assert [client.post("/invoke").status_code for _ in range(2)] == [201, 201]
    assert len(loads) == 1


def test_invokes_are_not_interleaved(
    synthesiser: Synthesiser, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()
    real = synthesiser.synthesise

    def slow(*arguments: object, **options: object) -> object:
        started.set()
        assert go_on.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(synthesiser, "synthesise", slow)
    client, ready = client_of(synthesiser, folders)
    ready.set()
    answers = []
    first = threading.Thread(target=lambda: answers.append(client.post("/invoke").status_code))
    first.start()
    assert started.wait(30)
    assert client.post("/invoke").status_code == 409
    assert client.get("/health").status_code == 200
    go_on.set()
    first.join()
    assert answers == [201]
    assert client.post("/invoke").status_code == 201  # the lock is free again


def test_bad_input_is_told_and_leaves_nothing(synthesiser: Synthesiser, folders: tuple[Path, Path]) -> None:
    client, ready = client_of(synthesiser, folders)
    ready.set()
    source = folders[0] / "images/cbct/one.mha"
    good = source.read_bytes()
    source.write_bytes(good[:-50])
    answer = client.post("/invoke")
    assert answer.status_code == 422
    assert "truncated" in answer.json()["error"]
    assert not folders[1].exists()
    source.write_bytes(good)
    assert client.post("/invoke").status_code == 201


def test_bugs_are_answered(
    synthesiser: Synthesiser, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, ready = client_of(synthesiser, folders)
    ready.set()
    with monkeypatch.context() as patch:
        patch.setattr(synthesiser, "synthesise", lambda *a, **k: 1 / 0)
        answer = client.post("/invoke")
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.json()["error"]
    assert client.post("/invoke").status_code == 201


def test_which_bundles_are_loaded(
    make_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bundle_module, server_module):
        monkeypatch.setattr(module, "CHALLENGE_WEIGHTS", tmp_path / "opt")
        monkeypatch.setattr(module, "SHIPPED_WEIGHTS", tmp_path / "weights")
    for task in Task:
        make_bundle(tmp_path / "weights" / task.value, task=task, folds=1)
    both, one = Synthesiser(device="cpu"), Synthesiser(device="cpu")
    load_all(both)
    assert len(both._folds) == 2
    load_all(one, Task.MRI)
    assert len(one._folds) == 1
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/stray").write_text("")
    with pytest.raises(WeightsError):
        load_all(Synthesiser(device="cpu"))


# --- the real server ------------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str, method: str = "GET") -> int:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=60
        ) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def start(folders: tuple[Path, Path], weights: Path, port: int) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "process.py",
        "--serve",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--weights",
        str(weights),
    ]
    command += ["--input", str(folders[0]), "--output", str(folders[1])]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, encoding="utf-8")


def test_served_from_the_command_line(folders: tuple[Path, Path], cbct_bundle: Path) -> None:
    port = free_port()
    process = start(folders, cbct_bundle, port)
    try:
        deadline = time.monotonic() + 120
        while ask(port, "/health") != 200 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ask(port, "/invoke", "POST") == 201
        assert read_volume(folders[1] / RESULT).array.shape == (10, 48, 60)
        assert ask(port, "/health/") in (200, 404)  # never a redirect
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_server_without_weights_stops(folders: tuple[Path, Path], tmp_path: Path) -> None:
    process = start(folders, tmp_path / "absent", free_port())
    _, text = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "absent" in text


def test_a_bug_while_loading_stops_the_server(
    synthesiser: Synthesiser, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "load_all", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server_module.serve(synthesiser, *folders, port=free_port(), task=None)
