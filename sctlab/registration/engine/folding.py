"""After the optimisation: the Jacobian determinant of the field, measured, and repaired where it must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.jacobian import determinant
from sctlab.registration.engine.bspline import ControlGrid, evaluate, jacobian
from sctlab_model.volume import triple


@dataclass(frozen=True)
class FoldingReport:
    """Determinant of the Jacobian of x ↦ x + u(x) over the voxels of the body.

    Args:
        smallest: Smallest determinant.
        folded_percent: Share of voxels at or below zero.
        voxels: Voxels looked at.
        repaired: Whether control points were pulled together to remove folds.
    """

    smallest: float
    folded_percent: float
    voxels: int
    repaired: bool = False


def determinants(
    coefficients: Tensor, grid: ControlGrid, positions_zyx: tuple[np.ndarray, ...], slab: int = 16
) -> Tensor:
    """Determinant on a rectilinear grid [z, y, x], a few slices at a time."""
    parts = []
    for start in range(0, len(positions_zyx[0]), slab):
        positions = (positions_zyx[0][start : start + slab], *positions_zyx[1:])
        parts.append(determinant(jacobian(coefficients, grid, positions)))
    return torch.cat(parts)


def measure(
    coefficients: Tensor, grid: ControlGrid, positions_zyx: tuple[np.ndarray, ...], body: Tensor
) -> FoldingReport:
    """Folding over the body [z, y, x] (bool) of a rectilinear grid; everything counts where the body is empty."""
    values = determinants(coefficients, grid, positions_zyx)
    values = values[body] if bool(body.any()) else values.flatten()
    return FoldingReport(float(values.min()), 100 * float((values <= 0).float().mean()), values.numel())


def repair(
    coefficients: Tensor,
    grid: ControlGrid,
    positions_zyx: tuple[np.ndarray, ...],
    body: Tensor,
    *,
    least: float,
    rounds: int = 60,
) -> tuple[Tensor, FoldingReport]:
    """Smooth the control points around places where the determinant is below `least`, until there is none.

    Control points whose support holds such a place are replaced by the mean of themselves and their neighbours;
    the rest of the field stays as it is.
    """
    report = measure(coefficients, grid, positions_zyx, body)
    repaired = False
    bases = [grid.basis(a, positions_zyx[a]).to(coefficients) for a in range(3)]
    for _ in range(rounds):
        if report.smallest >= least:
            break
        bad = (determinants(coefficients, grid, positions_zyx) < least) & (body if bool(body.any()) else True)
        touched = evaluate(bad.float()[None], triple(b.T.contiguous() for b in bases)) > 1e-6
        smooth = _box_mean(coefficients)
        coefficients = torch.where(touched, smooth, coefficients)
        repaired = True
        report = measure(coefficients, grid, positions_zyx, body)
    return coefficients, FoldingReport(report.smallest, report.folded_percent, report.voxels, repaired)


def _box_mean(values: Tensor) -> Tensor:
    """Mean over 3x3x3 control points of [3, z, y, x], edges repeated."""
    padded = torch.nn.functional.pad(values[None], [1] * 6, mode="replicate")
    return torch.nn.functional.avg_pool3d(padded, 3, stride=1)[0]
