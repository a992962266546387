"""`sctlab segment`: what it refuses before it computes, and what it says of intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.cli import app, run
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


def segment(*arguments: str | Path) -> int:
    return run(lambda: app.main(["segment", *map(str, arguments)], prog_name="sctlab", standalone_mode=False))


def test_an_output_that_cannot_be_written_is_refused_before_the_image_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(tmp_path / "absent.mha", tmp_path / "labels.png") == 2
    assert "unknown suffix '.png'" in capsys.readouterr().err


@pytest.mark.parametrize("result", ["image.mha", "other.mha"])
def test_labels_take_the_place_of_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str], result: str) -> None:
    grid = Geometry((8, 8, 8), (4.0, 4.0, 4.0))
    for name in ("image.mha", "other.mha"):
        write_volume(Volume(np.arange(512, dtype=np.int16).reshape(8, 8, 8), grid), tmp_path / name)
    before = (tmp_path / result).read_bytes()
    out = tmp_path / "." / result
    assert segment(tmp_path / "image.mha", out, "--against", tmp_path / "other.mha") == 2
    assert "would replace this input" in capsys.readouterr().err
    assert (tmp_path / result).read_bytes() == before


@pytest.mark.parametrize(("offset", "words"), [(0, "taken as HU"), (1024, "a CT must be in HU")])
def test_it_says_what_it_took_intensities_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], offset: int, words: str
) -> None:
    grid = Geometry((24, 20, 12), (4.0, 4.0, 4.0))
    array = np.full(grid.shape_zyx, -1000 + offset, np.int16)
    array[:, 4:16, 4:20] = 40 + offset
    write_volume(Volume(array, grid), tmp_path / "image.mha")
    assert segment(tmp_path / "image.mha", tmp_path / "labels.mha", "--no-picture") == 0
    assert words in " ".join(capsys.readouterr().out.split())
    assert read_volume(tmp_path / "labels.mha").geometry == grid


def test_a_label_map_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = Geometry((24, 20, 12), (4.0, 4.0, 4.0))
    array = np.zeros(grid.shape_zyx, np.uint8)
    array[:, 4:16, 4:20] = 5
    array[:, 8:12, 8:12] = 7
    write_volume(Volume(array, grid), tmp_path / "image.mha")
    assert segment(tmp_path / "image.mha", tmp_path / "labels.mha") == 2
    assert "3 labels, no image" in capsys.readouterr().err
    assert not (tmp_path / "labels.mha").exists()
