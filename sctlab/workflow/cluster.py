"""Cases on a Ray cluster, each with its cores and GPUs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sctlab.workflow.outcomes import Outcome, attempt
from sctlab.workflow.processes import limit_threads
from sctlab_model.errors import InputError


def on_cluster(
    function: Callable[..., Any], cases: Sequence[tuple[str, tuple[Any, ...]]], jobs: int | None, gpus: float
) -> Iterator[tuple[int, Outcome]]:
    """Index and outcome of each case, in the order in which they end.

    The cluster is the one that this process is connected to, that of `RAY_ADDRESS`, or one started here for the call.
    A case whose worker or machine goes away is tried once more.

    Raises:
        InputError: Ray isn't installed or does not start, or no machine of the cluster has the GPUs.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("--executor ray", found="Ray isn't installed", expected="pip install ray") from error
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(log_to_driver=False, include_dashboard=False)
        except Exception as error:  # a bare Exception where its processes do not answer in time
            raise InputError(
                "--executor ray",
                found=f"Ray did not start ({error})",
                expected="a cluster that answers, or room for one on this machine",
                advice="run it again on a quieter machine, look at RAY_ADDRESS, or use --executor local",
            ) from error
    try:
        machines = [m["Resources"] for m in ray.nodes() if m["Alive"]]
        jobs = jobs or capacity(machines, gpus)
        cores = cores_per_case(machines, min(jobs, len(cases)), gpus)
        remote = ray.remote(_on_worker).options(num_cpus=cores, num_gpus=gpus, max_retries=1)
        waiting, running = deque(range(len(cases))), dict[Any, int]()
        while waiting or running:
            while waiting and len(running) < jobs:
                index = waiting.popleft()
                running[remote.remote(cores, function, *cases[index])] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                outcome = ray.get(done)
            except Exception as error:
                outcome = Outcome(cases[index][0], error=f"worker ended: {type(error).__name__}: {error}", broken=True)
            yield index, outcome
    finally:
        if started:
            ray.shutdown()


def capacity(machines: Sequence[dict[str, float]], gpus: float) -> int:
    """Cases that run at a time when nobody says how many: one per core, or as many as the GPUs serve."""
    if gpus:
        return int(sum(m.get("GPU", 0) // gpus for m in machines)) or 1
    return int(sum(m.get("CPU", 0) for m in machines)) or 1


def cores_per_case(machines: Sequence[dict[str, float]], cases: int, gpus: float) -> int:
    """Cores for each of so many cases at a time: no more than every machine has that can take one.

    Args:
        machines: Ray's resources (`CPU`, `GPU`) of each.
        cases: Cases at a time.
        gpus: GPUs of a case.

    Raises:
        InputError: No machine has the GPUs; Ray would wait for one.
    """
    fitting = [int(m.get("CPU", 0)) for m in machines if m.get("GPU", 0) >= gpus and m.get("CPU", 0) >= 1]
    if not fitting:
        raise InputError(
            "--executor ray",
            found=f"no machine with a core and {gpus:g} GPUs in the cluster",
            expected="one at least",
            advice="--device cpu, or another cluster",
        )
    return max(1, min(*fitting, sum(fitting) // max(1, cases)))


def _on_worker(cores: int, function: Callable[..., Any], name: str, arguments: tuple[Any, ...]) -> Outcome:
    limit_threads(cores)
    return attempt(function, name, arguments)
