"""Bad input: what is refused, what is scored with a note."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab.evaluation import checks
from sctlab_model.errors import InputError
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
