"""One door for many cases: progress, local processes or a Ray cluster, and one bad case stops no other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Literal, get_args

from sctlab.workflow.outcomes import Outcome, attempt
from sctlab.workflow.signals import sigterm_as_interrupt
from sctlab_model.errors import InputError
from sctlab_model.monitor import Monitor

Executor = Literal["local", "ray"]
Work = Sequence[tuple[str, tuple[Any, ...]]]


def run_cases(
    function: Callable[..., Any],
    cases: Work,
    *,
    jobs: int | None = 1,
    executor: str = "local",
    gpus: float = 0,
    monitor: Monitor | None = None,
) -> tuple[Outcome, ...]:
    """Call `function(*arguments)` for every `(name, arguments)`; the outcomes keep the order of `cases`.

    A case that kills its worker (out of memory, a crash) is the only one that fails by it. SIGTERM ends like Ctrl-C.

    Args:
        function: A module-level function (it is sent to other processes).
        cases: Name of each case and the arguments.
        jobs: Cases at a time, each with its share of the cores. 1 runs in this process, unless on a cluster. None
            is 1 here, and on a cluster one case per core (one per GPU where it takes one).
        executor: `local` (processes) or `ray` (a cluster: that of `RAY_ADDRESS`, or one started here).
        gpus: GPUs that a case takes for itself on a cluster; 0.5 lets two share one.
        monitor: Told how many cases are done, and of each that failed.

    Raises:
        InputError: Unknown executor, Ray asked for and not installed, or a cluster without such GPUs.
    """
    monitor = monitor or Monitor()
    outcomes: dict[int, Outcome] = {}
    last_error = ""
    with sigterm_as_interrupt(), closing(_stream(function, cases, jobs, executor, gpus)) as stream:
        monitor.progress(0, len(cases))
        for index, outcome in stream:
            outcomes[index] = outcome
            # A machine in trouble gives case after case the same error; once is enough.
            if not outcome.ok and not (outcome.broken and outcome.error == last_error):
                last_error = outcome.error
                monitor.warning(f"failed {outcome.name}: {outcome.error}")
            monitor.progress(len(outcomes), len(cases), outcome.name)
    return tuple(outcomes[index] for index in range(len(cases)))


def _stream(
    function: Callable[..., Any], cases: Work, jobs: int | None, executor: str, gpus: float
) -> Generator[tuple[int, Outcome], None, None]:
    """Index and outcome of each case, in the order in which they end."""
    if executor not in get_args(Executor):
        raise InputError("--executor", found=f"'{executor}'", expected=" or ".join(get_args(Executor)))
    if executor == "ray":
        from sctlab.workflow.cluster import on_cluster

        yield from on_cluster(function, cases, jobs, gpus)
    elif jobs is None or jobs <= 1 or len(cases) <= 1:
        for index, (name, arguments) in enumerate(cases):
            yield index, attempt(function, name, arguments)
    else:
        from sctlab.workflow.processes import in_processes

        yield from in_processes(function, cases, min(jobs, len(cases)))
