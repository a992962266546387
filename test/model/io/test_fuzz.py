"""Thousands of injured files of every format in half a minute; `benchmarks/fuzz.py` reads a hundred thousand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[3] / "benchmarks/fuzz.py"


@pytest.mark.heavy
def test_injured_files_never_crash_hang_print_grow_or_pass_wrong(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    command = [
        sys.executable,
        str(FUZZ),
        "--files",
        "3200",
        "--child-files",
        "100",
        "--seconds",
        "60",
        "--out",
        str(out),
    ]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    result = json.loads(out.read_text())
    assert result["parsed"]["faults"] + result["child"]["faults"] == []
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    # The test is worth nothing if everything is refused, or nothing read.
    for part, least in (("parsed", 20), ("child", 3)):
        for kind, outcomes in result[part]["outcomes"].items():
            assert outcomes["accepted"] >= least, kind
            assert outcomes["refused"] >= least, kind


@pytest.mark.parametrize("fault", ["crash", "hang", "print", "wrong voxels", "escape"])
def test_the_harness_sees_every_fault(tmp_path: Path, fault: str) -> None:
    """A reader with a fault, put in the place of ours."""
    broken = {
        "crash": "ctypes.string_at(0)",
        "hang": "time.sleep(60)",
        "print": "print('x', flush=True)",
        "wrong voxels": "volume.array[0, 0, 0] += 1",
        "escape": "raise RuntimeError('x')",
    }[fault]
    (tmp_path / "sitecustomize.py").write_text(f"""
import sys
if "--worker" in sys.argv:
    import ctypes, time
    from sctlab_model.io import reading
    real = reading.read_volume
    def read_volume(path, **options):
        volume = real(path, **options)
        {broken}
        return volume
    reading.read_volume = read_volume
""")
    command = [sys.executable, str(FUZZ), "--files", "40", "--child-files", "0", "--seconds", "45", "--hang", "2"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8", env={"PYTHONPATH": str(tmp_path)}, check=False)
    assert run.returncode == 1, run.stderr
    seen = {f["fault"].split(" ")[0] for f in json.loads(run.stdout)["parsed"]["faults"]}
    assert {"crash": "CRASH", "hang": "HANG", "print": "PRINTED", "wrong voxels": "WRONG", "escape": "ESCAPED"}[
        fault
    ] in seen
