"""A Ray cluster: how many cases at a time, with which cores and GPUs, on which machine, and what a killed worker costs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sctlab.workflow.cases import run_cases
from sctlab.workflow.cluster import capacity, cores_per_case
from sctlab_model.errors import InputError

SMALL, LARGE, GRAPHICS = {"CPU": 4.0}, {"CPU": 32.0}, {"CPU": 8.0, "GPU": 1.0}


def test_cases_share_the_cores_and_fit_a_machine() -> None:
    assert cores_per_case([LARGE], 4, 0) == 8
    assert cores_per_case([SMALL, LARGE], 1, 0) == 4
    assert cores_per_case([SMALL, LARGE, GRAPHICS], 2, 1) == 4
    assert cores_per_case([SMALL], 100, 0) == 1
    with pytest.raises(InputError, match="no machine with a core and 1 GPUs"):
        cores_per_case([SMALL, LARGE], 1, 1)


def test_capacity_counts_cores_or_gpus() -> None:
    assert capacity([SMALL, LARGE], 0) == 36
    assert capacity([SMALL, GRAPHICS, GRAPHICS], 1) == 2
    assert capacity([GRAPHICS], 0.5) == 2


def look_around(folder: str, name: str, fatal: str = "") -> tuple[int, str, str, int]:
    """Cases at a time, its threads, its machine and its GPUs; or an end by SIGKILL."""
    import ray

    if name == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    path = Path(folder) / name
    path.write_text("")
    time.sleep(0.5)
    together = len(list(Path(folder).iterdir()))
    path.unlink()
    context = ray.get_runtime_context()
    return together, os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"], context.get_node_id(), len(ray.get_gpu_ids())


@pytest.fixture(scope="module")
def two_machines() -> Iterator[None]:
    """A cluster of two machines, both here: 4 cores, and 2 cores with a GPU (which is only a number to Ray)."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can't import tests
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    cluster.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.heavy
def test_so_many_cases_at_a_time_each_with_its_threads(two_machines: None, tmp_path: Path) -> None:
    work = [(n, (str(tmp_path), n)) for n in "abcd"]
    outcomes = run_cases(look_around, work, jobs=3, executor="ray")
    assert all(o.ok for o in outcomes), [o.error for o in outcomes]
    assert max(o.result[0] for o in outcomes) <= 3
    assert {o.result[1] for o in outcomes} == {"2"}
    unlimited = run_cases(look_around, [(n, (str(tmp_path), n)) for n in "abcdef"], jobs=None, executor="ray")
    assert {o.result[1] for o in unlimited} == {"1"}  # one core each
    assert len({o.result[2] for o in unlimited}) == 2  # both machines work


@pytest.mark.heavy
def test_cases_with_a_gpu_run_one_at_a_time_where_it_is(two_machines: None, tmp_path: Path) -> None:
    work = [(n, (str(tmp_path), n)) for n in "abc"]
    outcomes = run_cases(look_around, work, jobs=None, executor="ray", gpus=1)
    assert all(o.ok for o in outcomes), [o.error for o in outcomes]
    assert {o.result[0] for o in outcomes} == {1}
    assert {o.result[3] for o in outcomes} == {1}
    assert len({o.result[2] for o in outcomes}) == 1
    with pytest.raises(InputError, match="no machine with a core and 2 GPUs"):
        run_cases(look_around, work, executor="ray", gpus=2)


@pytest.mark.heavy
def test_a_killed_worker_fails_its_own_case_alone(two_machines: None, tmp_path: Path) -> None:
    work = [(n, (str(tmp_path), n, "b")) for n in "abcd"]
    outcomes = run_cases(look_around, work, jobs=2, executor="ray")
    assert [o.ok for o in outcomes] == [True, False, True, True]
    assert outcomes[1].broken
    assert "worker ended" in outcomes[1].error


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def too_busy(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", too_busy)
    with pytest.raises(InputError, match=r"did not start \(The current node timed out"):
        run_cases(look_around, [("a", ("x", "a"))], executor="ray")
