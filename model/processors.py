"""How many processors this process may use, and how to tell the libraries."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sctlab_model.allocator import keep_freed_memory
from sctlab_model.limits import control_groups

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
LOOK_S = 0.1  # how long the machine's load is watched
STAT = Path("/proc/stat")


def available_cpus() -> int:
    """Processors that this process may use: affinity, and the quotas of its control groups (version 1 and 2)."""
    return max(1, min(_affinity(), *(max(1, round(q)) for q in cpu_quotas()), 1 << 20))


def cpu_quotas() -> list[float]:
    """Processors that each control group above this process may use, where it has a limit."""
    quotas = []
    for folder, version in control_groups("cpu"):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text().strip()
                period = (folder / "cpu.cfs_period_us").read_text().strip()
            if quota not in ("max", "-1") and int(period) > 0:
                quotas.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return quotas


def start_process() -> None:
    """What every command does first, before a library that computes is imported: quota and allocator."""
    heed_quota()
    keep_freed_memory()


def heed_quota() -> None:
    """Keep the libraries within a container's quota, and within what others leave of a busy machine.

    Called before the libraries are imported. They see the machine's processors, not the quota: each would start a thread
    for every one of them. And where others compute, threads that wait for each other cost more than they bring: with two
    threads on two busy processors, registration took twenty times as long as with one. So where less than half of the
    processors are idle, as many threads are started as are idle, at least one. The user's own settings stay.

    A machine that gets busy later, or a user who asks for more threads than are free, is met by threads that sleep while
    they wait (`sctlab_model/__init__.py`).
    """
    if all(name in os.environ for name in THREAD_VARIABLES):
        return
    allowed = available_cpus()
    idle = idle_cpus() if allowed > 1 else None
    count = allowed if idle is None or idle >= allowed / 2 else max(1, round(idle))
    if count < _affinity():
        for name in THREAD_VARIABLES:
            os.environ.setdefault(name, str(count))


def idle_cpus() -> float | None:
    """Processors of the machine that did nothing just now; None where the system does not tell."""
    before = _times()
    time.sleep(LOOK_S)
    after = _times()
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1]) * (os.cpu_count() or 1)


def _times() -> tuple[int, int] | None:
    """Idle and total time of all processors since the start, in ticks."""
    try:
        words = STAT.read_text(encoding="utf-8").splitlines()[0].split()
        ticks = [int(w) for w in words[1:9]]  # user nice system idle iowait irq softirq steal
    except (OSError, ValueError, IndexError):
        return None
    return ticks[3] + ticks[4], sum(ticks)


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
