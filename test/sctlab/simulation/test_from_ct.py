from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab.simulation.case import simulate_case
from sctlab.simulation.from_ct import phantom_from_ct, read_ct, read_labels, source_grid
from sctlab.simulation.tissues import Tissue
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

from .conftest import SMALL

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture
def ct_file(tmp_path, abdomen):
    volume = Volume(abdomen.hu.astype(np.int16), abdomen.geometry)
    labels = Volume(abdomen.label, abdomen.geometry)
    return write_volume(volume, tmp_path / "ct.mha"), write_volume(labels, tmp_path / "labels.nii.gz")


def test_a_case_from_a_ct_and_labels(tmp_path, ct_file):
    ct, labels = ct_file
    folder = tmp_path / "out" / "1ABS001"
    simulate_case(
        folder,
        Task.MRI,
        Region.AB,
        0,
        SMALL.model_copy(update={"ct": str(ct), "labels": str(labels), "spacing_xyz": (5.0, 5.0, 5.0)}),
    )
    mr = read_volume(folder / "mr.mha").array
    label = read_volume(folder / "truth/labels_source.mha").array
    assert (label == 5).sum() > 100
    inside = read_volume(folder / "mask.mha").array > 0
    assert mr[inside].mean() > 3 * mr[~inside].mean()


def test_tissues_from_hu_agree_with_the_painted_ones(ct_file, abdomen):
    ct, labels = ct_file
    phantom = phantom_from_ct(read_ct(ct), read_labels(labels), abdomen.geometry.spacing_xyz)
    for tissue in (Tissue.FAT, Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN):
        painted = abdomen.tissue == tissue
        assert np.mean(phantom.tissue[painted] == tissue) > 0.6, tissue.name


@pytest.mark.parametrize(("slices", "pitch_mm"), [(14, 5.0), (14, 7.0), (13, 3.0), (13, 8.0)])
def test_every_slice_lies_inside_the_ct_whatever_its_height(tmp_path, slices, pitch_mm):
    y, x = np.mgrid[:40, :40]
    disc = np.where((x - 20) ** 2 + (y - 20) ** 2 < 15**2, 40, -1000).astype(np.int16)
    ct = Volume(np.repeat(disc[None], slices, axis=0), Geometry((40, 40, slices), (3.0, 3.0, 3.0)))
    phantom = phantom_from_ct(ct, None, (3.0, 3.0, pitch_mm))
    np.testing.assert_allclose(phantom.hu[:, 20, 20], 40, atol=1)
    assert (slices - 1) * 3 - (len(phantom.hu) - 1) * pitch_mm < pitch_mm  # nothing more is lost than a part of a slice


@pytest.mark.parametrize(
    ("array", "spacing", "words"),
    [
        (np.zeros((3, 10, 10), np.int16), (1, 1, 1), "at least 24x24x4"),
        (np.full((10, 40, 40), 500, np.int16), (3, 3, 3), "Hounsfield"),
    ],
)
def test_a_tiny_or_foreign_image_is_refused(tmp_path, array, spacing, words):
    path = write_volume(Volume(array, Geometry(array.shape[::-1], spacing)), tmp_path / "ct.mha")
    with pytest.raises(InputError, match=words):
        read_ct(path)


def test_labels_that_are_none_are_refused(tmp_path, ct_file, abdomen):
    ct, _ = ct_file
    wrong = write_volume(Volume(np.full(abdomen.hu.shape, 500, np.int16), abdomen.geometry), tmp_path / "wrong.mha")
    with pytest.raises(InputError, match="TotalSegmentator ids"):
        phantom_from_ct(read_ct(ct), read_labels(wrong), (5.0, 5.0, 5.0))


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_a_real_ct_becomes_a_patient():
    phantom = phantom_from_ct(
        read_ct(SHARED / "abdomen_ct/ct.nii.gz"), read_labels(SHARED / "abdomen_ct/labels.nii.gz"), (4.0, 4.0, 4.0)
    )
    assert source_grid(phantom, None) == phantom.geometry
    assert source_grid(phantom, (40, 30, 20)).size_xyz == (40, 30, 20)
    assert abs(np.median(phantom.hu[phantom.tissue == Tissue.LIVER]) - 46) < 10
    share = np.mean(phantom.tissue == Tissue.FAT)
    assert 0.15 < share < 0.6


@pytest.mark.parametrize("kind", ["air", "foam", "lung", "dark lung"])
def test_air_that_thighs_enclose_is_no_lung(kind):
    """A gap between two thighs: its rims lift its mean above that of gas, as in lungs; what it lacks is vessels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-60:60, -60:60] * 3.0
    body = (x / 170) ** 2 + (y / 120) ** 2 < 1
    gap = (x / 22) ** 2 + (y / 80) ** 2 < 1
    level = {"air": -1000, "foam": -900, "lung": -800, "dark lung": -900}[kind]
    inside = np.full((40, *x.shape), level, np.float32)
    if "lung" in kind:
        texture = ndimage.gaussian_filter(rng.normal(size=inside.shape), 1.2)
        inside += np.float32(45 / texture.std()) * texture.astype(np.float32)  # vessels everywhere
    hu = np.where(gap, inside, np.where(body, 40, -1000)).astype(np.float32)
    hu = ndimage.gaussian_filter(hu, (0, 1, 1)) + rng.normal(0, 8, hu.shape).astype(np.float32)
    assert hu[:, gap][hu[:, gap] < -350].mean() > -930
    phantom = phantom_from_ct(Volume(hu, Geometry((120, 120, 40), (3.0, 3.0, 3.0))), None, (3.0, 3.0, 3.0))
    middle = phantom.tissue[:, (x / 10) ** 2 + (y / 60) ** 2 < 1]
    share = np.mean(middle == Tissue.LUNG)
    assert share > 0.9 if "lung" in kind else share == 0
