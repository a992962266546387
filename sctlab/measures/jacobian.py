"""The Jacobian determinant: how a transform changes volume, and where it folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sctlab_model.errors import InputError

if TYPE_CHECKING:
    from sctlab.transforms.data import DisplacementField


def determinant(matrix: Any) -> Any:
    """Determinant of 3x3 matrices [3, 3, ...] (a NumPy array or a tensor of PyTorch) along the first two axes."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def jacobian_determinant(field: DisplacementField) -> np.ndarray:
    """Determinant of the Jacobian of x ↦ x + u(x) at each voxel [z, y, x]; at most 0 where the field folds.

    Central differences inside the grid, one-sided ones at its faces.

    Raises:
        InputError: A grid of one voxel along an axis.
    """
    if min(field.grid.size_xyz) < 2:
        raise InputError(
            "displacement field", found=f"{field.grid.size_xyz} voxels", expected="at least 2 along each axis"
        )
    to_index = np.linalg.inv(field.grid.matrix)
    jacobian = np.empty((3, 3, *field.grid.shape_zyx))
    for component in range(3):
        by_index = np.gradient(field.vectors[component].astype(np.float64))[::-1]  # x, y, z
        jacobian[component] = np.einsum("kzyx,kj->jzyx", np.stack(by_index), to_index)
        jacobian[component, component] += 1
    return determinant(jacobian)
