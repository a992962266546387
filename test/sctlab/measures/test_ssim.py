"""SSIM against scikit-image on the whole volume."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluation_phantom import make_phantom
from skimage.metrics import structural_similarity

from sctlab.measures.ssim import ssim


@pytest.mark.parametrize("shape", [(20, 40, 44), (7, 60, 50), (40, 8, 90)])
@pytest.mark.parametrize("corner", [False, True])
def test_the_box_gives_the_whole_volume_s_mean(shape: tuple[int, int, int], corner: bool) -> None:
    phantom = make_phantom(shape, (2.0, 2.0, 3.0), classes=(2, 5))
    mask = phantom.mask.array.copy()
    if corner:  # far from most borders, and touching some
        mask[shape[0] // 2 :], mask[:, shape[1] // 2 :] = False, False
        mask[0, 0, :9] = True
    images = [np.where(mask, v.array, 0).astype(np.float64) for v in (phantom.sct, phantom.ct)]
    expected = structural_similarity(*images, data_range=4024)
    assert ssim(phantom.sct.array, phantom.ct.array, mask) == pytest.approx(expected, rel=1e-9)


def test_edges() -> None:
    thin = np.zeros((5, 30, 30), np.int16)
    assert math.isnan(ssim(thin, thin, thin == 0))
    block = np.zeros((9, 9, 9), np.int16)
    assert ssim(block, block + 1, block > 0) == 1  # nothing inside the mask
    assert ssim(block, block, block == 0) == 1
