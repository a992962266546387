"""The guard against folding."""

from __future__ import annotations

import numpy as np
import torch

from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.folding import measure, repair
from sctlab.registration.engine.terms.folding import penalty

GRID = ControlGrid.covering((60.0, 60.0, 60.0), 10.0)
VOXELS = tuple(np.arange(0, 61, 2.0) for _ in range(3))
BODY = torch.ones(31, 31, 31, dtype=torch.bool)


def folding_field() -> torch.Tensor:
    """One control point thrown far across its neighbours."""
    coefficients = torch.zeros(3, *GRID.size_zyx)
    coefficients[2, 4, 4, 4] = 60.0
    return coefficients


def test_a_fold_is_measured() -> None:
    report = measure(folding_field(), GRID, VOXELS, BODY)
    assert report.smallest < 0
    assert report.folded_percent > 0
    still = measure(torch.zeros(3, *GRID.size_zyx), GRID, VOXELS, BODY)
    assert (still.smallest, still.folded_percent) == (1.0, 0.0)


def test_folds_outside_the_body_do_not_count() -> None:
    body = BODY.clone()
    body[10:25, 10:25, 10:25] = False
    assert measure(folding_field(), GRID, VOXELS, body).folded_percent == 0


def test_a_fold_is_repaired_where_it_is() -> None:
    coefficients = folding_field()
    coefficients[0, 0:2, 0:2, 0:2] = 1.5  # a harmless motion elsewhere
    repaired, report = repair(coefficients, GRID, VOXELS, BODY, least=0.1)
    assert report.smallest >= 0.1
    assert report.repaired
    assert torch.equal(repaired[:, 0, 0, 0], coefficients[:, 0, 0, 0])
    assert float(repaired[2].max()) > 1  # smoothed, not wiped out


def test_a_sound_field_is_left_alone() -> None:
    coefficients = 0.5 * torch.randn(3, *GRID.size_zyx, generator=torch.Generator().manual_seed(0))
    same, report = repair(coefficients, GRID, VOXELS, BODY, least=0.1)
    assert same is coefficients
    assert not report.repaired


def test_the_penalty_pulls_a_fold_apart() -> None:
    coefficients = folding_field().requires_grad_()
    value = penalty(coefficients, GRID, VOXELS, 0.2)
    value.backward()
    assert value > 0
    better = coefficients.detach() - coefficients.grad / coefficients.grad.abs().max()
    assert penalty(better, GRID, VOXELS, 0.2) < value
    assert float(penalty(torch.zeros_like(better), GRID, VOXELS, 0.2)) == 0
