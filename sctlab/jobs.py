"""Many cases, one way: progress, several processes or a Ray cluster, and one bad case stops no other."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from model.errors import ExitCode, InputError, ProductError


@dataclass(frozen=True)
class Outcome:
    """How one job ended: its result, or the error's one line.

    Args:
        name: Of the case.
        result: What the function returned.
        error: Why it didn't.
        trace: Of an error that nobody foresaw.
        broken: The error says nothing about the case: memory or disk failed, a worker died, or there is a bug.
    """

    name: str
    result: Any = None
    error: str = ""
    trace: str = ""
    broken: bool = False

    @property
    def ok(self) -> bool:
        """Whether the job returned."""
        return not self.error


def available_cpus() -> int:
    """Processors that this process may use: affinity and the container's cgroup quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        with open("/sys/fs/cgroup/cpu.max") as handle:  # noqa: PTH123 (a kernel file)
            quota, period = handle.read().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[str, tuple]],
    *,
    title: str,
    processes: int = 1,
    executor: str = "local",
    console: Console | None = None,
) -> list[Outcome]:
    """Call `function(*arguments)` for every `(name, arguments)`, in order of `jobs` in the result.

    Args:
        function: A module-level function (it is sent to other processes).
        jobs: Name of the case and the arguments.
        title: Word before the progress bar.
        processes: 1 runs in this process; more start that many workers, each with its share of the cores.
        executor: `local` (processes) or `ray` (a Ray cluster: `RAY_ADDRESS`, or one started here).
        console: Where progress goes; stderr by default.

    Raises:
        InputError: Unknown executor, or Ray asked for and not installed.
    """
    console = console or Console(stderr=True)
    if executor not in ("local", "ray"):
        raise InputError("--executor", f"'{executor}'", "local or ray")
    outcomes: dict[int, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    told = ""
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=len(jobs))
        for index, outcome in _stream(function, jobs, processes, executor):
            outcomes[index] = outcome
            # One dead worker ends all the jobs that wait; once is enough to say so.
            if not outcome.ok and not (outcome.broken and outcome.error == told):
                told = outcome.error
                progress.console.print(f"[red]failed[/red] {outcome.name}: {outcome.error}", soft_wrap=True)
            progress.advance(bar)
    return [outcomes[i] for i in range(len(jobs))]


def refuse_broken(outcomes: Sequence[Outcome], title: str) -> None:
    """End the command where cases failed for reasons that aren't theirs: they can't be judged by that.

    Args:
        outcomes: Of `run_jobs`.
        title: What was being done, for the message.

    Raises:
        InputError: A job is broken.
    """
    broken = [o for o in outcomes if o.broken]
    if broken:
        raise InputError(title, f"{len(broken)} of {len(outcomes)} cases weren't finished ({broken[0].name}: "
                         f"{broken[0].error})", "every case to be looked at",
                         "run the command again, with fewer --jobs if memory ran out, or exclude the case")  # fmt: skip


def summarise(outcomes: Sequence[Outcome], console: Console | None = None) -> ExitCode:
    """Print a table of the jobs that failed; the exit code says whether some or all did."""
    console = console or Console(stderr=True)
    failed = [o for o in outcomes if not o.ok]
    if failed:
        table = Table("case", "what went wrong", title=f"{len(failed)} of {len(outcomes)} cases failed")
        for outcome in failed:
            table.add_row(outcome.name, outcome.error)
        console.print(table)
    if not failed:
        return ExitCode.OK
    return ExitCode.SOME_CASES_FAILED if len(outcomes) > 1 else ExitCode.BAD_INPUT


def _guarded(function: Callable[..., Any], name: str, arguments: tuple) -> Outcome:
    try:
        return Outcome(name, function(*arguments))
    except ProductError as error:
        return Outcome(name, error=str(error), broken=_is_of_the_system(error.__cause__))
    except Exception as error:
        return Outcome(name, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc(), broken=True)


def _is_of_the_system(cause: BaseException | None) -> bool:
    """Whether memory or the operating system made the error: readers of damaged files raise OSError without a number."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)


def _limit_threads(count: int) -> None:
    """Give a worker its share of the cores: more threads than cores only slow each other down."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                 "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):  # fmt: skip
        os.environ[name] = str(count)


def _stream(function, jobs, processes: int, executor: str) -> Iterator[tuple[int, Outcome]]:
    if executor == "ray":
        yield from _stream_ray(function, jobs)
    elif processes <= 1 or len(jobs) <= 1:
        for index, (name, arguments) in enumerate(jobs):
            yield index, _guarded(function, name, arguments)
    else:
        processes = min(processes, len(jobs))
        share = max(1, available_cpus() // processes)
        # spawn: a forked child of a process that has used torch or ITK threads can hang
        with ProcessPoolExecutor(processes, get_context("spawn"), _limit_threads, (share,)) as pool:
            futures = {pool.submit(_guarded, function, n, a): (i, n) for i, (n, a) in enumerate(jobs)}
            for future in as_completed(futures):
                index, name = futures[future]
                try:
                    yield index, future.result()
                except Exception as error:  # the worker itself died (out of memory, killed)
                    yield index, Outcome(name, error=f"worker ended: {type(error).__name__}: {error}", broken=True)


def _stream_ray(function, jobs) -> Iterator[tuple[int, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--executor ray", "Ray isn't installed", "pip install ray") from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        remote = ray.remote(_guarded)
        names = {remote.remote(function, n, a): (i, n) for i, (n, a) in enumerate(jobs)}
        waiting = list(names)
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            index, name = names[done]
            try:
                yield index, ray.get(done)
            except Exception as error:
                yield index, Outcome(name, error=f"worker ended: {type(error).__name__}: {error}", broken=True)
    finally:
        if started:
            ray.shutdown()
