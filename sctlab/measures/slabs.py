"""Slabs of slices on a few threads, each with one-threaded torch operations.

Slice-sized operations are too small to be split inside torch: two threads would meet at a barrier after
every one, and on a busy machine wait there for most of the time. One thread a slab never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
# Fixed, not a share of the threads: sums then have one order, and results don't depend on the number of threads.
SLAB = 48


def map_slabs(function: Callable[[int, int], T], depth: int, device: str | torch.device) -> list[T]:
    """Call `function(first, last)` for slabs that cover slices 0 to `depth`; results in order.

    On the CPU as many run at a time as torch has threads; a GPU gets one slab.
    """
    if torch.device(device).type != "cpu":
        return [function(0, depth)]
    threads = torch.get_num_threads()
    parts = max(1, round(depth / SLAB))
    bounds = [round(depth * k / parts) for k in range(parts + 1)]
    try:
        # the setting holds for the thread that makes it, and for threads that start later
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, bounds[:-1], bounds[1:]))
    finally:
        torch.set_num_threads(threads)
