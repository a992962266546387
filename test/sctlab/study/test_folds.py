"""Which cases of a cohort from elsewhere a study uses: one that can't be read must not end the folds that predict it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.study.cells import StudyFiles
from sctlab.study.folds import split_of, study_cases, usable_pairs
from sctlab.study.plan import load_study
from sctlab.study.run import run_study
from sctlab_model.errors import InputError
from sctlab_model.monitor import Monitor

PLAN = """
cohorts: {real: {folder: FOLDER, task: mri}}
pairs: {rigid: {kind: rigid}}
folds: 2
device: cpu
"""


def write_case(folder: Path, seed: int, **changed: np.ndarray) -> None:
    """A block of noise in air, its CT and its mask; SimpleITK writes also what nobody should."""
    rng = np.random.default_rng(seed)
    body = np.zeros((6, 24, 24), np.uint8)
    body[:, 4:20, 4:20] = 1
    images = {
        "mr": (body * rng.integers(100, 300, body.shape)).astype(np.float32),
        "ct": (body * 1040.0 - 1000 + rng.integers(-20, 20, body.shape)).astype(np.int16),
        "mask": body,
    }
    folder.mkdir(parents=True)
    for name, array in (images | changed).items():
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4, 4, 6))
        sitk.WriteImage(image, str(folder / f"{name}.mha"), True)


@pytest.fixture
def files(tmp_path: Path, tiny: Callable[..., Path]) -> StudyFiles:
    """A study of four sound cases, and of four that no cell can use."""
    root = tmp_path / "cohort" / "Task1" / "AB"
    for k in range(4):
        write_case(root / f"1ABA00{k}", k)
    holes = np.full((6, 24, 24), 100, np.float32)
    holes[2, 5, 5] = np.nan
    write_case(root / "1ABB001", 4, mr=holes)
    write_case(root / "1ABB002", 5, mask=np.zeros((6, 24, 24), np.uint8))
    write_case(root / "1ABB003", 6, ct=np.full((6, 24, 24), -1000, np.int16))
    write_case(root / "1ABB004", 7)
    data = (root / "1ABB004/mr.mha").read_bytes()
    (root / "1ABB004/mr.mha").write_bytes(data[:-9])
    plan = load_study(str(tiny(text=PLAN.replace("FOLDER", str(tmp_path / "cohort")))))
    return StudyFiles(plan, tmp_path / "out")


REASONS = {
    "1ABB001": "1 voxels are NaN or infinite",
    "1ABB002": "an empty mask",
    "1ABB003": "every voxel is -1000",
    "1ABB004": "the file is truncated",
}


def test_images_that_cannot_be_used_are_named_and_the_others_divided(
    files: StudyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, lost = usable_pairs(files, "real")
    assert [p.id for p in pairs] == [f"1ABA00{k}" for k in range(4)]
    assert {key.rsplit("/", 1)[-1] for key in lost} == set(REASONS)
    for case, reason in REASONS.items():
        assert reason in lost[f"Task1/AB/{case}"]
    with monkeypatch.context() as patch:  # opened once, as long as no file changes
        patch.setattr("sctlab.study.folds.check_images", None)
        assert len(study_cases(files, "real")) == 4
        assert sorted(split_of(files, "real").patients) == [p.key for p in pairs]


def test_a_cohort_without_a_usable_case_is_one_sentence(files: StudyFiles) -> None:
    plan = files.plan.changed(
        cohorts={
            "real": files.plan.cohorts["real"].model_copy(update={"exclude": tuple(f"1ABA00{k}" for k in range(4))})
        }
    )
    warnings: list[str] = []

    class Heard(Monitor):
        def warning(self, text: str) -> None:
            warnings.append(text)

    with pytest.raises(InputError, match="no case that can be used, of 4 ") as error:
        run_study(plan, files.out, monitor=Heard())
    assert len(str(error.value)) < 1500
    assert sum("is left out: " in text for text in warnings) == 4
