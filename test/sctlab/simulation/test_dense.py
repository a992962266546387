"""Bone is told from a contrast medium by its shell, marrow is filled, the canal is not."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab.simulation.dense import bone_or_iodine
from sctlab.simulation.from_ct import phantom_from_ct, read_ct, read_labels
from sctlab.simulation.phantom import CONVERTED_BONE, SPINE
from sctlab.simulation.tissues import Tissue
from sctlab_model.volume import Geometry

SHARED = Path(__file__).parents[4] / "shared" / "data"
GRID = Geometry((90, 70, 24), (2.0, 2.0, 3.0))


def cylinder(x: float, y: float, radius: float) -> np.ndarray:
    yy, xx = np.mgrid[:70, :90] * 2.0
    return np.broadcast_to(np.hypot(xx - x, yy - y) < radius, GRID.shape_zyx)


@pytest.fixture
def body():
    """A vertebra with its canal, an enhanced aorta against it, a kidney, and a femur's shaft."""
    rng = np.random.default_rng(0)
    hu = np.full(GRID.shape_zyx, 45.0)
    hu[cylinder(90, 90, 22)] = 700
    hu[cylinder(90, 90, 19)] = 170 + 30 * rng.standard_normal(GRID.shape_zyx)[cylinder(90, 90, 19)]
    hu[cylinder(90, 122, 12)], hu[cylinder(90, 122, 9)] = 600, 25
    hu[cylinder(90, 55, 11)] = 210
    hu[cylinder(40, 60, 22)] = 190
    hu[cylinder(145, 80, 14)], hu[cylinder(145, 80, 8)] = 1300, -60
    hu = ndimage.gaussian_filter(hu, (0, 0.6, 0.6)) + 6 * rng.standard_normal(GRID.shape_zyx)
    return hu.astype(np.float32)


def test_contrast_medium_is_told_from_bone_and_marrow_is_filled(body):
    dense = bone_or_iodine(body, np.ones(body.shape, bool), GRID)
    inner = np.s_[3:-3]
    for where in (cylinder(90, 55, 9), cylinder(40, 60, 20)):
        assert dense.iodine[inner][where[inner]].mean() > 0.9
        assert dense.bone[inner][where[inner]].mean() < 0.05
    for where in (cylinder(90, 90, 20), cylinder(145, 80, 13)):
        assert dense.bone[inner][where[inner]].mean() > 0.9
        assert dense.iodine[inner][where[inner]].mean() < 0.05
    assert dense.bone[inner][cylinder(90, 122, 6)[inner]].mean() < 0.1  # the canal


def test_without_contrast_medium_nothing_is_iodine(body):
    body[cylinder(90, 55, 12)], body[cylinder(40, 60, 24)] = 45, 45
    assert not bone_or_iodine(body, np.ones(body.shape, bool), GRID).iodine.any()


def test_labels_overrule(body):
    kidney = cylinder(40, 60, 22)
    dense = bone_or_iodine(body, np.ones(body.shape, bool), GRID, known_bone=kidney.copy())
    assert dense.bone[4:-4][cylinder(40, 60, 18)[4:-4]].all()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_vessels_and_bones_of_a_real_contrast_ct():
    """Without labels, bones are found and an enhanced aorta isn't one; judged by the labels."""
    ct, labels = read_ct(SHARED / "abdomen_ct_dicom/series"), read_labels(SHARED / "abdomen_ct_dicom/labels.nii.gz")
    spacing = (1.5, 1.5, 2.0)
    truth = phantom_from_ct(ct, labels, spacing).label
    phantom = phantom_from_ct(ct, None, spacing)
    bone = np.isin(phantom.tissue, (Tissue.CORTICAL_BONE, Tissue.RED_MARROW))
    assert bone[np.isin(truth, (*range(26, 51), *range(92, 117)))].mean() > 0.75
    assert bone[truth == 52].mean() < 0.15  # aorta
    assert bone[np.isin(truth, (1, 2, 3, 5))].mean() < 0.02  # spleen, kidneys, liver


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_thin_cortex_of_an_old_patient_without_contrast():
    """Voxels of 3 mm, vertebrae of 96 HU at the 10th percentile: with the limit for contrast CTs 0.65 of them are found."""
    ct, labels = read_ct(SHARED / "abdomen_ct/ct.nii.gz"), read_labels(SHARED / "abdomen_ct/labels.nii.gz")
    truth = phantom_from_ct(ct, labels, (3.0, 3.0, 3.0)).label
    bone = np.isin(phantom_from_ct(ct, None, (3.0, 3.0, 3.0)).tissue, (Tissue.CORTICAL_BONE, Tissue.RED_MARROW))
    assert bone[np.isin(truth, range(26, 51))].mean() > 0.69
    assert bone[np.isin(truth, (77, 78))].mean() > 0.73
    assert bone[(truth > 0) & (truth < 25)].mean() < 0.005


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_couch_goes_and_a_femur_has_fatty_marrow():
    phantom = phantom_from_ct(read_ct(SHARED / "pair_mrct_sts_044/ct.nii.gz"), None, (1.5, 1.5, 3.27))
    assert not np.isin(phantom.tissue, (Tissue.COUCH_SHELL, Tissue.COUCH_FOAM)).any()
    private = phantom.label[phantom.label >= 200]
    assert np.mean(private == CONVERTED_BONE) > 0.8
    assert SPINE in np.unique(
        phantom_from_ct(read_ct(SHARED / "abdomen_ct_crlm_1004/ct.nii.gz"), None, (3, 3, 5)).label
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_a_femoral_head_in_its_socket_is_bone():
    """Even spongy bone of 230 HU whose cortex the acetabulum's covers: half of it was blood."""
    ct = read_ct(SHARED / "pair_mrct_sts_044/ct.nii.gz")
    phantom = phantom_from_ct(ct, None, (2.0, 2.0, 3.0))
    z, y, x = np.indices(phantom.hu.shape)
    head = (z > 42) & (z < 50) & (np.hypot(y - 51, x - 53) < 8)  # found by looking; voxels of (3, 2, 2) mm
    bright = head & (phantom.hu > 150)
    assert bright.sum() > 500
    assert np.mean(phantom.tissue[bright] == Tissue.BLOOD) < 0.05
