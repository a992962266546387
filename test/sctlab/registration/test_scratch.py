"""Folders aside: they vanish, and what a killed process left is told from what is in use."""

import os
import subprocess
import sys
from pathlib import Path

from sctlab.registration.scratch import remove_stale, scratch_folder

KILLED = """
import os, sys
from pathlib import Path
from sctlab.registration.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), ".partial-") as folder:
    (folder / "half.mha").write_text("x")
    os.kill(os.getpid(), 9)
"""


def test_a_folder_goes_with_its_block_unless_it_was_moved(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, ".a-") as lost, scratch_folder(tmp_path, ".a-") as kept:
        (lost / "file").write_text("")
        kept.rename(tmp_path / "result")
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_only_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    (left,) = tmp_path.iterdir()
    remove_stale(tmp_path, ".partial-")
    assert left.is_dir()  # too young to tell
    (tmp_path / "case").mkdir()
    with scratch_folder(tmp_path, ".partial-") as used:
        for folder in tmp_path.iterdir():
            os.utime(folder, (0, 0))
        remove_stale(tmp_path, ".partial-")
        assert {p.name for p in tmp_path.iterdir()} == {used.name, "case"}
    remove_stale(tmp_path / "none", ".partial-")


def test_a_folder_can_be_its_owner_s_alone(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "open-") as shared, scratch_folder(tmp_path, "closed-", mode=0o700) as private:
        assert private.stat().st_mode & 0o777 == 0o700
        assert shared.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
