"""One process at a time, where two would write to the same file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from sctlab_model.io.atomic import writing_error
from sctlab_model.monitor import Monitor


@contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock of `path` (a file `.NAME.lock` beside it) for a block; others wait. The system drops it with its process.

    On a file system without locks nothing is held.

    Args:
        path: What the block makes; its folder is made where it is missing.
        waiting: Called once when another process holds the lock; an error that it raises ends the wait.

    Raises:
        ResourceError, InputError: The folder can't be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    new = [folder for folder in path.parents if not folder.exists()]
    try:
        descriptor = _acquire(lock, waiting)
    except OSError as error:
        raise writing_error(path.parent, error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()  # where the block was refused and made nothing
        os.close(descriptor)


def one_run(path: Path, monitor: Monitor) -> AbstractContextManager[None]:
    """Hold an output for one run; a second one says that it waits, and goes on from what the first has left.

    Args:
        path: The output: a file, or the name of the work in a folder (`out / "simulate"`).
        monitor: Told of the wait.
    """
    return one_at_a_time(path, lambda: monitor.info(f"another run writes {path}: waiting until it ends"))


def _acquire(lock: Path, waiting: Callable[[], None]) -> int:
    """The open lock file, locked: the one that bears the name, not one that its last holder has removed meanwhile."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        except FileNotFoundError:  # the last holder has removed its empty folder meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except BaseException:  # a refusal, or Ctrl-C during the wait
                os.close(descriptor)
                raise
        except OSError:
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        os.close(descriptor)
