"""Bad input: what is refused, what is scored with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.evaluation import checks
from sctlab.evaluation.images import load_images
from sctlab_model.body import body_mask
from sctlab_model.case_input import with_skin
from sctlab_model.cases import Case, Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((6, 5, 4), (1.0, 1.0, 3.0))


def _ct(low: float = -1000, high: float = 1000, grid: Geometry = GRID) -> Volume:
    return Volume(np.linspace(low, high, int(np.prod(grid.size_xyz))).reshape(grid.shape_zyx), grid, "image.mha")


def test_hounsfield_units_pass_silently() -> None:
    assert checks.check_hounsfield(_ct(), "the prediction") == []


@pytest.mark.parametrize(("low", "high", "advice"), [(-1, 1, "normalised"), (0, 4095, "offset"), (0, 1, "normalised")])
def test_other_units_are_refused(low: float, high: float, advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        checks.check_hounsfield(_ct(low, high), "the prediction")


def test_values_beyond_the_range_are_noted() -> None:
    (note,) = checks.check_hounsfield(_ct(-2000, 4000), "the prediction")
    assert "outside [-1024, 3071]" in note


def test_another_shape_is_refused_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"6x5x3.*6x5x4"):
        checks.check_grids(_ct(grid=Geometry((6, 5, 3))), _ct())


def test_another_geometry_is_compared_and_said() -> None:
    moved = Geometry(GRID.size_xyz, GRID.spacing_xyz, (50.0, 0.0, 0.0))
    assert checks.check_grids(_ct(), _ct()) == []
    (note,) = checks.check_grids(_ct(grid=moved), _ct())
    assert "voxel by voxel" in note
    assert "(50, 0, 0)" in note


def test_masks() -> None:
    mask = Volume(np.ones(GRID.shape_zyx, bool), GRID, "mask.mha")
    (note,) = checks.check_mask(mask, _ct())
    assert "thin volume" in note
    with pytest.raises(InputError, match="empty mask"):
        checks.check_mask(mask.with_array(np.zeros(GRID.shape_zyx, bool)), _ct())
    with pytest.raises(InputError, match="mask on the reference's grid"):
        checks.check_mask(mask, _ct(grid=Geometry((6, 5, 3))))
    big = Geometry((97, 97, 97))
    assert checks.check_mask(Volume(np.ones(big.shape_zyx, bool), big), _ct(grid=big)) == []


def test_a_case_without_a_mask_is_scored_over_the_body_and_its_skin(tmp_path: Path) -> None:
    """As wide as the masks that cases come with, and as that of an image that is converted without one."""
    grid = Geometry((80, 80, 12), (1.5, 1.5, 3.0))
    x = (np.arange(80) - 39.5) * 1.5
    disc = np.broadcast_to(np.hypot(x, x[:, None]) < 40, grid.shape_zyx)
    hu = np.where(disc, np.random.default_rng(0).normal(30, 20, grid.shape_zyx), -1000).astype(np.int16)
    write_volume(Volume(hu, grid), tmp_path / "ct.mha")
    notes: list[str] = []
    case = Case("a", Task.CBCT, Volume(hu, grid, "cbct"))
    images = load_images(case, tmp_path / "ct.mha", tmp_path / "ct.mha", notes)
    np.testing.assert_array_equal(images.mask, with_skin(body_mask(Volume(hu, grid), Task.CBCT)).array)
    assert images.mask.sum() > 1.1 * disc.sum()
    assert any("no body mask" in note for note in notes)


def test_a_reference_without_data_is_said() -> None:
    mask = np.ones(GRID.shape_zyx, bool)
    view = Volume(mask.copy(), GRID)
    assert checks.check_field_of_view(_ct(), mask, view) == []
    view.array[0] = False
    (note,) = checks.check_field_of_view(_ct(), mask, view)
    assert note.startswith("25.0%")


def test_labels() -> None:
    labels = Volume(np.full(GRID.shape_zyx, 5.0, np.float32), GRID, "labels.mha")
    notes: list[str] = []
    assert checks.check_labels(labels, _ct(), notes).array.dtype == np.uint8
    assert notes == []
    for wrong, reason in ((5.5, "fractional"), (-1.0, "label -1")):
        with pytest.raises(InputError, match=reason):
            checks.check_labels(labels.with_array(np.full(GRID.shape_zyx, wrong)), _ct(), notes)
    with pytest.raises(InputError, match="nearest neighbour"):
        checks.check_labels(labels, _ct(grid=Geometry((6, 5, 3))), notes)


def test_labels_on_another_geometry_are_said_and_measured_on_the_image_s() -> None:
    elsewhere = Geometry(GRID.size_xyz, (9.0, 9.0, 9.0), (50.0, 0.0, 0.0))
    notes: list[str] = []
    labels = checks.check_labels(Volume(np.ones(GRID.shape_zyx, np.uint8), elsewhere, "labels.mha"), _ct(), notes)
    assert labels.geometry == GRID
    (note,) = notes
    assert "labels.mha" in note
    assert "50" in note


def test_inputs() -> None:
    image = _ct()
    assert checks.check_input(image, _ct()) == (image, [])
    moved = Geometry(GRID.size_xyz, GRID.spacing_xyz, (50.0, 0.0, 0.0))
    source, notes = checks.check_input(_ct(grid=moved), _ct())
    assert source is not None
    assert source.geometry == GRID
    assert "voxel by voxel" in notes[0]
    source, notes = checks.check_input(_ct(grid=Geometry((6, 5, 3))), _ct())
    assert source is None
    assert "another grid" in notes[0]
