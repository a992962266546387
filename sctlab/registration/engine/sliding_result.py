"""Two splines and the surface between them as one displacement field, guarded against folding on either side."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.jacobian import determinant, jacobian_determinant
from sctlab.registration.engine.bspline import ControlGrid, evaluate
from sctlab.registration.engine.folding import FoldingReport, measure, repair
from sctlab.registration.engine.lattice import grid_positions
from sctlab.registration.engine.sliding import SLAB, Domains, Surface, distances, share_of
from sctlab.transforms.data import DisplacementField
from sctlab_model.volume import Geometry, triple

Axes = tuple[np.ndarray, ...]

THINNEST_MM, THICKEST_MM = 1.0, 32.0  # of the sheet in which the wall's displacements pass into the inner ones
LEAST_IN_SHEET = 0.2  # determinant below which the sheet is made twice as thick
WIDEN_VOXELS = 2  # around such a place


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
    # Displacement by the wall's spline [3, z, y, x], and what sets the inner one's apart.
    wall, apart = coefficients.new_empty(3, *inside.shape), coefficients.new_zeros(3, *inside.shape)
    for start in range(0, len(own[0]), SLAB):
        window = slice(start, start + SLAB)
        field = evaluate(coefficients, triple((bases[0][window], bases[1], bases[2])))
        points = grid_positions((own[0][window], own[1], own[2]), field.device)
        one, other = domains.sides(points, field.flatten(1), inside[window].flatten(), THICKEST_MM / 2)
        wall[:, window], apart[:, window] = field[:3], (other - one).T.reshape(field[:3].shape)
    steps = [float(s) for s in fixed.spacing_xyz[::-1]]
    vectors = _in_a_sheet(wall, apart, inside, body, steps)
    along_axes = vectors.flip(0).double().cpu().numpy()
    whole = DisplacementField(fixed, np.einsum("ij,jzyx->izyx", fixed.axes, along_axes))
    # Half a voxel would miss all of them where the surface runs midway between.
    near = body & (inside.abs() <= max(2.0, 0.6 * float(max(fixed.spacing_xyz))))
    normals = torch.stack(torch.gradient(inside, spacing=steps))[:, near]
    normals = normals / normals.norm(dim=0).clamp_min(1e-6)
    jump = apart[:, near]
    gap = (jump * normals).sum(0)
    slip = (jump - gap * normals).norm(dim=0)
    found = jacobian_determinant(whole)[body.cpu().numpy()]
    return whole, SlidingReport(
        float(slip.mean()) if len(slip) else 0.0,
        float(gap.abs().mean()) if len(gap) else 0.0,
        len(gap),
        100 * float((found <= 0).mean()),
        float(found.min()),
    )


def _in_a_sheet(wall: Tensor, apart: Tensor, inside: Tensor, body: Tensor, steps: list[float]) -> Tensor:
    """Displacements [3, z, y, x] that pass from the wall's to the inner ones in a sheet, as thin as doesn't fold.

    Args:
        wall, apart: Displacement by the wall's spline, and what sets the inner one's apart: along z, y, x [3, z, y, x].
        inside: Signed distance to the surface, mm [z, y, x].
        body: Where folds count (bool) [z, y, x].
        steps: Voxels along z, y, x in mm.
    """
    thickness = torch.full_like(inside, THINNEST_MM)
    vectors = wall + share_of(inside, thickness) * apart
    chosen = torch.nonzero((body & (inside.abs() < THINNEST_MM / 2 + 2 * max(steps))).flatten())[:, 0]
    while len(chosen):
        bad = torch.zeros_like(body).flatten()
        bad[chosen[_determinants_at(vectors, chosen, steps) < LEAST_IN_SHEET]] = True
        bad = bad.reshape(body.shape) & (thickness < THICKEST_MM)
        if not bool(bad.any()):
            break
        around = _grown(bad, WIDEN_VOXELS)
        thickness = torch.where(around, 2 * thickness, thickness).clamp_max(THICKEST_MM)
        vectors = torch.where(around, wall + share_of(inside, thickness) * apart, vectors)
        chosen = torch.nonzero((body & _grown(around, 1)).flatten())[:, 0]
    return vectors


def _grown(mask: Tensor, voxels: int) -> Tensor:
    """A mask (bool) [z, y, x] and what lies within so many voxels of it."""
    pooled = torch.nn.functional.max_pool3d(mask.float()[None, None], 2 * voxels + 1, stride=1, padding=voxels)
    return pooled[0, 0] > 0


def _determinants_at(vectors: Tensor, chosen: Tensor, steps: list[float]) -> Tensor:
    """As `jacobian_determinant`, at some voxels alone (flat index, [N]): [N]."""
    shape, flat = vectors.shape[1:], vectors.flatten(1)
    strides = (shape[1] * shape[2], shape[2], 1)
    columns = []
    for size, stride, step in zip(shape, strides, steps, strict=True):
        place = chosen // stride % size
        low, high = (place > 0).long(), (place < size - 1).long()
        rise = flat[:, chosen + high * stride] - flat[:, chosen - low * stride]
        columns.append(rise / ((low + high) * step))
    matrix = torch.stack(columns, dim=1)
    for k in range(3):
        matrix[k, k] += 1
    found: Tensor = determinant(matrix)
    return found
