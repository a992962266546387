"""The whole of a tiny study."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sctlab.features.trust import trust_file
from sctlab.reporting import number, render
from sctlab.study.cells import StudyFiles
from sctlab.study.plan import StudyPlan, load_study
from sctlab.study.run import run_study
from sctlab_model.errors import ExitCode


class HighIsOrgan(torch.nn.Module):
    """What is above 30 HU is the spinal cord (79), a class of the head and neck."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 30).float() * 79.0


@pytest.mark.heavy
def test_a_tiny_study_from_nothing_and_again(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    from sctlab.study.report import report_study

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
    real = real_images(plan, out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")} == trained
    measured = {p: p.stat().st_mtime_ns for p in out.glob("real/*/measures.json")}
    # a cohort that is not there is named; the other one keeps its trainings and its report
    real |= {"stand-in": real["stand-in"] | {"ct": tmp_path / "gone.mha"}}
    gone = plan.changed(cohorts={"gone": {"folder": tmp_path / "gone", "task": "mri"}, **plan.cohorts}, real=real)
    result = run_study(gone, out)
    assert result.exit_code is ExitCode.SOME_CASES_FAILED
    assert "gone" in result.failed
    # so is a real image of which something has gone; the other one is not predicted again, and keeps its rows
    assert sum("gone.mha" in reason for reason in result.failed.values()) == 1 + 2 * 2
    assert {p: p.stat().st_mtime_ns for p in out.glob("real/*/measures.json")} == measured
    assert (out / "real.csv").read_text(encoding="utf-8").count("unlabelled") == 2 * 2
    assert {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")} == trained
    assert report_study(out).is_file()


def real_images(plan: StudyPlan, out: Path) -> dict[str, dict[str, Any]]:
    """An image of the cohort stands in for a real one: it is predicted by every network, and none is trained again."""
    folder = next(out.glob("cohorts/*/Task1/HN/*"))
    image = {
        "source": folder / "mr.mha",
        "task": "mri",
        "region": "HN",
        "labels": folder / "truth" / "labels_source.mha",
        "organs": {"spinal_cord": {"labels": [79], "hu": [20, 60]}, "liver": {"labels": [5], "hu": [40, 70]}},
        "segmenter": plan.segmenter,
        "ct": folder / "truth" / "ct_aligned.mha",
    }
    real = {"stand-in": image, "unlabelled": {k: image[k] for k in ("source", "task")}}
    result = run_study(plan.changed(real=real), out)
    assert result.exit_code is ExitCode.OK, result.failed
    with (out / "real.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [r["train"] for r in rows].count("own CT") == 1
    made = [r for r in rows if r["train"] != "own CT"]
    assert len(made) == 2 * 2 * 2  # trainings, folds, images
    own = next(r for r in rows if r["train"] == "own CT")
    assert float(own["edge_agreement_input"]) > max(float(r["edge_agreement_input"]) for r in made)
    assert abs(float(own["input_dy_mm"])) < 2
    for row in made:
        assert bool(row["hu_distance"]) == bool(row["dice_input"]) == (row["image"] == "stand-in")
    labelled = [r for r in made if r["image"] == "stand-in"]
    for row in labelled:  # no liver in a head
        mean = float(row["hu_spinal_cord"])
        assert float(row["organs_outside"]) == pytest.approx(max(20 - mean, mean - 60, 0), abs=0.01)
        assert 0 <= float(row["dice_spinal_cord"]) == float(row["dice_input"]) <= 1
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Real images, judged without a registration" in page
    assert "expected 20 to 60" in page
    assert (out / "figures" / "real.png").is_file()
    assert len(list(out.glob("real/*/measures.json"))) == len(rows)
    return real


def test_a_report_without_registered_references_has_no_map_of_them() -> None:
    """Losses compared on the truth alone leave some figures out."""
    page = render(
        "study.html", title="Losses", subtitle="", failed={}, methods="", matrices=[], lists=[], agreeing=[], slopes=[],
        rankings=[], real=[], spread=[], figures={"slices": "data:image/png;base64,AA=="}, number=number,
    )  # fmt: skip
    assert "The same slice under every training" in page
    assert "Mean displacement of the references" not in page
