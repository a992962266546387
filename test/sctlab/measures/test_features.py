"""Distances in a network's features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sctlab.features import load_extractor
from sctlab.measures.features import feature_distance

SHAPE = (6, 40, 36)


def _images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    ct = random.normal(0, 200, SHAPE).cumsum(2).astype(np.float32) / 4
    mask = np.zeros(SHAPE, bool)
    mask[1:5, 8:32, 6:30] = True
    return ct, mask


@pytest.mark.parametrize("name", ["mind", "mind-2d"])
def test_any_registered_extractor(name: str) -> None:
    extractor = load_extractor(name)
    ct, mask = _images()
    assert feature_distance(extractor, ct, ct, mask) == 0
    outside = np.where(mask, ct, ct + 500)
    assert feature_distance(extractor, outside, ct, mask) == 0  # only the body counts
    random = np.random.default_rng(1)
    small, large = (ct + amplitude * random.normal(size=SHAPE) for amplitude in (20, 200))
    distances = [feature_distance(extractor, image, ct, mask) for image in (small, large)]
    assert 0 < distances[0] < distances[1]
    assert feature_distance(extractor, large, ct, mask, unit=True) > 0
    assert math.isnan(feature_distance(extractor, ct, ct, mask & False))


def test_the_study_s_definition() -> None:
    """d_SAM: the L1 of features of every slice, padded at the end to 512, with the same statistics for both images."""
    extractor = load_extractor("mind-2d")
    ct, mask = _images()
    sct = ct + 50
    from sctlab.features import Statistics

    expected = []
    for z in range(1, 5):
        padded = []
        for image in (sct, ct):
            plane = np.full((512, 512), -1024, np.float32)
            plane[: SHAPE[1], : SHAPE[2]] = np.where(mask[z], image[z], -1024).clip(-1024, 3071)
            padded.append(torch.from_numpy(plane)[None, None])
        layers = zip(*(extractor(p, statistics=Statistics.from_range(-1024, 3071)) for p in padded), strict=True)
        expected.append(np.mean([float((a - b).abs().double().mean()) for a, b in layers]))
    assert feature_distance(extractor, sct, ct, mask) == pytest.approx(np.mean(expected), rel=1e-5)


def test_lpips_s_slices_stand_in_the_middle() -> None:
    """Zeros of a convolution beyond the border are far from a centred body, so its place must not matter, as it does at the end."""
    from sctlab.measures import features

    image = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3)
    padded = features._padded(image, centred=True)
    assert padded.shape[-2:] == (512, 512)
    assert torch.equal(padded[..., 255:257, 254:257], image)
    assert torch.equal(features._padded(image, centred=False)[..., :2, :3], image)
    assert float(padded.sum() - image.sum()) == -1024.0 * (512 * 512 - 6)
