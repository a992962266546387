"""A coarse search over displacements before the continuous stage, so that a large shift is no trap.

Pooled features are compared at every displacement of a grid; a smooth field is then found by alternating between
the best displacement of each cell and its neighbours' mean, coupled ever more tightly (coupled convex
optimisation: Heinrich, Papież, Schnabel and Handels, "Non-parametric discrete registration with convex
optimisation", WBIR 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sctlab.registration.engine.lattice import Lattice, sample_at
from sctlab.registration.engine.settings import Discrete
from sctlab_model.volume import triple

COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # per squared step, the published schedule


def search(
    fixed: tuple[Tensor, Lattice],
    moving: tuple[Tensor, Lattice],
    fixed_weight: Tensor,
    moving_valid: Tensor,
    settings: Discrete,
) -> tuple[Tensor, Lattice]:
    """Displacements in mm [3 (z, y, x), cells z, y, x] on the lattice of cells.

    Args:
        fixed, moving: Features [1, C, z, y, x] and their lattices.
        fixed_weight: Fixed mask on the fixed lattice [1, 1, z, y, x].
        moving_valid: Where the moving image counts, on its lattice.
    """
    step = settings.step_mm
    reach = max(1, round(settings.reach_mm / step))
    f, cells = _pooled(fixed[0], fixed[1], step)
    weight, _ = _pooled(fixed_weight, fixed[1], step)
    wide = Lattice(
        triple(s - reach * step for s in cells.start_zyx), step, triple(n + 2 * reach for n in cells.size_zyx)
    )
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in wide.size_zyx], indexing="ij"), dim=-1)
    points = (grid.reshape(-1, 3) * step + torch.tensor(wide.start_zyx)).float().to(f.device)
    smooth, _ = _pooled(torch.cat((moving[0], moving_valid), dim=1), moving[1], step, same=True)
    m = sample_at(smooth, moving[1], points).reshape(1, -1, *wide.size_zyx)
    m, valid = m[:, :-1], m[:, -1:]
    inside = (
        (points >= points.new_tensor(moving[1].start_zyx))
        & (
            points
            <= points.new_tensor(
                [s + (n - 1) * moving[1].spacing for s, n in zip(moving[1].start_zyx, moving[1].size_zyx, strict=True)]
            )
        )
    ).all(-1)
    valid = valid * inside.reshape(valid.shape)

    size = cells.size_zyx
    count = 2 * reach + 1
    costs = f.new_empty(count**3, *size)
    for k in range(count**3):
        dz, dy, dx = k // count**2, k // count % count, k % count
        window = (..., slice(dz, dz + size[0]), slice(dy, dy + size[1]), slice(dx, dx + size[2]))
        w = weight * valid[window]
        difference = (f - m[window]).square().sum(1, keepdim=True) * w
        # where nothing can be compared a cell has no opinion: the mean cost of the others comes by the smoothing
        share = _smooth(_smooth(w))
        local = _smooth(_smooth(difference)) / share.clamp_min(1e-3)
        costs[k] = torch.where(share > 0.02, local, torch.full_like(local, float("nan")))[0, 0]
    worst = torch.nan_to_num(costs, nan=-1).amax(0, keepdim=True)
    costs = torch.where(costs.isnan(), worst.clamp_min(0).expand_as(costs), costs)

    axis = torch.arange(-reach, reach + 1, device=f.device, dtype=torch.float32)
    steps = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    # Where features can't tell displacements apart the smallest is the best guess.
    costs = costs + settings.caution * costs.mean() * (steps / reach).square().sum(0)[:, None, None, None]
    found = steps[:, costs.argmin(0).flatten()].reshape(1, 3, *size)
    found = _smooth(found)
    for coupling in COUPLING:
        best = torch.empty_like(costs[0], dtype=torch.long)
        for z in range(size[0]):
            distance = (steps[:, :, None, None] - found[0, :, None, z]).square().sum(0)
            best[z] = (costs[:, z] + coupling * distance).argmin(0)
        found = _smooth(steps[:, best.flatten()].reshape(1, 3, *size))
    return found[0] * step, cells


def _pooled(features: Tensor, lattice: Lattice, step: float, *, same: bool = False) -> tuple[Tensor, Lattice]:
    """Means over boxes of about `step` mm; `same` keeps the voxels (a moving average)."""
    size = max(1, round(step / lattice.spacing))
    if size > 1:
        pads = [v for _ in range(3) for v in (size // 2, (size - 1) // 2)]
        features = functional.avg_pool3d(functional.pad(features, pads, mode="replicate"), size, stride=1)
    if same:
        return features, lattice
    cells = Lattice.between(
        lattice.start_zyx,
        [s + (n - 1) * lattice.spacing for s, n in zip(lattice.start_zyx, lattice.size_zyx, strict=True)],
        step,
    )
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in cells.size_zyx], indexing="ij"), dim=-1)
    points = (grid.reshape(-1, 3) * step + torch.tensor(cells.start_zyx)).float().to(features.device)
    return sample_at(features, lattice, points).reshape(1, -1, *cells.size_zyx), cells


def _smooth(values: Tensor) -> Tensor:
    return functional.avg_pool3d(functional.pad(values, [1] * 6, mode="replicate"), 3, stride=1)
