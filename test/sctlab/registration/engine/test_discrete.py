"""The coarse search finds displacements that are far larger than the structures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sctlab.registration.engine.discrete import search
from sctlab.registration.engine.lattice import Lattice
from sctlab.registration.engine.settings import Discrete


@pytest.mark.parametrize("shift", [(0, 0, 0), (4, -2, 0), (-4, 4, 4)])
def test_a_large_shift_is_found(shift: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    base = functional.avg_pool3d(torch.randn(1, 6, 44, 44, 44, generator=generator), 3, stride=1, padding=1)
    crop = (..., slice(10, 34), slice(10, 34), slice(10, 34))
    fixed = base[crop]
    moving = torch.roll(base, shift, dims=(2, 3, 4))
    lattice = Lattice((40.0, 40.0, 40.0), 4.0, (24, 24, 24))
    wide = Lattice((0.0, 0.0, 0.0), 4.0, (44, 44, 44))
    ones = torch.ones(1, 1, 24, 24, 24), torch.ones(1, 1, 44, 44, 44)
    found, cells = search((fixed, lattice), (moving, wide), *ones, Discrete(reach_mm=24.0, step_mm=8.0))
    assert found.shape == (3, *cells.size_zyx)
    expected = torch.tensor(shift).float() * 4
    torch.testing.assert_close(found.mean((1, 2, 3)), expected, rtol=0, atol=1.0)
