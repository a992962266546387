"""Atomic writing: a file or folder appears under its final name whole, or not at all.

What is being written has a name of its own: a dot, the final name, eight hexadecimal digits and `.part`. Its writer holds
a lock on it (`flock`), which the system drops when the writer ends, however it ends. So `remove_stale_parts` can tell
what a killed process left behind from what another process is writing at the moment, also across containers that share
a folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sctlab_model.errors import InputError, ProductError, ResourceError
from sctlab_model.io.paths import split_suffix

STALE_AFTER_S = 24 * 3600  # where a file system has no locks, only age tells
_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part(\.[A-Za-z0-9.]+)?")
_RESOURCES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO,
}  # fmt: skip


def writing_error(path: str | Path, error: OSError) -> ProductError:
    """What a failed write is: a resource that ran out (disk, quota, memory), or a place that can't be written to."""
    found = f"can't be written ({error.strerror or error})"
    if error.errno in _RESOURCES:
        return ResourceError(path, found=found, expected="room on the disk", advice="free space or write elsewhere")
    return InputError(path, found=found, expected="a folder that can be written to")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    The temporary file exists already and is empty. Its name starts with a dot and keeps the suffix, so that writers
    that choose the format by suffix work. The file is synced before the rename and its folder after it; a folder that
    can't be synced (Samba, WSL, some FUSE systems) does not fail a file that is in place.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder can't be written to.
    """
    path = Path(path)
    stem, suffix = split_suffix(path)
    temporary = path.with_name(f".{stem}.{_token()}.part{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _create_locked(temporary)
    except OSError as error:
        raise writing_error(path, error) from error
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise writing_error(path, error) from error
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong
            temporary.unlink(missing_ok=True)
        os.close(lock)
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """An empty temporary folder beside `path`, renamed onto it when the block ends without an error.

    Args:
        path: The folder that appears whole. An older one is replaced: it is moved aside first, so that a kill in
            between leaves no folder rather than a mixture.
        keep_existing: The first writer wins: a folder that is there already stays, and the new one is dropped.

    Raises:
        ResourceError: The disk is full.
        InputError: The parent folder can't be written to, or `path` is a file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{_token()}.part")
    aside = path.with_name(f".{path.name}.{_token()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _create_locked(temporary, folder=True)
    except OSError as error:
        raise writing_error(path, error) from error
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        if not (keep_existing and path.is_dir()):
            _exchange(temporary, path, aside, keep_existing)
    except OSError as error:
        raise writing_error(path, error) from error
    finally:
        for folder in (temporary, aside):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
    _sync_folder(path.parent)


def _exchange(new: Path, path: Path, aside: Path, keep_existing: bool) -> None:
    """Rename `new` onto `path`; what is there goes to `aside`, and comes back if the rename fails."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not keep_existing:
        with suppress(FileNotFoundError):
            path.replace(aside)
    try:
        new.replace(path)
    except OSError:
        if keep_existing and path.is_dir():
            return  # another writer was first
        if aside.exists():
            aside.replace(path)
        raise


def remove_stale_parts(folder: str | Path) -> list[Path]:
    """Remove what killed writers left in a folder and below it; what a living process writes stays.

    Returns:
        The files and folders that were removed.
    """
    removed = []
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if _PART.fullmatch(name) and _remove_if_stale(path):
                removed.append(path)
        folders[:] = [name for name in folders if not _PART.fullmatch(name)]
    return removed


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, indented; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _token() -> str:
    return uuid.uuid4().hex[:8]


def _create_locked(path: Path, *, folder: bool = False) -> int:
    """Create a file or folder and lock it; again if somebody took it for stale between the two."""
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if not folder or not path.parent.is_dir():
                raise
            continue
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _remove_if_stale(path: Path) -> bool:
    """Remove a part that nobody has locked."""
    try:
        is_folder = path.is_dir()
        descriptor = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False  # gone, a link, or somebody else's
    try:
        if not _is_stale(descriptor):
            return False
        if is_folder:
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_stale(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # this file system has no locks
        return time.time() - os.fstat(descriptor).st_mtime > STALE_AFTER_S
    return True


def _sync(file: Path) -> None:
    """Bring a file onto the disk; a file system that can't sync at all is no reason to fail."""
    with file.open("rb") as handle:
        try:
            os.fsync(handle.fileno())
        except OSError as error:
            if error.errno in _RESOURCES:
                raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
