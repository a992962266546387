"""Files and folders that appear whole, on any file system, and what killed writers leave behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sctlab_model.errors import InputError, ResourceError
from sctlab_model.io import atomic
from sctlab_model.io.atomic import added_files, atomic_folder, atomic_path, remove_stale_parts, write_json, write_text

WRITER = """
import sys, time
from pathlib import Path
from sctlab_model.io.atomic import added_files, atomic_folder, atomic_path
with atomic_path(Path(sys.argv[1]) / "a.mha") as file, atomic_folder(Path(sys.argv[1]) / "case") as folder:
    file.write_text("half")
    (folder / "ct.mha").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writer(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    return process


def test_only_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    process = start_writer(tmp_path)
    try:
        (tmp_path / ".mine.part").write_text("a file that somebody else made")
        assert remove_stale_parts(tmp_path) == []
        assert len(list(tmp_path.iterdir())) == 3
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    removed = remove_stale_parts(tmp_path)
    assert len(removed) == 2
    assert [p.name for p in tmp_path.iterdir()] == [".mine.part"]


def test_parts_in_folders_below_are_found(tmp_path: Path) -> None:
    part = tmp_path / "Task1/AB/.1ABA001.0123abcd.part.nii.gz"
    part.parent.mkdir(parents=True)
    part.write_text("half")
    assert remove_stale_parts(tmp_path) == [part]


def test_links_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("whole")
    (tmp_path / "folder").mkdir()
    (tmp_path / ".a.0123abcd.part").symlink_to(tmp_path / "file")
    (tmp_path / ".b.0123abcd.part").symlink_to(tmp_path / "folder")
    assert remove_stale_parts(tmp_path) == []
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("age_s", [0, 2 * atomic.STALE_AFTER_S])
def test_without_locks_age_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: int) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(atomic.fcntl, "flock", no_locks)
    write_text(tmp_path / "a.txt", "written without a lock")
    part = tmp_path / ".a.0123abcd.part.txt"
    part.write_text("half")
    os.utime(part, (time.time() - age_s,) * 2)
    assert remove_stale_parts(tmp_path) == ([part] if age_s else [])


def test_many_writers_and_a_sweeper(tmp_path: Path) -> None:
    """The sweeper never takes away what is being written, however close the two are."""
    stop, errors = threading.Event(), []

    def sweep() -> None:
        while not stop.is_set():
            remove_stale_parts(tmp_path)

    def write(number: int) -> None:
        try:
            for i in range(100):
                write_text(tmp_path / f"{number}.txt", str(i))
                with atomic_folder(tmp_path / f"folder {number}") as folder:
                    (folder / "a.txt").write_text(str(i))
        except Exception as error:
            errors.append(error)

    sweeper = threading.Thread(target=sweep)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in (sweeper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    sweeper.join()
    assert errors == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.txt", "1.txt", "2.txt", *(f"folder {n}" for n in range(3))]
    assert {p.read_text() for p in tmp_path.rglob("*.txt")} == {"99"}


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.ENOSYS, errno.EIO])
def test_a_folder_that_cannot_be_synced_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Samba, WSL and FUSE refuse it in different words, when the result is in place already."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_json(tmp_path / "a.json", {})
    with atomic_folder(tmp_path / "case") as folder:
        (folder / "a.txt").write_text("whole")
    assert (tmp_path / "case/a.txt").read_text() == "whole"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, ResourceError),
        (errno.EDQUOT, ResourceError),
        (errno.EFBIG, ResourceError),
        (errno.EACCES, InputError),
        (errno.EROFS, InputError),
    ],
)
@pytest.mark.parametrize("writer", [atomic_path, atomic_folder])
def test_what_failed_is_told_apart(tmp_path: Path, code: int, kind: type, writer) -> None:
    with pytest.raises(kind, match="can't be written") as caught, writer(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert caught.value.exit_code == (6 if kind is ResourceError else 2)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "case") as folder:
            (folder / f"{content}.txt").write_text(content)
    assert [p.name for p in (tmp_path / "case").iterdir()] == ["new.txt"]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "case") as folder:
        (folder / "half.txt").write_text(str(1 / 0))
    assert [p.name for p in (tmp_path / "case").iterdir()] == ["new.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_the_first_folder_stays_where_that_is_wanted(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "case", keep_existing=True) as folder:
            (folder / "a.txt").write_text(content)
    assert (tmp_path / "case/a.txt").read_text() == "first"


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "case").write_text("a file")
    with pytest.raises(InputError, match="can't be written"), atomic_folder(tmp_path / "case"):
        pass
    assert (tmp_path / "case").read_text() == "a file"


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"k\xf6rper")
    write_text(tmp_path / f"{name}.txt", "text")
    with atomic_folder(tmp_path / name):
        pass
    write_json(tmp_path / "a.json", {name: f"Schädel/{name}"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {name: f"Schädel/{name}"}
    (tmp_path / "a.json").unlink()
    assert sorted(os.fsencode(p.name) for p in tmp_path.iterdir()) == [b"k\xf6rper", b"k\xf6rper.txt"]


def test_writers_that_lock_what_they_write(tmp_path: Path) -> None:
    """HDF5 does, on opening."""
    import h5py

    with atomic_path(tmp_path / "a.h5") as temporary, h5py.File(temporary, "w") as file:
        file["x"] = [1, 2]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][:].tolist() == [1, 2]


def test_files_are_added_once_all_are_written_and_the_last_one_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"
    with pytest.raises(KeyError), added_files(folder, "manifest") as part:
        {}[(part / "a").write_text("half")]
    assert not folder.exists()
    moved: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        moved.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    for text in ("1", "2"):
        with added_files(folder, "b") as part:
            for name in "abc":
                (part / name).write_text(text)
        (folder / "mine").write_text("kept")
    assert moved == ["a", "c", "b"] * 2
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a": "2", "b": "2", "c": "2", "mine": "kept"}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"), added_files(tmp_path / "file", "b"):
        pass
