"""Two splines and the surface between them as one displacement field, guarded against folding on either side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.engine.folding import FoldingReport, measure, repair
from sctlab.registration.engine.lattice import grid_positions
from sctlab.registration.engine.sliding import SLAB, Domains, Surface, distances, share_of, unit
from sctlab.registration.engine.unfolding import unfolded
from sctlab.transforms.data import DisplacementField
from sctlab_model.volume import Geometry, triple

Axes = tuple[np.ndarray, ...]

SHEET_MM = 1.0  # in which the wall's displacements pass into the inner ones, before what folds is smoothed
LEAST_IN_WHOLE = 0.2  # determinant below which a place of the whole field, sheet included, is smoothed


@dataclass(frozen=True)
class SlidingReport:
    """What happens at the surface, over the body's voxels within 2 mm of it (or the nearest ones).

    Args:
        slip_mm: Mean distance by which both sides part along the surface.
        gap_mm: … across it, without sign.
        voxels: Voxels looked at.
        folded_percent: Share of the body where the whole field's determinant, sheet included, is at or below zero (central
            differences between voxels, as in `quality.json`).
        smallest: Its smallest determinant.
    """

    slip_mm: float
    gap_mm: float
    voxels: int
    folded_percent: float
    smallest: float


def settle(
    coefficients: Tensor,
    grid: ControlGrid,
    surface: Surface,
    domains: Domains,
    *,
    coarse: Axes,
    coarse_body: Tensor,
    own: Axes,
    body: Tensor,
    least: float,
) -> tuple[Tensor, FoldingReport]:
    """Both splines without folds where each of them counts, and the determinant there.

    Args:
        coefficients: [6, control points] in mm.
        grid: The control points.
        surface, domains: Which spline counts where.
        coarse, coarse_body: Positions in mm and body at which folds are repaired.
        own, body: The fixed image's voxels, at which the report is made.
        least: Smallest determinant allowed.
    """
    rough = distances(surface, coefficients, grid, coarse, domains)
    fine = distances(surface, coefficients, grid, own, domains)
    halves, reports = [], []
    for spline, sign in zip(coefficients.split(3), (-1.0, 1.0), strict=True):
        counts = coarse_body & (sign * rough > -domains.blend_mm / 2)
        if not bool(counts.any()):
            halves.append(spline)
            continue
        repaired, first = repair(spline, grid, coarse, counts, least=least)
        halves.append(repaired)
        where = body & (sign * fine > -domains.blend_mm / 2)
        last = measure(repaired, grid, own, where) if bool(where.any()) else first
        reports.append(replace(last, smallest=min(first.smallest, last.smallest), repaired=first.repaired))
    total = sum(r.voxels for r in reports)
    return torch.cat(halves), FoldingReport(
        min(r.smallest for r in reports),
        sum(r.folded_percent * r.voxels for r in reports) / max(total, 1),
        total,
        any(r.repaired for r in reports),
    )


def compose_field(
    coefficients: Tensor,
    grid: ControlGrid,
    surface: Surface,
    domains: Domains,
    own: Axes,
    body: Tensor,
    fixed: Geometry,
) -> tuple[DisplacementField, SlidingReport]:
    """The vectors at the fixed image's voxels, and what happens at the surface.

    Args:
        coefficients, grid, surface, domains: As for `settle`, without folds on either side.
        own, body: The fixed image's voxels, and where folds count.
        fixed: Their grid.
    """
    inside = distances(surface, coefficients, grid, own, domains)
    beside = max(2.0, 0.6 * float(max(fixed.spacing_xyz)))  # half a voxel would miss a surface midway between voxels
    bases = [grid.basis(axis, own[axis]).to(coefficients) for axis in range(3)]
    # Displacement by the wall's spline [3, z, y, x], and what sets the inner one's apart.
    wall, apart = coefficients.new_empty(3, *inside.shape), coefficients.new_zeros(3, *inside.shape)
    for start in range(0, len(own[0]), SLAB):
        window = slice(start, start + SLAB)
        field = evaluate(coefficients, triple((bases[0][window], bases[1], bases[2])))
        points = grid_positions((own[0][window], own[1], own[2]), field.device)
        one, other = domains.sides(points, field.flatten(1), inside[window].flatten(), beside)
        wall[:, window], apart[:, window] = field[:3], (other - one).T.reshape(field[:3].shape)
    steps = [float(s) for s in fixed.spacing_xyz[::-1]]
    vectors = unfolded(wall + share_of(inside, SHEET_MM) * apart, body, steps, least=LEAST_IN_WHOLE)
    along_axes = vectors.flip(0).double().cpu().numpy()
    whole = DisplacementField(fixed, np.einsum("ij,jzyx->izyx", fixed.axes, along_axes))
    near = body & (inside.abs() <= beside)
    normals = unit(torch.stack(torch.gradient(inside, spacing=steps))[:, near])
    jump = apart[:, near]
    gap = (jump * normals).sum(0)
    slip = (jump - gap * normals).square().sum(0).sqrt()
    found = jacobian_determinant(whole)[body.cpu().numpy()]
    return whole, SlidingReport(
        float(slip.mean()) if len(slip) else 0.0,
        float(gap.abs().mean()) if len(gap) else 0.0,
        len(gap),
        100 * float((found <= 0).mean()),
        float(found.min()),
    )
