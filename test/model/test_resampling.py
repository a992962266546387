"""One smoothing against aliasing: what lies above the coarse grid's Nyquist frequency goes, what lies below stays."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab_model.resampling import alias_sigma, anti_aliased
from sctlab_model.volume import Geometry, Volume


def waves(period_mm: float) -> Volume:
    x = np.arange(96) * 1.0
    values = np.sin(2 * np.pi * x / period_mm).astype(np.float32)
    return Volume(np.broadcast_to(values, (8, 8, 96)).copy(), Geometry((96, 8, 8), (1.0, 1.0, 3.0)))


@pytest.mark.parametrize("kernel", ["sampled", "discrete"])
def test_fine_structure_goes_and_coarse_structure_stays(kernel) -> None:
    inner = (slice(2, -2), slice(2, -2), slice(16, -16))
    for period, low, high in ((3.0, 0.0, 0.2), (40.0, 0.9, 1.01)):
        kept = np.abs(anti_aliased(waves(period), (4.0, 1.0, 3.0), kernel=kernel).array[inner]).max()
        assert low <= kept <= high


def test_axes_that_do_not_get_coarser_are_left_alone() -> None:
    volume = waves(3.0)
    assert np.array_equal(anti_aliased(volume, (1.0, 1.0, 2.0)).array, volume.array)
    assert np.array_equal(anti_aliased(volume, (1.4, 1.0, 3.0), least_ratio=1.5).array, volume.array)
    assert not np.array_equal(anti_aliased(volume, (1.4, 1.0, 3.0)).array, volume.array)


@pytest.mark.parametrize("kernel", ["sampled", "discrete"])
def test_the_kernel_has_the_width_that_is_asked_for(kernel) -> None:
    """Variance of a point's image along x, in voxels: that of `alias_sigma`."""
    array = np.zeros((3, 3, 65), np.float32)
    array[:, :, 32] = 1
    spread = anti_aliased(Volume(array, Geometry((65, 3, 3))), (5.0, 1.0, 1.0), kernel=kernel).array[1, 1]
    variance = float((spread * (np.arange(65) - 32.0) ** 2).sum() / spread.sum())
    assert variance == pytest.approx(
        float(alias_sigma(np.array([1.0]), 5.0, 0.4)[0]) ** 2, rel=0.12
    )  # ITK cuts the kernel where 2 % are left
