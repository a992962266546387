"""MAE, PSNR and the policies around them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluation_oracle import image_metrics as oracle
from evaluation_phantom import make_phantom

from sctlab.measures.image import image_metrics


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_equals_the_straightforward_version(kind) -> None:
    phantom = make_phantom((33, 45, 51), classes=(2, 26, 5), seed=1)
    sct, ct = phantom.sct.array.astype(kind), phantom.ct.array.astype(kind)
    expected = oracle(sct, ct, phantom.mask.array)
    scores = image_metrics(sct, ct, phantom.mask.array).as_dict()
    for key, value in expected.items():
        assert scores[key] == pytest.approx(value, rel=1e-9), key


def test_mae_is_not_clipped_and_psnr_is() -> None:
    ct = np.zeros((10, 10, 10), np.int16)
    mask = np.ones(ct.shape, np.uint8)
    high = np.full(ct.shape, 5000, np.int16)
    assert image_metrics(high, ct, mask).mae == 5000
    assert image_metrics(high, ct, mask).psnr == pytest.approx(20 * math.log10(4095 / 3071))


def test_signed_error_and_rmse() -> None:
    ct = np.zeros((8, 8, 8), np.int16)
    sct = ct.copy()
    sct[:4], sct[4:] = -30, 10
    scores = image_metrics(sct, ct, np.ones(ct.shape, bool))
    assert scores.mean_error == pytest.approx(-10)
    assert scores.rmse == pytest.approx(math.sqrt((900 + 100) / 2))


def test_only_the_mask_counts() -> None:
    ct = np.zeros((8, 8, 8), np.int16)
    sct, mask = ct.copy(), np.zeros(ct.shape, np.uint8)
    sct[0] = 1000
    mask[3:6] = 7  # any value above 0
    assert image_metrics(sct, ct, mask).mae == 0
    assert math.isinf(image_metrics(sct, ct, mask).psnr)


def test_unsigned_images_do_not_wrap() -> None:
    low, high = np.full((6, 6, 6), 100, np.uint16), np.full((6, 6, 6), 300, np.uint16)
    assert image_metrics(low, high, np.ones(low.shape)).mean_error == -200


def test_an_empty_mask_gives_no_numbers() -> None:
    ct = np.zeros((8, 8, 8), np.int16)
    assert all(math.isnan(v) for v in image_metrics(ct, ct, np.zeros(ct.shape)).as_dict().values())


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        image_metrics(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)), np.ones((4, 4, 4)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_numbers() -> None:
    phantom = make_phantom((33, 45, 51), classes=(2, 26), seed=1)
    arrays = phantom.sct.array, phantom.ct.array, phantom.mask.array
    here, there = image_metrics(*arrays).as_dict(), image_metrics(*arrays, device="cuda").as_dict()
    assert there == pytest.approx(here, rel=1e-9)
