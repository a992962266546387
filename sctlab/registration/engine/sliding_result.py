"""Two splines and the surface between them as one displacement field, guarded against folding on either side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.engine.folding import FoldingReport, measure, repair
from sctlab.registration.engine.sliding import SLAB, Domains, Surface, distances, mixed, share_of
from sctlab.transforms.data import DisplacementField
from sctlab_model.volume import Geometry, triple

Axes = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class SlidingReport:
    """What happens at the surface, over the body's voxels within 2 mm of it (or the nearest ones).

    Args:
        slip_mm: Mean distance by which both sides part along the surface.
        gap_mm: … across it, without sign.
        voxels: Voxels looked at.
        folded_percent: Share of the body where the whole field's determinant, sheet included, is at or below zero.
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
    """The vectors at the fixed image's voxels, and what happens at the surface."""
    inside = distances(surface, coefficients, grid, own, domains)
    bases = [grid.basis(axis, own[axis]).to(coefficients) for axis in range(3)]
    vectors = np.empty((3, *inside.shape), np.float64)
    # Half a voxel would miss all of them where the surface runs midway between.
    near = body & (inside.abs() <= max(2.0, 0.6 * float(max(fixed.spacing_xyz))))
    jumps = []
    for start in range(0, len(own[0]), SLAB):
        window = slice(start, start + SLAB)
        field = evaluate(coefficients, triple((bases[0][window], bases[1], bases[2])))
        jumps.append((field[3:] - field[:3])[:, near[window]])
        along_axes = mixed(field, share_of(inside[window], domains.blend_mm)).flip(0).double().cpu().numpy()
        vectors[:, window] = np.einsum("ij,jzyx->izyx", fixed.axes, along_axes)
    whole = DisplacementField(fixed, vectors)
    steps = [float(s) for s in fixed.spacing_xyz[::-1]]
    normals = torch.stack(torch.gradient(inside, spacing=steps))[:, near]
    normals = normals / normals.norm(dim=0).clamp_min(1e-6)
    jump = torch.cat(jumps, dim=1)
    gap = (jump * normals).sum(0)
    slip = (jump - gap * normals).norm(dim=0)
    determinant = jacobian_determinant(whole)[body.cpu().numpy()]
    return whole, SlidingReport(
        float(slip.mean()) if len(slip) else 0.0,
        float(gap.abs().mean()) if len(gap) else 0.0,
        len(gap),
        100 * float((determinant <= 0).mean()),
        float(determinant.min()),
    )
