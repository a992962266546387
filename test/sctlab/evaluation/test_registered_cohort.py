"""A cohort from simulation through registration to evaluation, through the command line alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sctlab.cli import app, run
from sctlab_model.cases import find_cohort
from sctlab_model.errors import ExitCode


def sctlab(*arguments: object) -> int:
    return run(lambda: app.main([str(a) for a in arguments], prog_name="sctlab", standalone_mode=False), debug=True)


@pytest.mark.heavy
def test_the_truth_as_a_prediction_is_off_by_the_references_own_error(tmp_path: Path) -> None:
    cohort, registered, out = tmp_path / "cohort", tmp_path / "registered", tmp_path / "out"
    assert (
        sctlab(
            "simulate",
            cohort,
            "--task",
            "mri",
            "--regions",
            "AB,HN,TH",
            "--cases",
            1,
            "--seed",
            4,
            "--spacing",
            "6,6,6",
            "--size",
            "64,56,28",
        )
        == ExitCode.OK
    )
    # Voxels of 6 mm and a rigid method that leaves the motion: the verdict of a case may be `failed`, which is no matter here.
    ended = sctlab("register", cohort, registered, "--method", "rigid", "--device", "cpu")
    assert ended in (ExitCode.OK, ExitCode.SOME_CASES_FAILED)
    assert not list(registered.rglob("failure.json"))
    pairs = registered / "rigid"
    cases = find_cohort(cohort)
    assert [c.id for c in find_cohort(pairs)] == [c.id for c in cases]
    for case in cases:
        truth = json.loads((pairs / case.folder.relative_to(cohort) / "quality.json").read_text())["truth"]
        assert 0 < truth["tre_mm"]["body"]["mean"] < 40
        assert truth["hu_floor"]["mae"] > 0
        (tmp_path / "predictions").mkdir(exist_ok=True)
        shutil.copy(case.folder / "truth" / "ct_aligned.mha", tmp_path / "predictions" / f"sct_{case.id}.mha")

    assert (
        sctlab("evaluate", tmp_path / "predictions", "--cohort", pairs, "--truth", cohort, "--round-trip", "--out", out)
        == ExitCode.OK
    )
    assert (out / "report.html").stat().st_size > 10_000
    records = json.loads((out / "details.json").read_text())["cases"]
    assert [r["id"] for r in records] == [c.id for c in cases]
    for record in records:
        metrics = record["metrics"]
        assert metrics["mae_truth"] == 0
        assert metrics["reference_error"] > 5  # rigid leaves the breathing and the bladder
        assert metrics["bias"] == pytest.approx(metrics["reference_error"])
        assert 0 < metrics["round_trip"] < metrics["reference_error"]
        assert record["registration"]["method"] == "rigid"
        assert record["registration"]["convention"] == "ct_to_source"
