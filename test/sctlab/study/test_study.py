"""The whole of a tiny study."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sctlab.features.trust import trust_file
from sctlab.reporting import number, render
from sctlab.study.cells import StudyFiles
from sctlab.study.plan import load_study
from sctlab_model.errors import ExitCode


class HighIsOrgan(torch.nn.Module):
    """What is above 30 HU is the spinal cord (79), a class of the head and neck."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 30).float() * 79.0


@pytest.mark.heavy
def test_a_tiny_study_from_nothing_and_again(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    from sctlab.study.report import report_study
    from sctlab.study.run import run_study

    torch.jit.script(HighIsOrgan()).save(str(tmp_path / "organs.pt"))
    trust_file(tmp_path / "organs.pt")
    more = f"device: cpu\nfeatures: [mind]\nsegmenter: {tmp_path / 'organs.pt'}"
    plan, out = load_study(str(tiny(("device: cpu", more)))), tmp_path / "out"
    result = run_study(plan, out)
    assert result.exit_code is ExitCode.OK, result.failed
    with (out / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2  # trainings, references, cases
    assert all(float(r["d_mind"]) > 0 <= float(r["DICE"]) for r in rows)
    kept = sorted(out.glob("labels/*/**/*.mha"))
    assert len(kept) == 2 * 2  # references and cases: labelled once for both trainings
    planted = json.loads((out / "results.json").read_text(encoding="utf-8"))["references"]
    means = {e["quantity"]: e["mean"] for e in planted if e["name"] == "shift"}
    assert means["dy_mm"] == pytest.approx(5, abs=1.5)
    assert 0.5 < means["DICE"] < 1
    trained = {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")}
    assert len(trained) == 4
    report_study(out)
    assert "seeds 0;" in (out / "report.html").read_text(encoding="utf-8")
    assert all(StudyFiles(plan, out).finished(cell, fold) for cell in StudyFiles(plan, out).cells for fold in (0, 1))
    run_study(plan, out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")} == trained
    # a cohort that is not there is named; the other one keeps its trainings and its report
    gone = plan.changed(cohorts={"gone": {"folder": tmp_path / "gone", "task": "mri"}, **plan.cohorts})
    result = run_study(gone, out)
    assert result.exit_code is ExitCode.SOME_CASES_FAILED
    assert "gone" in result.failed
    assert {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")} == trained
    assert report_study(out).is_file()


def test_a_report_without_registered_references_has_no_map_of_them() -> None:
    """Losses compared on the truth alone leave some figures out."""
    page = render(
        "study.html", title="Losses", subtitle="", failed={}, methods="", matrices=[], lists=[], agreeing=[], slopes=[],
        rankings=[], spread=[], figures={"slices": "data:image/png;base64,AA=="}, number=number,
    )  # fmt: skip
    assert "The same slice under every training" in page
    assert "Mean displacement of the references" not in page
