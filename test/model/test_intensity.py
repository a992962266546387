"""Offsets of a CBCT, noise, 8-bit copies, clipped negatives."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab_model.intensity import check_cbct, check_clipped, check_mr, check_noise, find_offset
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume

REAL = ("abdomen_ct/ct.nii.gz", "hn_ct_openkbp_109/ct.nii.gz", "thorax_ct/ct.nii.gz")


@pytest.mark.parametrize("offset", [-1024, 1000, 1024, 3000, 32768])
def test_offsets_are_named(cbct: Volume, offset: int) -> None:
    moved = cbct.with_array(cbct.array + offset)
    recognised = find_offset(moved)
    assert offset in (recognised.value, *recognised.others)
    (finding,) = check_cbct(moved)
    assert finding.level == "warn"
    assert str(abs(offset)) in finding.text
    assert "--correct-offset" in finding.text


def test_clipping_does_not_hide_an_offset(cbct: Volume) -> None:
    assert find_offset(cbct.with_array((cbct.array + 1024).clip(0))).value in (1000, 1024)


@pytest.mark.parametrize("factor", [0.001, 30])
def test_values_that_no_offset_explains_are_refused(cbct: Volume, factor: float) -> None:
    (finding,) = check_cbct(cbct.with_array(cbct.array * factor))
    assert finding.level == "refuse"


def test_hounsfield_units_are_left_alone(cbct: Volume) -> None:
    for calibration in (-150, 0, 150):  # badly calibrated, but HU
        assert find_offset(cbct.with_array(cbct.array + calibration)).value == 0


@pytest.mark.parametrize("value", [32767, -30000])
def test_a_wild_voxel_of_a_cbct_is_named(cbct: Volume, value: int) -> None:
    array = cbct.array.astype(np.int16)
    array[1, 2, 3] = value
    assert [f.level for f in check_cbct(cbct.with_array(array))] == ["warn"]
    assert f"1 voxels lie far outside of the rest (such as {value}" in check_cbct(cbct.with_array(array))[0].text


@pytest.mark.parametrize("name", REAL)
def test_real_images(shared_data, name: str) -> None:
    volume = read_volume(shared_data / name)
    assert check_cbct(volume) == []
    assert check_noise(volume) == []
    moved = find_offset(volume.with_array(volume.array.astype(np.float32) + 1024))
    assert 1024 in (moved.value, *moved.others)


def test_an_image_of_the_other_task_is_refused(shared_data, cbct: Volume, mr: Volume) -> None:
    real = read_volume(shared_data / "abdomen_mr/mr.nii.gz")
    assert [f.level for f in check_cbct(real)] == ["refuse"]
    assert [f.level for f in check_mr(cbct)] == ["refuse"]
    shifted = mr.with_array(mr.array.astype(np.float32) - 300)  # negative, but no CT
    assert [f.level for f in check_mr(shifted)] == ["warn"]


def test_a_cbct_without_negative_values_is_refused(cbct: Volume) -> None:
    (finding,) = check_cbct(cbct.with_array(cbct.array.clip(0)))
    assert finding.level == "refuse"


def test_wild_voxels_are_not_called_noise(mr: Volume) -> None:
    """Ten voxels of both signs hold nearly all of the variance."""
    array = mr.array.astype(np.float32)
    places = np.random.default_rng(0).choice(array.size, 10, replace=False)
    array.flat[places] = [1e6, -1e6] * 5
    assert check_noise(mr.with_array(array)) == []
    assert "10 voxels lie far outside" in check_mr(mr.with_array(array))[0].text


def test_noise_is_named(cbct: Volume, mr: Volume) -> None:
    noise = np.random.default_rng(0).normal(0, 300, cbct.array.shape)
    assert "noise" in check_noise(cbct.with_array(noise))[0].text
    assert check_noise(cbct) == check_noise(mr) == []


def test_what_an_mr_lost_is_named(mr: Volume, outline: Volume) -> None:
    assert check_mr(mr) == []
    wild = mr.array.copy()
    wild[0, 0, 0] = -3000
    assert "1 voxels lie far outside" in check_mr(mr.with_array(wild))[0].text
    assert "8-bit" in check_mr(mr.with_array((mr.array / mr.array.max() * 255).astype(np.uint8)))[0].text
    assert check_clipped(mr, outline.array) == []
    clipped = (mr.array - 400).clip(0)
    assert "cut off" in check_clipped(mr.with_array(clipped), outline.array)[0].text


def test_a_class_of_one_value(cbct: Volume) -> None:
    """Bright voxels that are all clipped to one value have no width to make bins of."""
    array = np.where(cbct.array > -400, np.float32(3071), cbct.array.astype(np.float32))
    assert find_offset(cbct.with_array(array)).tissue == 3071


def test_a_crop_without_air_is_told_from_an_mr() -> None:
    """Fat is negative in HU: a part of a body without air or gas is warned of, an MR of the same part refused."""
    random = np.random.default_rng(0)
    tissue = np.where(random.random((10, 30, 30)) < 0.2, -100.0, 45.0)
    tissue = np.repeat(np.repeat(tissue, 3, 1), 3, 2) + random.normal(0, 12, (10, 90, 90))
    tissue[:, 40:50, 40:50] += 500
    grid = Geometry((90, 90, 10), (1, 1, 3))
    (crop,) = check_cbct(Volume(tissue.astype(np.int16), grid))
    assert (crop.level, "a part of a body" in crop.text) == ("warn", True)
    (other,) = check_cbct(Volume((tissue + 130).astype(np.int16), grid))
    assert other.level == "refuse"
