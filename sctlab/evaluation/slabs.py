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
MIN_SLICES = 16


def map_slabs(function: Callable[[int, int], T], depth: int, device: str | torch.device) -> list[T]:
    """Call `function(first, last)` for slabs that cover slices 0 to `depth`; results in order.

    As many slabs as torch has threads on the CPU, one on a GPU.
    """
    threads = torch.get_num_threads()
    parts = min(threads, max(1, depth // MIN_SLICES)) if torch.device(device).type == "cpu" else 1
    if parts == 1:
        return [function(0, depth)]
    bounds = [round(depth * k / parts) for k in range(parts + 1)]
    try:
        # the setting holds for the thread that makes it, and for threads that start later
        with ThreadPoolExecutor(parts, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, bounds[:-1], bounds[1:]))
    finally:
        torch.set_num_threads(threads)
