"""Cases in worker processes of this machine (pebble: a worker that dies takes its own case along, and no other)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from sctlab.workflow.outcomes import Outcome, attempt
from sctlab.workflow.signals import sigterm_as_interrupt
from sctlab_model.allocator import keep_freed_memory
from sctlab_model.errors import ExitCode
from sctlab_model.processors import THREAD_VARIABLES, available_cpus


def in_processes(
    function: Callable[..., Any], cases: Sequence[tuple[str, tuple[Any, ...]]], jobs: int
) -> Iterator[tuple[int, Outcome]]:
    """Index and outcome of each case, in the order in which they end; `jobs` at a time.

    Closing the iterator early ends the workers, which tidy up as at SIGTERM.
    """
    share = max(1, available_cpus() // jobs)
    # spawn: a forked child of a process that has used torch or ITK threads can hang
    pool = ProcessPool(jobs, initializer=limit_threads, initargs=(share,), context=get_context("spawn"))
    with pool:
        try:
            with _ctrl_c_blocked():
                futures: dict[Future[Outcome], int] = {
                    pool.schedule(_in_worker, args=(function, name, arguments)): index
                    for index, (name, arguments) in enumerate(cases)
                }
            for future in as_completed(futures):
                index = futures[future]
                try:
                    outcome = future.result()
                except ProcessExpired as error:
                    outcome = Outcome(cases[index][0], error=_ending(error), broken=True, code=ExitCode.RESOURCES)
                except Exception as error:  # arguments or a result that can't be sent
                    outcome = Outcome(cases[index][0], error=f"{type(error).__name__}: {error}", broken=True)
                yield index, outcome
        except BaseException:  # interrupted: leaving the pool would wait for the cases that run
            pool.stop()
            raise


def limit_threads(count: int) -> None:
    """Give a worker its share of the cores: more threads than cores only slow each other down."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)
    keep_freed_memory()


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Keep Ctrl-C from the processes and threads that start in the block, for good; here it comes when the block ends.

    A terminal sends it to workers as well, and one that is still importing would print a trace. They are ended by SIGTERM.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_worker(function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Outcome:
    """A case in a worker process, which ends when the case is interrupted."""
    try:
        with sigterm_as_interrupt():
            return attempt(function, name, arguments)
    except KeyboardInterrupt:
        os._exit(130)  # the pool would catch it and wait for a next case


def _ending(error: ProcessExpired) -> str:
    code = error.exitcode
    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
    return f"worker ended: its process crashed or was killed (out of memory?), {how}"
