"""A folder of Grand Challenge, and a cohort."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # with --import-mode=importlib helpers are found only so

from cases_files import touch


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """The exec API's folder of an MR case."""
    touch(tmp_path, "images/mri/uuid.mha", "images/body/other.mha")
    (tmp_path / "region.json").write_text('"Head and Neck"')
    return tmp_path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return touch(
        tmp_path,
        "Task1/AB/1ABA002/mr.mha",
        "Task1/AB/1ABA002/mask.mha",
        "Task1/AB/1ABA002/ct.mha",
        "Task1/AB/1ABA001/mr.nii.gz",
        "Task1/AB/1ABA001/ct_def.nii.gz",
        "Task1/TH/1THB001/mr.mha",
        "Task1/TH/overview.xlsx",
        "Task1/TH/1THB009/ct.mha",
        "Task2/HN/2HNC001/cbct.mha",
        "Task2/HN/2HNC001/mask.mha",
    )
