"""Bad input is refused before PyTorch is imported, which alone takes seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Every command in one process: what one of them had imported would be seen after all that follow.
PROGRAM = """
import json, sys
from sctlab.cli import main
ended = {}
for line in json.loads(sys.argv[1]):
    try:
        main(line.split())
    except SystemExit as end:
        ended[line] = end.code, [name for name in ("torch", "scipy.stats") if name in sys.modules]
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def startup() -> ModuleType:
    """`benchmarks/startup.py`, which measures the same commands."""
    spec = importlib.util.spec_from_file_location("startup", ROOT / "benchmarks" / "startup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_command_imports_pytorch_to_refuse_its_input(startup: ModuleType, tmp_path: Path) -> None:
    startup.make_wrong_files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    lines = startup.REFUSED.strip().splitlines()
    listed = startup.LISTED.strip().splitlines()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(listed + lines)],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        env=os.environ | dict.fromkeys(("SCTLAB_WEIGHTS", "SCTLAB_FEATURES"), str(tmp_path / "weights")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ended = json.loads(done.stdout.splitlines()[-1])
    assert list(ended) == listed + lines
    assert [ended.pop(line) for line in listed] == [[0, []]] * len(listed)
    assert {line: end for line, end in ended.items() if end[0] not in (2, 3) or end[1]} == {}
    assert done.stderr.count("error: ") == len(lines)  # one sentence each, and no trace
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "weights") == before
