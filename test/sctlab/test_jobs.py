"""Jobs: what is a case's own fault, and what is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from rich.console import Console

from model import reading
from model.errors import InputError
from model.reading import read_volume
from sctlab.jobs import refuse_broken, run_jobs

QUIET = Console(quiet=True)


def test_a_worker_that_dies_breaks_its_jobs_and_says_so_once(capsys: pytest.CaptureFixture) -> None:
    outcomes = run_jobs(os._exit, [(f"case {k}", (9,)) for k in range(5)], title="dying", processes=2)
    assert all(o.broken and "worker ended" in o.error for o in outcomes)
    assert capsys.readouterr().err.count("worker ended") == 1
    with pytest.raises(InputError, match="dying: 5 of 5 cases weren't finished"):
        refuse_broken(outcomes, "dying")


def test_a_refused_case_is_not_broken(tmp_path: Path) -> None:
    (tmp_path / "damaged.mha").write_bytes(b"no header")
    (tmp_path / "damaged.nii.gz").write_bytes(b"not gzip")
    names = ("missing.mha", "damaged.mha", "damaged.nii.gz")
    outcomes = run_jobs(read_volume, [(n, (tmp_path / n,)) for n in names], title="reading", console=QUIET)
    assert not any(o.ok or o.broken for o in outcomes)
    refuse_broken(outcomes, "reading")


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError(), ValueError("a bug")])
def test_a_failing_system_is_no_fault_of_the_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(path: Path, *, max_voxels: int) -> None:
        raise error

    (tmp_path / "ct.mha").write_bytes(b"")
    monkeypatch.setattr(reading, "read_metaimage", failing)
    (outcome,) = run_jobs(read_volume, [("ct", (tmp_path / "ct.mha",))], title="reading", console=QUIET)
    assert outcome.broken
