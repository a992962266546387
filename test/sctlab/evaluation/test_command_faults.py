"""`sctlab evaluate` on damaged, missing and unwanted files: what is named, left out or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_command import alter, details_of, evaluate, other_shape

from sctlab_model.errors import ExitCode


def _nan(path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    image[5, 5, 5] = float("nan")
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.unlink(), "no prediction"),
        (lambda p: shutil.copy(p, p.with_name("sct_1ABA002.mha")), "several predictions"),
        (other_shape, "44x40x23"),
        (_nan, "NaN"),
        (lambda p: alter(p, lambda a: (a / 1000).astype(np.float32)), "normalised"),
        (lambda p: alter(p, lambda a: (a.astype(np.int32) + 1200).clip(0).astype(np.uint16)), "offset"),
        (lambda p: p.write_bytes(b"no image"), "1ABA002"),
    ],
    ids=["missing", "duplicate", "shape", "nan", "normalised", "offset", "damaged"],
)
def test_one_bad_case_is_named_and_stops_no_other(root: Path, damage, reason: str) -> None:
    damage(root / "predictions/AB/1ABA002.mha")
    assert evaluate(root, "--challenge-only") == ExitCode.SOME_CASES_FAILED
    details = details_of(root)
    assert [c["id"] for c in details["cases"]] == ["1ABA001", "1HNA001"]
    assert reason in details["left_out"]["Task1/AB/1ABA002"]


def test_what_is_left_out_stands_in_the_report(root: Path) -> None:
    (root / "predictions/AB/1ABA002.mha").unlink()
    evaluate(root, "--challenge-only", report=True)
    page = (root / "out/report.html").read_text(encoding="utf-8")
    assert "no prediction; predict it" in page[page.index("Left out") :]


def test_bad_references_are_named_too(root: Path) -> None:
    alter(root / "cohort/Task1/AB/1ABA001/ct.mha", lambda a: (a + 1024).astype(np.uint16))
    alter(root / "cohort/Task1/AB/1ABA002/mask.mha", np.zeros_like)
    assert evaluate(root, "--challenge-only") == ExitCode.SOME_CASES_FAILED
    left_out = details_of(root)["left_out"]
    assert "the reference runs from" in left_out["Task1/AB/1ABA001"]
    assert "empty mask" in left_out["Task1/AB/1ABA002"]


def test_nothing_to_score_is_an_input_error(root: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(root / "predictions/AB")
    shutil.rmtree(root / "predictions/HN")
    assert evaluate(root) == ExitCode.BAD_INPUT
    assert not (root / "out").exists()
    assert "no case could be scored" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--only", "1ABA009"),
        ("--labels", "nowhere"),
        ("--segmenter", "nowhere.pt"),
        ("--device", "tpu"),
        ("--device", "cuda:99"),
        ("--task", "cbct"),
    ],
)
def test_wrong_options(root: Path, options: tuple[str, str]) -> None:
    assert evaluate(root, *options) == ExitCode.BAD_INPUT
