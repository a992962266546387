"""A good case, and folders to be filled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sctlab_model.volume import Volume

sys.path.insert(0, str(Path(__file__).parent))  # with --import-mode=importlib helpers are found only so

from command_line_workplace import Workplace


@pytest.fixture
def case(
    tmp_path: Path, cbct_bundle: Path, cbct: Volume, outline: Volume, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    """A good CBCT case."""
    return Workplace(tmp_path, cbct_bundle, capsys).fill(cbct, outline)


@pytest.fixture
def empty(tmp_path: Path, cbct_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Workplace:
    """Folders to be filled."""
    place = Workplace(tmp_path, cbct_bundle, capsys)
    place.input.mkdir()
    return place
