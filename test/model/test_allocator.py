"""Freed memory stays in the process, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from sctlab_model.allocator import SWITCH, keep_freed_memory

# Page faults of ten arrays of 80 MB, made and freed one after the other.
FAULTS = """
import resource, sys
import numpy as np
from sctlab_model.processors import start_process
if sys.argv[1] == "kept":
    start_process()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_large_blocks_are_used_again() -> None:
    found = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, how], capture_output=True, check=True, encoding="utf-8"
            ).stdout
        )
        for how in ("kept", "given back")
    }
    assert found["kept"] * 10 < found["given back"]


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "system")
    assert not keep_freed_memory()


def test_it_stays_out_of_the_way_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert not keep_freed_memory()
