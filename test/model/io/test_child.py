"""Reading in a process with limits: whatever happens in it, the parent gets an answer or one sentence."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.errors import InputError, ProductError, ResourceError, WeightsError
from sctlab_model.io.child import ReadingProcess

# --- readers, called in the child ------------------------------------------------------------------------------------


def numbers(path: str, count: int) -> dict:
    return {"path": path, "pid": os.getpid(), "values": np.arange(count, dtype="<i2"), "none": np.zeros((0, 3))}


def crash(path: str) -> dict:
    return {"value": ctypes.string_at(0)}


def leave(path: str) -> dict:
    os._exit(3)


def hang(path: str) -> dict:
    while True:
        time.sleep(1)


def swallow_memory(path: str) -> dict:
    return {"values": np.ones(1 << 30)}


def write_file(path: str) -> dict:
    Path(path).write_text("something", encoding="utf-8")
    return {}


def chatter(path: str) -> dict:
    print("what other files hold")
    os.write(1, b"what other files hold")
    os.write(2, b"what other files hold")
    return {"answer": 1}


def refuse(path: str) -> dict:
    raise WeightsError(path, found="nothing", expected="something", advice="look again")


def fail(path: str) -> dict:
    raise KeyError("a\nreason")


def lie(path: str) -> dict:
    """An answer past the protocol, as memory that was overwritten could give."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"\xff" * 100)
        except OSError:
            continue
    return {}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    process = ReadingProcess(memory_bytes=1 << 29, timeout_s=20)
    yield process
    process.close()


@pytest.fixture(autouse=True, scope="module")
def _importable():
    sys.path.insert(0, str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


def test_one_process_reads_many_files(reader: ReadingProcess, tmp_path: Path) -> None:
    name = tmp_path / os.fsdecode(b"\xff odd")
    answers = [reader.read("test_child:numbers", name, count=n) for n in (5, 200_000, 0)]
    for answer, n in zip(answers, (5, 200_000, 0), strict=True):
        np.testing.assert_array_equal(answer["values"], np.arange(n, dtype=np.int16))
        assert answer["none"].shape == (0, 3)
        assert answer["path"] == str(name)
    assert len({a["pid"] for a in answers}) == 1
    assert answers[0]["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("function", "kind", "word"),
    [
        ("crash", InputError, "SIGSEGV"),
        ("leave", InputError, "exit code 3"),
        ("swallow_memory", ResourceError, "0.5 GB"),
        ("refuse", WeightsError, "nothing; expected something; look again"),
        ("fail", InputError, "can't be read"),
        ("lie", InputError, "ended on it"),
        ("write_file", InputError, "can't be read"),
    ],
)
def test_whatever_happens_there_is_one_sentence(
    reader: ReadingProcess, tmp_path: Path, capfd: pytest.CaptureFixture, function: str, kind: type, word: str
) -> None:
    with pytest.raises(kind, match=word) as caught:
        reader.read(f"test_child:{function}", tmp_path / "a.h5")
    assert isinstance(caught.value, ProductError)
    assert str(caught.value).startswith(str(tmp_path / "a.h5"))
    assert "\n" not in str(caught.value)
    assert reader.read("test_child:numbers", tmp_path, count=2)["values"].tolist() == [0, 1]
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "a.h5").exists() or (tmp_path / "a.h5").read_text() == ""


def test_what_libraries_print_goes_nowhere(reader: ReadingProcess, capfd: pytest.CaptureFixture) -> None:
    assert reader.read("test_child:chatter", "a")["answer"] == 1
    assert capfd.readouterr() == ("", "")


def test_a_file_that_never_ends(reader: ReadingProcess) -> None:
    reader.read("test_child:numbers", "a", count=1)
    reader.timeout_s = 0.5
    start = time.monotonic()
    with pytest.raises(InputError, match=r"within 0\.5 s"):
        reader.read("test_child:hang", "a")
    assert time.monotonic() - start < 5
    reader.timeout_s = 20
    assert reader.read("test_child:numbers", "a", count=1)["values"].tolist() == [0]


def test_a_forked_process_has_its_own_child(reader: ReadingProcess) -> None:
    first = reader.read("test_child:numbers", "a", count=1)["pid"]
    read_end, write_end = os.pipe()
    forked = os.fork()
    if forked == 0:
        other = reader.read("test_child:numbers", "a", count=1)["pid"]
        os.write(write_end, str(other).encode())
        reader.close()
        os._exit(0)
    os.waitpid(forked, 0)
    assert int(os.read(read_end, 20)) != first
    assert reader.read("test_child:numbers", "a", count=1)["pid"] == first
