from pathlib import Path

import numpy as np
import pytest

from sctlab.simulation.from_labels import is_label_map, phantom_from_labels
from sctlab.simulation.tissues import Tissue
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume

SHARED = Path(__file__).parents[4] / "shared" / "data" / "head_labels"
GRID = Geometry((40, 40, 40), (4.0, 4.0, 4.0))  # mm


def ball() -> np.ndarray:
    """Skin, soft tissue, skull, CSF, grey and white matter as shells."""
    r = np.linalg.norm(np.mgrid[:40, :40, :40] - 19.5, axis=0)
    ids = np.zeros((40, 40, 40), np.int16)
    for radius, k in ((18, 511), (16, 507), (14, 515), (12, 24), (11, 3), (8, 2)):
        ids[r < radius] = k
    return ids


def test_a_label_map_becomes_a_head():
    volume = Volume(ball(), GRID)
    assert is_label_map(volume)
    phantom = phantom_from_labels(volume, (4.0, 4.0, 4.0), np.random.default_rng(0))
    assert phantom.tissue[20, 20, 20] == Tissue.WHITE_MATTER
    assert set(np.unique(phantom.label)) == {0, 90, 91}
    assert phantom.hu[phantom.tissue == Tissue.CORTICAL_BONE].mean() > 400  # 4 mm voxels, an 8 mm skull
    assert 5 < phantom.hu[phantom.label == 90].mean() < 60
    assert phantom.hu[0, 0, 0] < -950


def test_a_ct_is_no_label_map_and_unknown_ids_are_refused():
    rng = np.random.default_rng(0)
    assert not is_label_map(Volume(rng.integers(-1000, 500, (40, 40, 40)).astype(np.int16), GRID))
    ids = ball()
    ids[:2] = 999
    with pytest.raises(InputError, match="999"):
        phantom_from_labels(Volume(ids, GRID, "x.nii.gz"), (4.0, 4.0, 4.0), rng)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real label maps beside the checkout")
@pytest.mark.parametrize("name", ["training_seg_01.nii.gz", "training_seg_02.nii.gz"])
def test_real_label_maps(name):
    phantom = phantom_from_labels(read_volume(SHARED / name), (4.0, 4.0, 4.0), np.random.default_rng(0))
    brain_ml = (phantom.label == 90).sum() * phantom.geometry.voxel_volume_mm3 / 1000
    assert 1000 < brain_ml < 2200
