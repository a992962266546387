"""A ball that runs into what lies before it: the field is smoothed there, and nowhere else."""

from __future__ import annotations

import numpy as np
import torch

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.engine.unfolding import unfolded
from sctlab.transforms.data import DisplacementField
from sctlab_model.volume import Geometry

GRID = Geometry((24, 22, 16), (2.0, 2.0, 3.0))
STEPS = [3.0, 2.0, 2.0]
LEAST = 0.2
EVERYWHERE = torch.ones(GRID.shape_zyx, dtype=torch.bool)


def ball(push_mm: float) -> torch.Tensor:
    """Displacements along z, y, x of a ball of 14 mm that moves along x against its surroundings."""
    z, y, x = (
        torch.from_numpy(i * s - (n - 1) * s / 2)
        for i, s, n in zip(np.indices(GRID.shape_zyx), STEPS, GRID.shape_zyx, strict=True)
    )
    field = torch.zeros(3, *GRID.shape_zyx)
    field[2] = push_mm * (x**2 + y**2 + z**2 < 14**2)
    return field


def central(field: torch.Tensor) -> np.ndarray:
    return jacobian_determinant(DisplacementField(GRID, field.flip(0).numpy().astype(np.float64)))


def test_what_folds_is_smoothed_until_it_does_not() -> None:
    before = ball(-7.0)
    assert central(before).min() < 0
    after = unfolded(before, EVERYWHERE, STEPS, least=LEAST)
    assert central(after).min() >= LEAST - 1e-4
    moved = (after - before).abs().sum(0) > 0
    assert moved.float().mean() < 0.2  # the ball's inside and what is far from it stay
    assert not moved[:2].any()


def test_a_fold_at_a_face_is_smoothed() -> None:
    """There differences are one-sided: a slice that is pushed beyond the next one."""
    before = torch.zeros(3, *GRID.shape_zyx)
    before[0, 0], before[2, :, :, -1] = 5.0, -5.0
    assert central(before)[0, 5, 5] < 0
    assert central(before)[5, 5, -1] < 0
    after = unfolded(before, EVERYWHERE, STEPS, least=LEAST)
    assert central(after).min() >= LEAST - 1e-4


def test_a_field_that_does_not_fold_stays_as_it_is() -> None:
    field = ball(1.0)
    assert torch.equal(unfolded(field, EVERYWHERE, STEPS, least=LEAST), field)


def test_folds_count_in_the_body_alone() -> None:
    """The ball folds what lies before it, on one side of its middle."""
    field, behind = ball(-7.0), EVERYWHERE.clone()
    behind[..., :12] = False
    assert torch.equal(unfolded(field, behind, STEPS, least=LEAST), field)
    found = central(unfolded(field, ~behind, STEPS, least=LEAST))
    assert found[..., :12].min() >= LEAST - 1e-4
