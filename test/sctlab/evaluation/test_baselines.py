"""What a body of water would score stands in comparisons and rankings, and takes no place."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab.evaluation.compare import compare_evaluations
from sctlab.evaluation.rank import rank_evaluations, table
from sctlab.evaluation.records import DETAILS, CaseRecord, EvaluationRecord


def _write(folder: Path, mae: float) -> Path:
    cases = [
        CaseRecord(
            id=f"1ABA00{k}",
            region="AB",
            task="mri",
            prediction="sct.mha",
            reference="ct.mha",
            metrics={"mae": mae + k, "HD95": 2.0},
            baselines={"all water": {"mae": 150.0 + k, "psnr": 20.0}},
        )
        for k in range(3)
    ]
    EvaluationRecord(predictions="p", cohort="c", cases=cases).write(folder / DETAILS)
    return folder


def test_a_comparison_shows_what_a_method_must_beat(tmp_path: Path) -> None:
    comparison = compare_evaluations(_write(tmp_path / "a", 60), _write(tmp_path / "b", 50), tmp_path / "out")
    (baseline,) = comparison.record.baselines
    assert (baseline.region, baseline.metric, baseline.name, baseline.count) == ("AB", "mae", "all water", 3)
    assert baseline.mean_a == baseline.mean_b == pytest.approx(151)
    labels = [row[0] for row in comparison.rows("AB")]
    assert labels == ["MAE (HU)", "MAE, all water", "HD95 (mm)"]
    assert "MAE, all water" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")


def test_a_ranking_shows_it_below_the_methods_without_a_place(tmp_path: Path) -> None:
    folders = [_write(tmp_path / "a", 60), _write(tmp_path / "b", 50)]
    result = rank_evaluations(folders, tmp_path / "out", samples=10)
    assert result.record.baselines == {"all water": {"mae": pytest.approx(151)}}
    header, rows = table(result.record)
    assert [row[:2] for row in rows] == [["1", "b"], ["2", "a"], ["–", "all water"]]
    assert all(len(row) == len(header) for row in rows)
    assert rows[2][header.index("MAE (HU)")] == "151.00"
    assert 'class="muted"' in (tmp_path / "out" / "ranking.html").read_text(encoding="utf-8")
