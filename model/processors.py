"""How many processors this process may use, and how to tell the libraries."""

from __future__ import annotations

import os

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def available_cpus() -> int:
    """Processors that this process may use: affinity and the container's cgroup quota."""
    count = _affinity()
    try:
        with open("/sys/fs/cgroup/cpu.max") as handle:  # noqa: PTH123 (a kernel file)
            quota, period = handle.read().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def heed_quota() -> None:
    """Keep the libraries within a container's quota, before they are imported.

    They see the machine's processors, not the quota: each would start a thread for every one of them.
    """
    count = available_cpus()
    if count < _affinity():
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(count))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
