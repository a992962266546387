"""Memory and processors that the system and its control groups of both versions leave to this process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sctlab_model import limits, processors
from sctlab_model.errors import ResourceError
from sctlab_model.limits import available_memory, check_memory, control_groups

GB = 10**9


def groups(folder: Path, version: int, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree of control groups; `files` are paths below the controller's folder."""
    root = folder / "cgroup"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if version == 2:
        (root / "cgroup.controllers").write_text("cpu memory")
    listing = folder / "self"
    listing.write_text(own)
    return root, listing


def use(monkeypatch: pytest.MonkeyPatch, tree: tuple[Path, Path]) -> None:
    real = control_groups
    for module in (limits, processors):
        monkeypatch.setattr(module, "control_groups", lambda name: real(name, *tree))


@pytest.mark.parametrize(
    ("version", "own", "files", "left"),
    [
        (2, "0::/\n", {"memory.max": f"{4 * GB}", "memory.current": f"{GB}", "memory.stat": "inactive_file 500000000\n"}, 3.5),
        (2, "0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": f"{2 * GB}", "a/memory.current": "0"}, 2),
        (2, "0::/a\n", {"a/memory.max": f"{3 * GB}", "memory.max": f"{2 * GB}"}, 2),
        (2, "0::/../../outside\n", {"memory.max": f"{2 * GB}"}, 2),
        (1, "7:memory:/docker/x\n0::/x\n", {"memory/memory.limit_in_bytes": f"{3 * GB}",
            "memory/memory.usage_in_bytes": f"{2 * GB}", "memory/memory.stat": "total_inactive_file 1000000000"}, 2),
        (1, "7:cpu,memory:/x\n", {"cpu,memory/x/memory.limit_in_bytes": f"{GB}"}, 1),
        (1, "7:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712"}, 50),
    ],
)  # fmt: skip
def test_memory_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, own: str, files: dict[str, str], left: float
) -> None:
    use(monkeypatch, groups(tmp_path, version, own, files))
    monkeypatch.setattr(limits, "_system", lambda: [50 * GB])
    monkeypatch.setattr(limits, "_own_limit", lambda: [])
    assert available_memory() == left * GB


@pytest.mark.parametrize(
    ("version", "own", "files", "count"),
    [
        (2, "0::/\n", {"cpu.max": "200000 100000"}, 2),
        (2, "0::/a\n", {"cpu.max": "max 100000", "a/cpu.max": "max 100000"}, 64),
        (2, "0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "400000 100000"}, 1),
        (1, "4:cpu,cpuacct:/docker/x\n", {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 3),
        (1, "4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 64),
        (1, "", {}, 64),
    ],
)  # fmt: skip
def test_processors_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, own: str, files: dict[str, str], count: int
) -> None:
    use(monkeypatch, groups(tmp_path, version, own, files))
    monkeypatch.setattr(processors, "_affinity", lambda: 64)
    assert processors.available_cpus() == count


def test_the_process_own_limit_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)\n"
        "from sctlab_model.limits import available_memory; print(available_memory())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert 0 < int(run.stdout) < 2 << 30


def test_both_figures_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 2 * GB)
    check_memory("a.mha", 2 * GB, "an image")
    with pytest.raises(
        ResourceError, match=r"a\.mha: an image needs about 15\.0 GB of memory; expected at most 2\.0 GB"
    ) as caught:
        check_memory("a.mha", 15 * GB, "an image")
    assert caught.value.exit_code == 6
    monkeypatch.setattr(limits, "available_memory", lambda: None)
    check_memory("a.mha", 10**15, "nobody knows")
