"""Folders that a run fills aside; what a killed run left behind is told from what is in use, and removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCKING_S = 60.0  # a folder may not have its lock yet


@contextmanager
def scratch_folder(parent: Path, prefix: str, *, mode: int = 0o777) -> Iterator[Path]:
    """A new folder in `parent` (with `mode` less the umask), removed when the block ends unless it was moved away.

    It is locked as long as this process lives, however that ends: so `remove_stale` leaves the folders of other runs.
    """
    folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode, parents=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: its leftovers stay
            # Shared, because whoever writes a file into it shares the lock as well; `remove_stale` wants it alone.
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_stale(parent: Path, prefix: str) -> None:
    """Remove the folders of `scratch_folder` whose process is gone, as far as that can be told and done."""
    if not parent.is_dir():
        return
    for folder in [p for p in parent.iterdir() if p.name.startswith(prefix)]:
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < LOCKING_S:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
