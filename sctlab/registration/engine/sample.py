"""Fixed points drawn at a level and where the field sends them: what every term is evaluated at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sctlab.registration.engine.bspline import ControlGrid, evaluate_at
from sctlab.registration.engine.sliding import Domains


@dataclass(frozen=True)
class Sample:
    """Points of the fixed mask on a strided subgrid of the level's lattice, and the field at them.

    Args:
        coefficients: Control points [3 (z, y, x), z, y, x] in mm, with gradient; [6, …] where two splines share the body.
        grid: Where the control points lie.
        points: Fixed points [N, 3] in mm (z, y, x).
        moved: Where the field sends them, with gradient.
        weights: 1 where a moved point lands on valid moving voxels, else 0; [N].
        index: Flat index of the points' voxels in the fixed lattice, [N].
        window: The subgrid as slices of the lattice, z, y, x.
        chosen: Flat index of the points in the subgrid, [N].
        domains: Which of two splines moves a point; None where there is one.
    """

    coefficients: Tensor
    grid: ControlGrid
    points: Tensor
    moved: Tensor
    weights: Tensor
    index: Tensor
    window: tuple[slice, ...]
    chosen: Tensor
    domains: Domains | None = None

    def field(self, points: Tensor) -> Tensor:
        """Where the field sends any fixed points [M, 3] (mm; z, y, x), with gradient."""
        moved = evaluate_at(self.coefficients, self.grid, points).T
        if self.domains is not None:
            return self.domains.joined(points, moved, self.domains.at(points))
        return points + moved.T
