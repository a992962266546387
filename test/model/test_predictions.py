"""A folder's record: merged by case key, under a lock; older files are read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sctlab_model.case_output import without_paths
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.prediction_merging import merge_predictions
from sctlab_model.predictions import (
    CaseResult,
    PredictionRecord,
    read_predictions,
)


def test_keys_are_written_and_read_back() -> None:
    for key in (CaseKey(Task.MRI, Region.AB, "1ABA001"), CaseKey(Task.CBCT, None, "a/b c")):
        assert CaseKey.parse(str(key)) == key
    for text in ("", "Task3/AB/x", "Task1/AB", "Task1/XX/x", "Task1/AB/"):
        with pytest.raises(InputError):
            CaseKey.parse(text)


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: merge_predictions(tmp_path, {f"Task1/AB/{k}": CaseResult(output=f"{k}")}), range(60)))
    assert len(read_predictions(tmp_path).cases) == 60
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.json"]


def test_a_failure_does_not_displace_a_result(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(b"")
    merge_predictions(tmp_path, {"Task1/-/a": CaseResult(output="a.mha", folds=[1])})
    failed = CaseResult(state="failed", error="x")
    assert merge_predictions(tmp_path, {"Task1/-/a": failed}).cases["Task1/-/a"].state == "done"
    (tmp_path / "a.mha").unlink()
    assert merge_predictions(tmp_path, {"Task1/-/a": failed}).cases["Task1/-/a"].state == "failed"


def test_older_records_are_read(tmp_path: Path) -> None:
    bundle = {"name": "w", "weights_sha256": ["0" * 64], "training_cases": {"AB+TH/0": ["1ABA009"]}}
    cases = [
        {"case": "1ABA001", "folds": [0], "output": "AB/1ABA001.mha"},
        {"case": "2THA001", "folds": [0], "output": "sct_2THA001.mha"},
        {"case": "x", "error": "bad"},
    ]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps({"bundles": {"mri": bundle, "cbct": bundle}, "cases": cases}))
    record = PredictionRecord.read(path)
    assert set(record.cases) == {"Task1/AB/1ABA001", "Task2/TH/2THA001"}  # the task of x can't be told
    assert [f.training_cases for u in record.bundles.values() for f in u.folds] == [("1ABA009",)] * 2
    path.write_text(json.dumps({"bundles": {"mri": bundle}, "cases": cases[2:]}))
    assert PredictionRecord.read(path).cases["Task1/-/x"].state == "failed"
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match="newer release"):
        PredictionRecord.read(path)


def test_messages_lose_their_folders() -> None:
    assert without_paths("/data/Miller/scan.mha: truncated") == "scan.mha: truncated"
    assert without_paths("in/Miller/a.mha: x", (Path("in/Miller"),)) == "a.mha: x"
    assert without_paths("1/2 of 3 HU") == "1/2 of 3 HU"
