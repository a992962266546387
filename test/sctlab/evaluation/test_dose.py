"""Gamma of two dose files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((16, 14, 12), (2.0, 2.0, 2.0))


def _dose(shift_mm: float = 0.0, scale: float = 1.0, grid: Geometry = GRID) -> Volume:
    z, y, x = (
        np.arange(n) * s + o
        for n, s, o in zip(grid.shape_zyx, grid.spacing_xyz[::-1], grid.origin_xyz[::-1], strict=True)
    )
    distance = (x[None, None, :] - 15 - shift_mm) ** 2 + (y[None, :, None] - 13) ** 2 + (z[:, None, None] - 11) ** 2
    return Volume((60 * scale * np.exp(-distance / 40)).astype(np.float32), grid, "dose.mha")


def test_gamma_passes_what_lies_within_2_percent_and_2_mm() -> None:
    pytest.importorskip("pymedphys")
    from sctlab.evaluation.dose import gamma_pass_rate

    assert gamma_pass_rate(_dose(), _dose()).pass_rate == 100
    assert gamma_pass_rate(_dose(shift_mm=1.5), _dose()).pass_rate == 100
    assert gamma_pass_rate(_dose(scale=1.015), _dose()).pass_rate == 100
    assert gamma_pass_rate(_dose(shift_mm=6), _dose()).pass_rate < 60


def test_another_grid_is_interpolated() -> None:
    pytest.importorskip("pymedphys")
    from sctlab.evaluation.dose import gamma_pass_rate

    other = Geometry((15, 13, 11), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    assert gamma_pass_rate(_dose(grid=other), _dose(grid=other)).pass_rate == 100
    assert gamma_pass_rate(_dose(), _dose(grid=other)).pass_rate > 99


def test_what_is_no_dose_is_refused() -> None:
    pytest.importorskip("pymedphys")
    from sctlab.evaluation.dose import gamma_pass_rate

    with pytest.raises(InputError, match="a dose"):
        gamma_pass_rate(_dose().with_array(np.zeros(GRID.shape_zyx)), _dose())
    flipped = Geometry(GRID.size_xyz, GRID.spacing_xyz, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    with pytest.raises(InputError, match="rotated"):
        gamma_pass_rate(Volume(_dose().array, flipped), _dose())


def test_without_pymedphys_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from sctlab.evaluation.dose import gamma_pass_rate

    monkeypatch.setitem(sys.modules, "pymedphys", None)
    with pytest.raises(InputError, match=r"sctlab\[gamma\]"):
        gamma_pass_rate(_dose(), _dose())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("pymedphys")
    from sctlab.commands.gamma import gamma

    for name in ("a", "b"):
        write_volume(_dose(), tmp_path / f"{name}.mha")
    assert gamma(tmp_path / "a.mha", tmp_path / "b.mha") == 0
    assert "pass rate 100.00 %" in capsys.readouterr().out
