"""`evaluate_cohort` as a function: silent, typed, and exact about which case is which."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_cohort import write_cohort, write_provenance

from sctlab.evaluation.cohort import evaluate_cohort
from sctlab.evaluation.compare import compare_evaluations
from sctlab.evaluation.records import EvaluationRecord, read_evaluation
from sctlab.evaluation.settings import EvaluationSettings
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.monitor import Monitor

QUICK = EvaluationSettings(challenge_only=True, report=False)


class Listener(Monitor):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.warnings: list[str] = []

    def progress(self, done: int, total: int, label: str = "") -> None:
        self.steps.append((done, total))

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cohort(tmp_path, ("1ABA001", "1ABA002"))
    write_provenance(tmp_path / "predictions")
    return tmp_path


def test_it_returns_records_and_prints_nothing(root: Path, capfd: pytest.CaptureFixture) -> None:
    listener = Listener()
    result = evaluate_cohort(root / "predictions", root / "cohort", settings=QUICK, monitor=listener)
    assert capfd.readouterr() == ("", "")
    assert listener.steps[-1] == (2, 2)
    assert result.exit_code == ExitCode.OK
    assert [c.key for c in result.cases] == ["Task1/AB/1ABA001", "Task1/AB/1ABA002"]
    assert result.out is None


def test_the_record_comes_back_as_it_was_written(root: Path) -> None:
    result = evaluate_cohort(root / "predictions", root / "cohort", root / "out", EvaluationSettings(report=False))
    assert read_evaluation(root / "out") == result.record
    with (root / "out/metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    case = result.cases[0]
    assert float(row["mae_hu_fat"]) == pytest.approx(case.tissues["fat"]["mae_hu"])
    assert float(row["mae_all_water"]) == pytest.approx(case.baselines["all water"]["mae"])
    assert case.baselines["all water"]["mae"] > case.metrics["mae"]
    assert "raw image" not in case.baselines  # an MR's values are no HU


def test_an_evaluation_of_an_older_release_is_still_read(root: Path) -> None:
    result = evaluate_cohort(root / "predictions", root / "cohort", settings=QUICK)
    old = result.record.model_dump(mode="json")
    del old["version"]
    write_json(root / "old" / "details.json", {"format": 1} | old)
    assert read_evaluation(root / "old").cases == result.cases
    write_json(root / "new" / "details.json", old | {"version": EvaluationRecord.current_version + 1})
    with pytest.raises(InputError, match="newer release"):
        read_evaluation(root / "new")


def _second_task(root: Path) -> None:
    """The same id in the other task and in another region of the first."""
    first = root / "cohort/Task1/AB/1ABA001"
    shutil.copytree(first, root / "cohort/Task2/AB/1ABA001")
    (root / "cohort/Task2/AB/1ABA001/mr.mha").rename(root / "cohort/Task2/AB/1ABA001/cbct.mha")
    shutil.copytree(first, root / "cohort/Task1/TH/1ABA001")


def test_one_id_in_two_tasks_and_regions_is_three_cases(root: Path) -> None:
    _second_task(root)
    source = root / "predictions/AB/1ABA001.mha"
    predictions = root / "several"
    for index, place in enumerate(("Task1/AB", "Task1/TH", "Task2/AB")):
        volume = read_volume(source)
        write_volume(volume.with_array(volume.array + 10 * index), predictions / place / "1ABA001.mha")
    shutil.copy(root / "predictions/AB/1ABA002.mha", predictions / "Task1/AB")
    result = evaluate_cohort(predictions, root / "cohort", root / "out", QUICK)
    assert result.exit_code == ExitCode.OK
    errors = {c.key: c.metrics["mean_error"] for c in result.cases}
    assert set(errors) == {f"{p}/1ABA001" for p in ("Task1/AB", "Task1/TH", "Task2/AB")} | {"Task1/AB/1ABA002"}
    assert errors["Task1/TH/1ABA001"] == pytest.approx(errors["Task1/AB/1ABA001"] + 10)
    assert errors["Task2/AB/1ABA001"] == pytest.approx(errors["Task1/AB/1ABA001"] + 20)
    comparison = compare_evaluations(root / "out", root / "out")
    assert comparison.record.differences[0].count == 4


def test_a_file_that_may_be_two_cases_is_scored_as_neither(root: Path) -> None:
    _second_task(root)
    (root / "predictions/predictions.json").unlink()
    result = evaluate_cohort(root / "predictions", root / "cohort", settings=QUICK)
    assert result.exit_code == ExitCode.SOME_CASES_FAILED
    assert [c.key for c in result.cases] == ["Task1/AB/1ABA002"]
    assert "may be this case or another of the same id" in result.record.left_out["Task2/AB/1ABA001"]
    assert "no prediction" in result.record.left_out["Task1/TH/1ABA001"]
    one = EvaluationSettings(challenge_only=True, report=False, task="cbct")
    only = evaluate_cohort(root / "predictions", root / "cohort", settings=one)
    assert [c.key for c in only.cases] == ["Task2/AB/1ABA001"]  # as the message advises
    assert only.exit_code == ExitCode.OK


def test_a_simulated_cohort_is_scored_against_its_aligned_truth(root: Path) -> None:
    for folder in (root / "cohort/Task1/AB").iterdir():
        (folder / "pair.json").unlink()
    listener = Listener()
    result = evaluate_cohort(
        root / "predictions", root / "cohort", settings=EvaluationSettings(report=False), monitor=listener
    )
    assert all(Path(c.reference).name == "ct_aligned.mha" for c in result.cases)
    assert any("simulated and not registered" in w for w in listener.warnings)
    assert not any("can't be ruled out" in w for w in listener.warnings)
    assert "bias" not in result.cases[0].metrics  # the truth has none against itself
    named = evaluate_cohort(
        root / "predictions", root / "cohort", settings=EvaluationSettings(report=False, reference="ct")
    )
    assert named.record.reference_notes == []
    assert named.cases[0].metrics["mae"] > result.cases[0].metrics["mae"]


def test_the_control_of_two_registrations(root: Path) -> None:
    from sctlab.transforms.data import AffineTransform
    from sctlab.transforms.itk_files import write_itk

    other = root / "other"
    shutil.copytree(root / "cohort", other)
    one = "Task1/AB/1ABA001"
    write_itk(AffineTransform(np.eye(3), (8.0, 0.0, 0.0)), root / "cohort" / one / "transform.h5")

    def control(shift_mm: float, convention: str) -> float:
        write_itk(AffineTransform(np.eye(3), (shift_mm, 0.0, 0.0)), other / one / "transform.h5")
        write_json(other / one / "pair.json", {"method": "impact", "convention": convention})
        settings = EvaluationSettings(report=False, control=other, only=("1ABA001",))
        (case,) = evaluate_cohort(root / "predictions", root / "cohort", settings=settings).cases
        return case.metrics["control"]

    assert control(8.0, "ct_to_source") == 0  # the same registration twice
    assert control(-8.0, "source_to_ct") == 0  # the other direction: the inverse motion
    assert control(12.0, "ct_to_source") > 5  # they disagree by a voxel
    assert control(-12.0, "source_to_ct") > 5
