"""Two label maps of one patient: what moved, what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab.anatomy.comparing import compare_anatomy
from sctlab_model.anatomy.classes import FILE_IDS, INDEX
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((40, 40, 30), (3.0, 3.0, 3.0), (5.0, -20.0, 8.0))
LIVER, SPLEEN, SPINE = (int(FILE_IDS[INDEX[name]]) for name in ("liver", "spleen", "spine"))


def _labels(*boxes: tuple[int, int, int]) -> Volume:
    """Cubes of 12 voxels (46.7 ml) that begin at `x` on the diagonal plane: (id, x, z)."""
    array = np.zeros(GRID.shape_zyx, np.uint8)
    for value, x, z in boxes:
        array[z : z + 12, 10:22, x : x + 12] = value
    return Volume(array, GRID)


def test_a_moved_and_a_missing_organ_are_told() -> None:
    first = _labels((LIVER, 0, 0), (SPLEEN, 26, 0), (SPINE, 13, 15))
    second = _labels((LIVER, 4, 0), (SPINE, 13, 15))
    found = {c.name: c for c in compare_anatomy(first, second)}
    assert found["liver"].moved_mm == pytest.approx(12)
    assert found["liver"].dice == pytest.approx(2 / 3)
    assert found["liver"].first_ml == pytest.approx(12**3 * 27 / 1000)
    assert found["spine"].moved_mm == 0
    assert found["spine"].remark == ""
    assert found["spleen"].remark == "missing"
    assert found["spleen"].moved_mm is None
    swapped = {c.name: c.remark for c in compare_anatomy(second, first)}
    assert swapped["spleen"] == "only in the second"


def test_what_the_other_image_does_not_show_is_not_missing() -> None:
    """It ends above the spleen and in the middle of the spine."""
    first = _labels((LIVER, 0, 18), (SPLEEN, 26, 0), (SPINE, 13, 15))
    shorter = Geometry((40, 40, 9), (3.0, 3.0, 3.0), (5.0, -20.0, 8.0 + 21 * 3))
    found = {c.name: c for c in compare_anatomy(first, Volume(first.array[21:], shorter))}
    assert set(found) == {"liver", "spine"}
    assert found["spine"].first_ml == found["spine"].second_ml == pytest.approx(6 * 12**2 * 27 / 1000)
    assert found["spine"].moved_mm == 0
    far = Geometry((40, 40, 30), (3.0, 3.0, 3.0), (500.0, -20.0, 8.0))
    with pytest.raises(InputError, match="no voxel where the first image is"):
        compare_anatomy(first, Volume(first.array, far))


def test_another_grid_is_no_movement() -> None:
    first = _labels((LIVER, 0, 0))
    finer = Geometry((80, 80, 60), (1.5, 1.5, 1.5), (4.25, -20.75, 7.25))
    second = Volume(first.array.repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    (liver,) = compare_anatomy(first, second)
    assert liver.moved_mm == pytest.approx(0, abs=0.5)
    assert liver.dice > 0.99
