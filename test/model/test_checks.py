"""Is this the image, and the mask, that the task expects?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab_model.body import body_mask
from sctlab_model.cases import Region, Task
from sctlab_model.checks import check_mask, check_region, check_source, fit_mask
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume

REAL = [("abdomen_ct/ct.nii.gz", Task.CBCT), ("abdomen_mr/mr.nii.gz", Task.MRI)]


def shifted(mask: Volume, share: float, axis: int) -> Volume:
    """The mask moved by a share of its own width."""
    used = np.flatnonzero(mask.array.any(axis=tuple(k for k in range(3) if k != axis)))
    step = round(share * (used[-1] + 1 - used[0]))
    moved = np.roll(mask.array, step, axis)
    moved[tuple(slice(0, step) if k == axis else slice(None) for k in range(3))] = False
    return mask.with_array(moved)


# --- values ------------------------------------------------------------------------------------------------------------------


def test_good_values_are_not_mentioned(cbct: Volume, mr: Volume) -> None:
    assert check_source(cbct, Task.CBCT) == []
    assert check_source(mr, Task.MRI) == []


@pytest.mark.parametrize(
    ("task", "change"),
    [
        (Task.CBCT, lambda a: a + 1024),
        (Task.CBCT, lambda a: a * 0.001),
        (Task.CBCT, lambda a: a * 30),
        (Task.MRI, lambda a: a),
    ],
)
def test_values_unlike_the_task_are_named(cbct: Volume, task: Task, change) -> None:
    strange = cbct.with_array(change(cbct.array))
    (finding,) = check_source(strange, task)
    assert f"{strange.array.min():g} to {strange.array.max():g}" in finding.text
    assert "unlike" in finding.text or "LOOK LIKE HU + 1" in finding.text


@pytest.mark.parametrize("value", [0, -1024])
def test_constant_images_are_refused(value: int) -> None:
    grid = Geometry((4, 4, 4))
    with pytest.raises(InputError, match=f"every voxel is {value}"):
        check_source(Volume(np.full(grid.shape_zyx, value), grid, "a.mha"), Task.MRI)


# --- grids -------------------------------------------------------------------------------------------------------------------


def test_masks_on_the_same_grid_are_kept(cbct: Volume, outline: Volume) -> None:
    fitted, notes = fit_mask(outline, cbct)
    assert notes == []
    assert np.array_equal(fitted.array, outline.array)
    # Headers written by different tools differ in the last digits.
    nearly = replace(outline.geometry, origin_xyz=(0.01, 0, 0))
    fitted, notes = fit_mask(Volume(outline.array, nearly), cbct)
    assert notes == []
    assert fitted.geometry == cbct.geometry


@pytest.mark.parametrize(
    "change", [{"origin_xyz": (12, 0, 0)}, {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1), "origin_xyz": (354, 282, 0)}]
)
def test_masks_on_other_grids_are_resampled_in_space(cbct: Volume, outline: Volume, change: dict) -> None:
    fitted, notes = fit_mask(Volume(outline.array, replace(outline.geometry, **change), "m.mha"), cbct)
    assert fitted.geometry == cbct.geometry
    assert fitted.array.dtype == bool
    assert "resampled" in notes[0]
    if "direction" in change:
        assert np.array_equal(fitted.array, outline.array[:, ::-1, ::-1])
    else:
        assert np.array_equal(fitted.array[:, :, 2:], outline.array[:, :, :-2])


def test_masks_that_say_nothing_are_refused(cbct: Volume, outline: Volume) -> None:
    with pytest.raises(InputError, match="empty mask"):
        fit_mask(outline.with_array(np.zeros_like(outline.array)), cbct)
    with pytest.raises(InputError, match="doesn't overlap"):
        fit_mask(Volume(outline.array, replace(outline.geometry, origin_xyz=(0, 0, 9000))), cbct)


# --- does the mask sit on the body? -------------------------------------------------------------------------------------------


@pytest.fixture(params=[Task.CBCT, Task.MRI])
def scan(request: pytest.FixtureRequest, cbct: Volume, mr: Volume) -> tuple[Volume, Task]:
    return (cbct if request.param is Task.CBCT else mr), request.param


@pytest.mark.parametrize("grow_mm", [-6, 0, 6, 12])
def test_good_masks_are_not_mentioned(scan: tuple[Volume, Task], outline: Volume, grow_mm: int) -> None:
    """Drawn tightly or with a margin."""
    source, task = scan
    change = ndimage.binary_dilation if grow_mm > 0 else ndimage.binary_erosion
    array = np.stack([change(s, iterations=abs(grow_mm) // 6) if grow_mm else s for s in outline.array])
    assert check_mask(outline.with_array(array), source, task) == []


@pytest.mark.parametrize("axis", [1, 2])
def test_shifted_masks_are_told_with_the_overlap(scan: tuple[Volume, Task], outline: Volume, axis: int) -> None:
    (warning,) = check_mask(shifted(outline, 0.15, axis), *scan)
    assert "% of the body" in warning
    assert "shifted" in warning


def test_flipped_masks_are_told(scan: tuple[Volume, Task], outline: Volume) -> None:
    (warning,) = check_mask(outline.with_array(outline.array[:, ::-1]), *scan)
    assert "flipped" in warning


def test_masks_of_something_else_are_told(scan: tuple[Volume, Task], outline: Volume) -> None:
    assert check_mask(outline.with_array(np.ones_like(outline.array)), *scan)
    small = outline.with_array(np.zeros_like(outline.array))
    small.array[4:6, 20:25, 20:25] = True
    assert check_mask(small, *scan)


def test_of_many_slices_some_tell(scan: tuple[Volume, Task], outline: Volume) -> None:
    """The same patient in thin slices; a mask of two of them only is none of the body either."""

    def thin(volume: Volume) -> Volume:
        array = np.repeat(volume.array, 6, axis=0)
        return Volume(array, Geometry(array.shape[::-1], (*volume.geometry.spacing_xyz[:2], 1.0)))

    source, task = thin(scan[0]), scan[1]
    mask = thin(outline)
    assert check_mask(mask, source, task) == []
    assert check_mask(shifted(mask, 0.15, 2), source, task)
    assert check_mask(mask.with_array(mask.array[:, ::-1]), source, task)
    few = mask.with_array(np.zeros_like(mask.array))
    few.array[3:5] = mask.array[3:5]
    assert check_mask(few, source, task)


def test_noise_has_no_body_to_check_against() -> None:
    grid = Geometry((40, 40, 10), (3, 3, 3))
    air = Volume(np.random.default_rng(0).normal(-1000, 5, grid.shape_zyx), grid)
    (warning,) = check_mask(air.with_array(np.ones(grid.shape_zyx, bool)), air, Task.CBCT)
    assert "could not be checked" in warning


@pytest.mark.parametrize(("name", "task"), REAL)
def test_real_images(shared_data: Path, name: str, task: Task) -> None:
    """The computed mask fits; shifted by 15 % of the body's width, or turned over, it doesn't."""
    source = read_volume(shared_data / name)
    body = body_mask(source, task)
    assert check_mask(body, source, task) == []
    assert check_mask(shifted(body, 0.15, 1), source, task)
    assert check_mask(shifted(body, 0.15, 2), source, task)
    assert check_mask(body.with_array(body.array[:, ::-1]), source, task)


# --- size --------------------------------------------------------------------------------------------------------------------


def _disc(diameter_mm: float, pitch: float) -> Volume:
    y, x = np.ogrid[-49.5:50, -49.5:50]
    disc = np.hypot(x, y) <= diameter_mm / pitch / 2
    return Volume(np.broadcast_to(disc, (3, 100, 100)).copy(), Geometry((100, 100, 3), (pitch, pitch, 3.0)))


@pytest.mark.parametrize("region", [None, *Region])
@pytest.mark.parametrize("unit", [10.0, 0.1, 0.001])
def test_a_spacing_that_is_not_in_mm_is_refused(region: Region | None, unit: float) -> None:
    """An abdomen of 3 m was resampled to half a billion voxels and taken for one."""
    (finding,) = check_region(_disc(300 * unit, 4 * unit), region)
    assert finding.level == "refuse"
    assert "spacing" in finding.text


@pytest.mark.parametrize(("diameter", "pitch"), [(60, 1), (160, 2), (300, 4), (550, 6)])
def test_every_body_has_a_size_that_bodies_have(diameter: float, pitch: float) -> None:
    assert check_region(_disc(diameter, pitch), None) == []
    assert all(f.level == "warn" for r in Region for f in check_region(_disc(diameter, pitch), r))
