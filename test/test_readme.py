"""The README's laboratory lines run as they are written, in one go, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sctlab_model.processors import THREAD_VARIABLES

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.heavy
def test_the_laboratory_lines_run_in_one_go(tmp_path: Path) -> None:
    section = README.read_text(encoding="utf-8").split("## The laboratory")[1]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    assert block[1].count("sctlab ") >= 6
    # One thread: tests run beside each other, and threads that wait for a core slow each other down.
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1")
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=900,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert (tmp_path / "evaluation" / "report.html").is_file()
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
