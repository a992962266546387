"""Makes the modules that these tests share importable: pytest's importlib mode leaves the folder out of the path."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from evaluation_cohort import write_cohort, write_provenance
from evaluation_command import IDS


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    write_cohort(root, IDS)
    write_provenance(root / "predictions")
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "e")
    return tmp_path / "e"
