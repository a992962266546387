"""Quotas of both versions of control groups, and busy machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sctlab_model import processors


@pytest.mark.parametrize(
    ("version", "files", "expected"),
    [
        (2, {"cpu.max": "150000 100000\n"}, [1.5]),
        (2, {"cpu.max": "max 100000\n"}, []),
        (1, {"cpu.cfs_quota_us": "200000\n", "cpu.cfs_period_us": "100000\n"}, [2.0]),
        (1, {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, []),
        (1, {}, []),
    ],
)
def test_quotas_of_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, files: dict, expected: list
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(processors, "control_groups", lambda _: [(tmp_path, version)])
    assert processors.cpu_quotas() == expected


@pytest.mark.parametrize(("idle", "threads"), [(8.0, None), (5.0, None), (2.2, "2"), (0.0, "1"), (None, None)])
def test_threads_follow_what_others_leave(monkeypatch: pytest.MonkeyPatch, idle: float | None, threads: str) -> None:
    monkeypatch.setattr(processors, "_affinity", lambda: 8)
    monkeypatch.setattr(processors, "cpu_quotas", list)
    monkeypatch.setattr(processors, "idle_cpus", lambda: idle)
    for name in processors.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")  # the user's own setting stays
    processors.heed_quota()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    assert os.environ["MKL_NUM_THREADS"] == "7"
    for name in processors.THREAD_VARIABLES:
        os.environ.pop(name, None)


@pytest.mark.parametrize(("own", "turns"), [(None, "0"), ("ACTIVE", "30000000000")])
@pytest.mark.parametrize("package", ["sctlab_model", "sctlab"])
def test_waiting_threads_sleep_in_a_script_too_unless_the_user_decides(
    package: str, own: str | None, turns: str
) -> None:
    """OpenMP itself says what it read when PyTorch loaded it."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_DISPLAY_ENV": "verbose"}
    if own is not None:
        environment["OMP_WAIT_POLICY"] = own
    script = f"import {package}; import torch"
    said = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, encoding="utf-8", check=True, timeout=300
    ).stderr
    assert f"GOMP_SPINCOUNT = '{turns}'" in said
