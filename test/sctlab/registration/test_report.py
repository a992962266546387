"""The cohort report from files alone: order, reasons, nothing loaded from elsewhere, hostile names."""

import json
import re

import pytest
from PIL import Image

from sctlab.cohort.exclusions import excluded_keys, read_exclusions
from sctlab.registration.report import find_results, write_report
from sctlab_model.errors import InputError


def quality(distance: float, folds: float = 0.0) -> dict:
    summary = {"mean": 1.0, "median": 1.0, "p95": 2.0, "max": 3.0}
    before = {"nmi": 1.05, "feature_distance": 0.3, "edges": 0.3}
    return {
        "similarity": {"before": before, "after": {"nmi": 1.2, "feature_distance": distance, "edges": 0.6}},
        "overlap": {
            "field_of_view": 0.97,
            "before": {"body_dice": 0.9, "label_dice": None},
            "after": {"body_dice": 0.98, "label_dice": {"mean": 0.8, "1": 0.8}},
        },
        "field": {
            "displacement_mm": summary,
            "deformation_mm": summary,
            "jacobian": {"minimum": 0.4, "folds": folds, "log_std": 0.1, "p1": 0.5, "p99": 1.5, "maximum": 2.0},
        },
        "inverse_consistency_mm": None,
        "preset_spread_mm": summary,
        "truth": None,
        "seconds": 12.3,
    }


@pytest.fixture
def registered(tmp_path):
    root = tmp_path / "impact"
    for number in range(9):
        folder = root / f"Task1/AB/1ABA00{number}"
        folder.mkdir(parents=True)
        (folder / "quality.json").write_text(json.dumps(quality(0.2 + 0.001 * number, 0.02 if number == 4 else 0.0)))
        (folder / "pair.json").write_text(json.dumps({"notes": ["rigidity <left> out"]}))
        Image.new("RGB", (1800, 60), (number * 20, 0, 0)).save(folder / "overview.png")
    broken = root / "Task1/AB/1ABA009"
    broken.mkdir()
    (broken / "failure.json").write_text(json.dumps({"error": "<script>alert(1)</script> no overlap"}))
    (root / "Task1/AB/.partial-1ABA010").mkdir()
    return root


def test_worst_first_with_reasons_pictures_and_a_list(registered):
    exclude = write_report(registered)
    assert set(exclude) == {"1ABA004", "1ABA009"}
    assert exclude["1ABA004"].startswith("folds 0.02")
    stored = json.loads((registered / "exclusions.json").read_text())
    assert stored["exclude"] == exclude
    assert stored["cases"] == 10
    page = (registered / "report.html").read_text(encoding="utf-8")
    order = re.findall(r'<figure id="Task1-AB-(\w+)">', page)
    assert order[0] == "1ABA004"
    assert len(order) == 9
    assert page.count("data:image/jpeg;base64,") == 9
    assert "<script>alert" not in page
    assert "rigidity &lt;left&gt; out" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "2.00%" in page


def test_cases_of_one_id_are_told_apart(registered):
    """Both would be left out by the id of one."""
    other = registered / "Task1/HN/1ABA004"
    other.mkdir(parents=True)
    (other / "quality.json").write_text(json.dumps(quality(0.2)))
    (other / "pair.json").write_text("{}")
    exclude = write_report(registered)
    assert set(exclude) == {"Task1/AB/1ABA004", "1ABA009"}
    keys = [str(e.key) for e in find_results(registered)]
    assert set(excluded_keys(read_exclusions(registered / "exclusions.json"), keys, "list")) == {
        "Task1/AB/1ABA004",
        "Task1/AB/1ABA009",
    }


@pytest.mark.parametrize("name", ["quality.json", "pair.json"])
def test_a_damaged_record_is_its_own_case_s_failure(registered, name):
    (registered / "Task1/AB/1ABA002" / name).write_text("{")
    (registered / "Task1/AB/1ABA003/overview.png").write_bytes(b"no picture")
    exclude = write_report(registered)
    assert set(exclude) == {"1ABA002", "1ABA004", "1ABA009"}
    assert f"{name}: not JSON" in exclude["1ABA002"]
    assert (registered / "report.html").read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 7


def test_one_result_by_its_own_folder(registered):
    folder = registered / "Task1/AB/1ABA003"
    assert [e.folder for e in find_results(folder)] == [folder]
    write_report(folder)
    assert json.loads((folder / "exclusions.json").read_text())["cases"] == 1
    assert set(write_report(registered / "Task1/AB/1ABA009")) == {"1ABA009"}  # one that failed


def test_a_whole_output_folder_and_an_empty_one_are_told_apart(registered, tmp_path):
    assert len(find_results(registered)) == 10
    with pytest.raises(InputError, match="no registered case"):
        find_results(tmp_path)
