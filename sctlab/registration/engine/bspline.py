"""A uniform cubic B-spline displacement in the fixed image's own axes, evaluated as three separable products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sctlab.transforms.cubic import cubic_slopes, cubic_weights
from sctlab_model.volume import triple


@dataclass(frozen=True)
class ControlGrid:
    """Control points along the fixed image's index axes, in mm from the centre of its first voxel; axes z, y, x.

    Args:
        start_zyx: Position of the first control point, mm.
        spacing_zyx: Knot spacing, mm.
        size_zyx: Number of control points.
    """

    start_zyx: tuple[float, float, float]
    spacing_zyx: tuple[float, float, float]
    size_zyx: tuple[int, int, int]

    @classmethod
    def covering(cls, extent_zyx: tuple[float, float, float], spacing: float, margin: float = 1.0) -> ControlGrid:
        """The grid whose valid region holds [−margin, extent + margin] along each axis (all in mm).

        Knots are sized by the physical extent: an axis shorter than the spacing still gets its own knots, never
        more than the extent asks for.
        """
        count = [max(1, math.ceil((e + 2 * margin) / spacing)) for e in extent_zyx]
        start = tuple((e - n * spacing) / 2 - spacing for e, n in zip(extent_zyx, count, strict=True))
        return cls(triple(start), (spacing,) * 3, triple(n + 3 for n in count))

    def refined(self) -> ControlGrid:
        """Half the spacing, the same valid region."""
        return ControlGrid(
            triple(s + h / 2 for s, h in zip(self.start_zyx, self.spacing_zyx, strict=True)),
            triple(h / 2 for h in self.spacing_zyx),
            triple(2 * n - 3 for n in self.size_zyx),
        )

    def basis(self, axis: int, positions: np.ndarray | Tensor, derivative: int = 0) -> Tensor:
        """Weights of the control points at positions (mm) along one axis: [positions, control points], float32.

        Args:
            axis: 0, 1 or 2 for z, y, x.
            positions: mm; beyond the valid region the value at its border is used.
            derivative: 0 for values, 1 for first derivatives per mm.
        """
        count, spacing = self.size_zyx[axis], self.spacing_zyx[axis]
        t = torch.as_tensor(np.asarray(positions, dtype=np.float64) - self.start_zyx[axis]) / spacing
        t = t.clamp(1.0, count - 2.0)
        base = t.floor().clamp(1, count - 3)
        f = t - base
        values = cubic_weights(f) if derivative == 0 else tuple(v / spacing for v in cubic_slopes(f))
        weights = torch.zeros(len(t), count, dtype=torch.float64)
        columns = base.long()[:, None] + torch.arange(-1, 3)[None, :]
        weights.scatter_(1, columns, torch.stack(values, dim=1))
        return weights.float()


def evaluate(coefficients: Tensor, bases: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Spline values on a rectilinear grid.

    Args:
        coefficients: [C, z, y, x] of control points.
        bases: For z, y, x: [points along the axis, control points along the axis].

    Returns:
        [C, points z, points y, points x].
    """
    basis_z, basis_y, basis_x = bases
    out = torch.matmul(coefficients, basis_x.T)
    out = torch.matmul(basis_y, out)
    shape = out.shape
    return torch.matmul(basis_z, out.reshape(shape[0], shape[1], -1)).reshape(shape[0], -1, *shape[2:])


def evaluate_at(coefficients: Tensor, grid: ControlGrid, points: Tensor) -> Tensor:
    """The spline [N, C] at scattered points [N, 3] (mm, z, y, x), 64 control points each; with gradient."""
    index, weights = [], []
    for axis in range(3):
        t = (points[:, axis] - grid.start_zyx[axis]) / grid.spacing_zyx[axis]
        t = t.clamp(1.0, grid.size_zyx[axis] - 2.0)
        base = t.floor().clamp(1, grid.size_zyx[axis] - 3)
        f = t - base
        weights.append(torch.stack(cubic_weights(f)))
        index.append(base.long() + torch.arange(-1, 3, device=points.device)[:, None])
    flat = coefficients.flatten(1).T
    total = points.new_zeros(len(points), flat.shape[1])
    _, ny, nx = grid.size_zyx
    for i in range(4):
        for j in range(4):
            for k in range(4):
                where = (index[0][i] * ny + index[1][j]) * nx + index[2][k]
                total = total + flat[where] * (weights[0][i] * weights[1][j] * weights[2][k])[:, None]
    return total


def refine(coefficients: Tensor) -> Tensor:
    """Coefficients of the same spline on `ControlGrid.refined` (two-scale relation of cubic B-splines)."""
    for axis in (1, 2, 3):
        n = coefficients.shape[axis]
        left, middle, right = (coefficients.narrow(axis, k, n - 2) for k in range(3))
        even = (left + 6 * middle + right) / 8
        odd = (coefficients.narrow(axis, 0, n - 1) + coefficients.narrow(axis, 1, n - 1)) / 2
        pairs = torch.stack((odd.narrow(axis, 0, n - 2), even), dim=axis + 1).flatten(axis, axis + 1)
        coefficients = torch.cat((pairs, odd.narrow(axis, n - 2, 1)), dim=axis)
    return coefficients


def jacobian(coefficients: Tensor, grid: ControlGrid, positions_zyx: tuple[np.ndarray, ...]) -> Tensor:
    """I + ∂u_i/∂x_j on a rectilinear grid: [3, 3, z, y, x], rows and columns in z, y, x order."""
    values = [grid.basis(a, positions_zyx[a]).to(coefficients) for a in range(3)]
    slopes = [grid.basis(a, positions_zyx[a], 1).to(coefficients) for a in range(3)]
    columns = [
        evaluate(coefficients, triple(slopes[a] if a == along else values[a] for a in range(3))) for along in range(3)
    ]
    matrix = torch.stack(columns, dim=1)
    for k in range(3):
        matrix[k, k] += 1
    return matrix
