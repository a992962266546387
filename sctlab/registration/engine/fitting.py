"""Displacements on a lattice as spline coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.lattice import Lattice


def fitted(values: Tensor, cells: Lattice, grid: ControlGrid) -> Tensor:
    """Least-squares spline coefficients of [3, z, y, x] on a lattice, a little ridge where nothing is known."""
    out = values
    for axis in range(3):
        basis = grid.basis(axis, cells.positions(axis)).double().to(values.device)
        normal = basis.T @ basis
        smooth = torch.eye(len(normal), dtype=torch.float64, device=values.device).diff(n=2, dim=0)
        normal = normal + 0.05 * smooth.T @ smooth + 1e-6 * torch.eye(len(normal), device=values.device)
        solution = torch.linalg.solve(normal, basis.T).float()  # [control points, cells]
        out = torch.tensordot(solution, out, dims=([1], [axis + 1])).movedim(0, axis + 1)
    return out
