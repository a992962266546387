"""One process at a time, where two would write to the same file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sctlab_model.io.atomic import writing_error


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of `path` (a file `.NAME.lock` beside it) for a block; others wait. The system drops it with its process.

    On a file system without locks nothing is held.

    Args:
        path: What the block makes; its folder is made where it is missing.
        waiting: Called once when another process holds the lock.

    Raises:
        ResourceError, InputError: The folder can't be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(lock, waiting)
    except OSError as error:
        raise writing_error(path.parent, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path, waiting: Callable[[], None]) -> int:
    """The open lock file, locked: the one that bears the name, not one that its last holder has removed meanwhile."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        os.close(descriptor)
