"""A plan that runs in a minute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
cohorts:
  made:
    simulate: {task: mri, regions: [HN], cases: 2, centre: T, case: {spacing_xyz: [6, 6, 9], seed: 5}}
pairs:
  truth: {kind: truth}
  shift: {kind: planted, systematic_mm: 5, direction_xyz: [0, 1, 0]}
folds: 2
changes:
  recipe: {spacing_xyz: [6.0, 6.0, 9.0], canvas: {minimum_yx: [64, 64]}}
  patch: {size_yx: [64, 64], batch: 2}
  losses: [{kind: l1, over: mask}]
  stages: [{name: global, iterations: 3}]
  validate_every: 3
device: cpu
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes the plan with pieces of its text replaced, or another text, and returns the file."""

    def write(*changes: tuple[str, str], text: str = TINY) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "plan.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
