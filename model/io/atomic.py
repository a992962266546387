"""Atomic writing: a file or folder appears under its final name whole, or not at all.

What is being written has a name of its own: a dot, the final name, eight hexadecimal digits and `.part`. Its writer shares
a lock on the folder that holds it (`flock`), which the system drops when the writer ends, however it ends. So
`remove_stale_parts`, which needs the lock for itself, knows that nobody writes there at the moment, also across containers
that share the folder. (A lock on the file itself would be in HDF5's way, which locks what it writes.)
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


def file_error(error: OSError) -> ProductError | None:
    """The system's refusal of a file that nothing else has put into words; None where it names no file."""
    if error.filename is None:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    kind = ResourceError if error.errno in _RESOURCES else InputError
    return kind(
        name if len(name) < 300 else f"{name[:100]}…",
        found=f"can't be opened ({error.strerror or error})",
        expected="a file or folder that this user may use",
    )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    The temporary name starts with a dot and keeps the suffix, so that writers that choose the format by suffix work. The
    file is synced before the rename and its folder after it; a folder that can't be synced (Samba, WSL, some FUSE systems)
    does not fail a file that is in place.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder can't be written to.
    """
    path = Path(path)
    stem, suffix = split_suffix(path)
    temporary = path.with_name(f".{stem}.{_token()}.part{suffix}")
    with _writing_into(path):
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        except OSError as error:
            raise writing_error(path, error) from error
        finally:
            with suppress(OSError):  # the folder itself may be what is wrong
                temporary.unlink(missing_ok=True)
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
    with _writing_into(path):
        try:
            temporary.mkdir()
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
    _sync_folder(path.parent)


@contextmanager
def added_files(path: str | Path, last: str) -> Iterator[Path]:
    """An empty temporary folder in `path`, whose files are moved into `path` when the block ends without an error.

    Other files that lie there stay, files of the same name are replaced. A kill leaves none of the new ones, or, between
    two renames, some of them without the last.

    Args:
        path: The folder that the files are added to; made where it is missing.
        last: The file that vouches for the others (a manifest): moved after them.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder can't be written to, or `path` is a file.
    """
    path = Path(path)
    temporary = path / f".new.{_token()}.part"
    with _writing_into(temporary):
        try:
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.iterdir(), key=lambda file: (file.name == last, file.name)):
                file.replace(path / file.name)
        except OSError as error:
            raise writing_error(path, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            with suppress(OSError):  # it holds something, as it should
                path.rmdir()
    _sync_folder(path)


def replace_folder(new: Path, path: Path) -> None:
    """Put a whole folder in the place of another one on the same file system.

    Raises:
        ResourceError, InputError: It can't be renamed; what was there stays.
    """
    aside = path.with_name(f".{path.name}.{_token()}.part")
    with _writing_into(path):
        try:
            _exchange(new, path, aside, keep_existing=False)
        except OSError as error:
            raise writing_error(path, error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
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
        parts = [Path(parent, name) for name in [*folders, *files] if _PART.fullmatch(name)]
        folders[:] = [name for name in folders if not _PART.fullmatch(name)]
        if parts:
            removed += _remove_unless_used(Path(parent), parts)
    return removed


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; a byte of a file name that is no UTF-8 is written as an escape."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, value: Any) -> None:
    r"""Write JSON atomically, indented; NaN is refused because JSON has none.

    Bytes of file names that are no UTF-8 become escapes such as `\udcff`, which JSON readers turn back.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _token() -> str:
    return uuid.uuid4().hex[:8]


@contextmanager
def _writing_into(path: Path) -> Iterator[None]:
    """Make the folder of a path and share its lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_error(path, error) from error
    descriptor = -1
    with suppress(OSError):  # a file system without locks, or a folder that can't be listed
        descriptor = os.open(path.parent, os.O_RDONLY)
        # Waited for: `remove_stale_parts` holds it alone for an instant, and a writer without it would be swept away.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _remove_unless_used(folder: Path, parts: list[Path]) -> list[Path]:
    """Remove parts of a folder into which nobody writes; where there are no locks, those that are a day old."""
    removed = []
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return []
    try:
        least_age = 0
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        except OSError:
            least_age = STALE_AFTER_S
        for part in parts:
            with suppress(OSError):
                if part.is_symlink() or time.time() - part.stat().st_mtime < least_age:
                    continue
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()
                removed.append(part)
    finally:
        os.close(descriptor)
    return removed


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
