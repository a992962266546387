"""Label maps and masks are told from images by what they hold, not by what they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab_model.cases import Task
from sctlab_model.checks import check_source
from sctlab_model.gates import Policy
from sctlab_model.io.reading import read_volume
from sctlab_model.label_maps import count_labels
from sctlab_model.volume import Geometry, Volume

LABELS = (
    "abdomen_ct/labels", "abdomen_mr/labels", "head_labels/training_seg_01", "head_labels/training_seg_02",
    "hn_ct_openkbp_109/organs", "hn_ct_openkbp_109/ptv", "pair_mrct_sts_044/gtv_on_ct", "thorax_ct/aorta",
)  # fmt: skip
IMAGES = ("abdomen_mr/mr", "abdomen_mr_t2/scan_001_t2", "head_mr_fernando_t2/t2", "pair_mrct_sts_044/mr_t1")


@pytest.mark.parametrize("name", LABELS)
def test_label_maps_are_no_images(shared_data: Path, name: str) -> None:
    volume = read_volume(shared_data / f"{name}.nii.gz")
    for task in Task:
        (finding,) = check_source(volume, task)
        assert "no image" in finding.text
        assert Policy(lenient=True).refuses(finding)
        assert not Policy(accept=True).refuses(finding)
    assert count_labels(volume.array.astype(np.float32)) is not None
    if np.mean(volume.array > 0) > 0.05:  # of thin organs a coarse grid leaves single voxels
        assert count_labels(volume.array[:, ::2, ::2]) is not None


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("bits", [16, 8, 6])
def test_images_of_few_values_are(shared_data: Path, name: str, bits: int) -> None:
    array = read_volume(shared_data / f"{name}.nii.gz").array
    low, high = np.percentile(array, (0.1, 99.9))
    copy = np.clip(np.rint((array.astype(float) - low) / (high - low) * 2**bits), 0, 2**bits - 1)
    assert count_labels(copy) is None
    assert count_labels(copy[:, ::3, ::3].repeat(3, 1).repeat(3, 2)) is None  # enlarged by repeating pixels


@pytest.mark.parametrize("change", [lambda a: a - 1000.0, lambda a: a + 0.5, lambda a: a * 0])
def test_what_no_labels_are(change: object) -> None:
    """Negative values, fractions, one value."""
    array = np.zeros((8, 20, 20))
    array[2:6, 5:15, 5:15] = 3
    assert count_labels(array) == 2
    assert callable(change)
    assert count_labels(change(array)) is None


def test_a_mask_is_called_one() -> None:
    array = np.zeros((8, 20, 20), np.uint8)
    array[2:6, 5:15, 5:15] = 255
    (finding,) = check_source(Volume(array, Geometry((20, 20, 8), (2, 2, 3)), "a.mha"), Task.MRI)
    assert finding.text.startswith("a mask, no image")
