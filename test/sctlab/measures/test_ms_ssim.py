"""Masked MS-SSIM against the straightforward version, and its edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evaluation_oracle import ms_ssim as oracle
from evaluation_oracle import textbook_ms_ssim
from evaluation_phantom import make_phantom

from sctlab.measures.ms_ssim import bounding_box, ms_ssim


def _pair(shape, seed=0):
    random = np.random.default_rng(seed)
    ct = random.normal(0, 300, shape).cumsum(axis=2) / 5
    return (ct + random.normal(0, 60, shape)).astype(np.float32), ct.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((20, 33, 41), np.s_[:, :, :]),  # every axis padded, mask everywhere
        ((98, 30, 101), np.s_[30:61, 5:20, 40:90]),  # odd starts, far from the border
        ((99, 97, 100), np.s_[0:20, 77:97, 0:100]),  # touching borders
        ((7, 120, 30), np.s_[2:5, 60:61, 10:30]),  # a mask one voxel thick
    ],
)
def test_equals_the_straightforward_version(shape, box) -> None:
    sct, ct = _pair(shape)
    mask = np.zeros(shape, bool)
    mask[box] = True
    result = ms_ssim(sct, ct, mask)
    assert result.challenge == pytest.approx(oracle(sct, ct, mask), rel=1e-9, nan_ok=True)
    assert result.textbook == pytest.approx(textbook_ms_ssim(sct, ct, mask), rel=1e-9, nan_ok=True)


def test_integer_and_float_images_agree() -> None:
    phantom = make_phantom((40, 50, 60), seed=3)
    arrays = phantom.sct.array, phantom.ct.array, phantom.mask.array
    result = ms_ssim(*arrays)
    for kind in (np.float32, np.float64, np.int32):
        other = ms_ssim(arrays[0].astype(kind), arrays[1].astype(kind), arrays[2])
        assert other.challenge == pytest.approx(result.challenge, rel=1e-12)


def test_identical_images_score_one_and_what_is_outside_the_mask_is_ignored() -> None:
    sct, ct = _pair((30, 40, 40))
    mask = np.zeros(ct.shape, bool)
    mask[4:26, 6:34, 6:34] = True
    changed = np.where(mask, ct, 2000)
    assert ms_ssim(changed, ct, mask).challenge == pytest.approx(1.0)
    assert ms_ssim(sct, ct, mask).challenge < 1


def test_values_beyond_the_range_are_clipped() -> None:
    sct, ct = _pair((30, 40, 40))
    mask = np.ones(ct.shape, bool)
    beyond = np.where(sct > 200, sct + 10_000, sct)
    assert ms_ssim(beyond, ct, mask).challenge == pytest.approx(
        ms_ssim(beyond.clip(-1024, 3071), ct, mask).challenge, rel=1e-12
    )


def test_an_empty_mask_has_no_value() -> None:
    sct, ct = _pair((10, 10, 10))
    result = ms_ssim(sct, ct, np.zeros(ct.shape, bool))
    assert math.isnan(result.challenge)
    assert math.isnan(result.textbook)


def test_a_mask_that_is_gone_at_a_coarse_level_has_no_value() -> None:
    sct, ct = _pair((100, 100, 100))
    mask = np.zeros(ct.shape, bool)
    mask[51, 51, 51] = True  # odd indices: the first halving drops it
    assert math.isnan(ms_ssim(sct, ct, mask).challenge)


def test_bounding_box() -> None:
    mask = np.zeros((4, 5, 6), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[2, 4, 3] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 5), slice(3, 4))
