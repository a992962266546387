"""Many cases, one way: progress, several processes or a Ray cluster, and one bad case stops no other."""

from __future__ import annotations

import errno
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sctlab_model.errors import ExitCode, InputError, ProductError
from sctlab_model.processors import THREAD_VARIABLES, available_cpus

# Errors of a machine, not of a file: disk, quota, open files, memory, hardware, network.
TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE,
            errno.ETIMEDOUT)  # fmt: skip


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


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[str, tuple]],
    *,
    title: str,
    processes: int | None = 1,
    executor: str = "local",
    gpus: int = 0,
    console: Console | None = None,
) -> list[Outcome]:
    """Call `function(*arguments)` for every `(name, arguments)`, in order of `jobs` in the result.

    A job that kills its worker (out of memory, a crash) is the only one that fails by it. SIGTERM ends like Ctrl-C.

    Args:
        function: A module-level function (it is sent to other processes).
        jobs: Name of the case and the arguments.
        title: Word before the progress bar.
        processes: Jobs at a time, each with its share of the cores. 1 runs in this process, but for a cluster. None
            is 1 here, and on a cluster one job a core (a job a GPU where it takes one).
        executor: `local` (processes) or `ray` (a Ray cluster: `RAY_ADDRESS`, or one started here).
        gpus: GPUs that a job takes for itself on a cluster.
        console: Where progress goes; stderr by default.

    Raises:
        InputError: Unknown executor, Ray asked for and not installed, or a cluster without such GPUs.
    """
    console = console or Console(stderr=True)
    if executor not in ("local", "ray"):
        raise InputError("--executor", found=f"'{executor}'", expected="local or ray")
    outcomes: dict[int, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    told = ""
    stream = _stream(function, jobs, processes, executor, gpus)
    with sigterm_as_interrupt(), Progress(*columns, console=console) as progress, closing(stream):
        bar = progress.add_task(title, total=len(jobs))
        for index, outcome in stream:
            outcomes[index] = outcome
            # A machine in trouble says the same of case after case; once is enough.
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
        raise InputError(
            title,
            found=f"{len(broken)} of {len(outcomes)} cases weren't finished ({broken[0].name}: {broken[0].error})",
            expected="every case to be looked at",
            advice="run the command again, with fewer --jobs if memory ran out, or exclude the case",
        )


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


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, so that what tidies up at an error does. Nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the tidying up
    raise KeyboardInterrupt


def _guarded(function: Callable[..., Any], name: str, arguments: tuple) -> Outcome:
    try:
        return Outcome(name, function(*arguments))
    except ProductError as error:
        return Outcome(name, error=str(error), broken=_is_of_the_system(error.__cause__))
    except Exception as error:
        return Outcome(name, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc(), broken=True)


def _is_of_the_system(cause: BaseException | None) -> bool:
    """Whether memory or the machine made the error; a file that is damaged or locked away is its case's own fault."""
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in TROUBLES)


def _limit_threads(count: int) -> None:
    """Give a worker its share of the cores: more threads than cores only slow each other down."""
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)


def _in_worker(function: Callable[..., Any], name: str, arguments: tuple) -> Outcome:
    """A job in a worker process, which ends when the job is interrupted."""
    try:
        with sigterm_as_interrupt():
            return _guarded(function, name, arguments)
    except KeyboardInterrupt:
        os._exit(130)  # the pool would catch it and wait for a next job


def _in_task(cores: int, function: Callable[..., Any], name: str, arguments: tuple) -> Outcome:
    """A job on a cluster."""
    _limit_threads(cores)
    return _guarded(function, name, arguments)


def _dead(name: str) -> Outcome:
    return Outcome(name, error="worker ended: its process crashed or was killed (out of memory?)", broken=True)


def _stream(function, jobs, processes: int | None, executor: str, gpus: int) -> Iterator[tuple[int, Outcome]]:
    if executor == "ray":
        yield from _stream_ray(function, jobs, processes, gpus)
    elif processes is None or processes <= 1 or len(jobs) <= 1:
        for index, (name, arguments) in enumerate(jobs):
            yield index, _guarded(function, name, arguments)
    else:
        yield from _stream_processes(function, jobs, min(processes, len(jobs)))


def _stream_processes(function, jobs, processes: int) -> Iterator[tuple[int, Outcome]]:
    """Jobs in worker processes.

    A worker that dies takes its pool along; a new one goes on. Which of the jobs that ran then killed it can't be
    seen, so these run again, one at a time.
    """
    share = max(1, available_cpus() // processes)
    waiting, suspects = deque(range(len(jobs))), deque()
    while waiting or suspects:
        queue, width = (suspects, 1) if suspects else (waiting, processes)
        lost = []
        with closing(_stream_pool(function, jobs, queue, width, share)) as stream:
            for index, outcome in stream:
                if outcome is None:
                    lost.append(index)
                else:
                    yield index, outcome
        if len(lost) == 1:
            yield lost[0], _dead(jobs[lost[0]][0])
        else:
            suspects.extend(lost)


def _stream_pool(function, jobs, queue: deque[int], width: int, share: int) -> Iterator[tuple[int, Outcome | None]]:
    """Take jobs from `queue` until it is empty or a worker has died; None for the jobs that ran then."""
    others = set(active_children())
    running: dict[Future, int] = {}
    alive = True
    # spawn: a forked child of a process that has used torch or ITK threads can hang
    with ProcessPoolExecutor(width, get_context("spawn"), _limit_threads, (share,)) as pool:
        try:
            while running or (queue and alive):
                while queue and alive and len(running) < width:  # no more: what the pool holds is lost with it
                    try:
                        running[pool.submit(_in_worker, function, *jobs[queue[0]])] = queue[0]
                        queue.popleft()
                    except BrokenProcessPool:
                        alive = False
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    try:
                        outcome = future.result()
                    except BrokenProcessPool:
                        alive, outcome = False, None
                    except Exception as error:  # arguments or a result that can't be sent
                        outcome = Outcome(jobs[index][0], error=f"{type(error).__name__}: {error}", broken=True)
                    yield index, outcome
        except BaseException:  # interrupted: the end of the pool would wait for the jobs that run
            for worker in set(active_children()) - others:
                worker.terminate()
            raise


def _stream_ray(function, jobs, processes: int | None, gpus: int) -> Iterator[tuple[int, Outcome]]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--executor ray", found="Ray isn't installed", expected="pip install ray") from error
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        machines = [m["Resources"] for m in ray.nodes() if m["Alive"]]
        processes = processes or int(sum(m.get("GPU", 0) // gpus if gpus else m.get("CPU", 0) for m in machines)) or 1
        cores = _cores_of_a_task(machines, min(processes, len(jobs)), gpus)
        remote = ray.remote(_in_task).options(num_cpus=cores, num_gpus=gpus)
        waiting, running = deque(range(len(jobs))), {}
        while waiting or running:
            while waiting and len(running) < processes:
                index = waiting.popleft()
                running[remote.remote(cores, function, *jobs[index])] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                outcome = ray.get(done)
            except Exception as error:
                outcome = Outcome(jobs[index][0], error=f"worker ended: {type(error).__name__}: {error}", broken=True)
            yield index, outcome
    finally:
        if started:
            ray.shutdown()


def _cores_of_a_task(machines: Sequence[dict[str, float]], tasks: int, gpus: int) -> int:
    """Cores for each of so many tasks at a time: no more than every machine has that can take one.

    Args:
        machines: Ray's resources (`CPU`, `GPU`) of each.

    Raises:
        InputError: No machine has the GPUs; Ray would wait for one.
    """
    fitting = [int(m.get("CPU", 0)) for m in machines if m.get("GPU", 0) >= gpus and m.get("CPU", 0) >= 1]
    if not fitting:
        raise InputError(
            "--executor ray",
            found=f"no machine with a core and {gpus} GPUs in the cluster",
            expected="one at least",
            advice="--device cpu, or another cluster",
        )
    return max(1, min(*fitting, sum(fitting) // max(1, tasks)))
