"""Both images and their masks as tensors on their own grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sctlab.registration.engine.lattice import bounds_mm, to_device
from sctlab_model.volume import Geometry, Volume


@dataclass(frozen=True)
class Images:
    """Both images and their masks as tensors [1, 1, z, y, x] on their own grids."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    moving_mask: Tensor
    bone: Tensor | None
    cavity: Tensor | None
    cavity_moves: bool
    fixed_geometry: Geometry
    moving_geometry: Geometry
    low_zyx: np.ndarray
    high_zyx: np.ndarray

    @classmethod
    def prepare(
        cls,
        fixed: Volume,
        moving: Volume,
        fixed_mask: Volume | None,
        moving_mask: Volume | None,
        bone: Volume | None,
        device: torch.device,
        cavity: Volume | None = None,
        cavity_moves: bool = True,
    ) -> Images:
        """Tensors on the device; masks on their image's grid, everything where there is no mask."""
        f_mask, m_mask = _on_grid(fixed_mask, fixed.geometry), _on_grid(moving_mask, moving.geometry)
        low, high = bounds_mm(f_mask)
        side = moving if cavity_moves else fixed
        return cls(
            to_device(fixed.array, device),
            to_device(moving.array, device),
            to_device(f_mask.array, device),
            to_device(m_mask.array, device),
            None if bone is None else to_device(_on_grid(bone, moving.geometry).array, device),
            None if cavity is None else to_device(_on_grid(cavity, side.geometry).array, device),
            cavity_moves,
            fixed.geometry,
            moving.geometry,
            low,
            high,
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.fixed.device

    def mask_at(self, positions_zyx: tuple[np.ndarray, ...]) -> Tensor:
        """The fixed mask (bool) on a rectilinear grid of positions in mm, nearest voxel."""
        mask = self.fixed_mask[0, 0] > 0.5
        for axis, positions in enumerate(positions_zyx):
            spacing = self.fixed_geometry.spacing_xyz[2 - axis]
            index = np.clip(np.rint(positions / spacing), 0, mask.shape[axis] - 1).astype(np.int64)
            mask = mask.index_select(axis, torch.from_numpy(index).to(mask.device))
        return mask


def _on_grid(mask: Volume | None, geometry: Geometry) -> Volume:
    """A mask (bool) on an image's grid; all of it when there is none."""
    from sctlab_model.volume import resample

    if mask is None:
        return Volume(np.ones(geometry.shape_zyx, dtype=bool), geometry)
    mask = mask.with_array(mask.array > 0)
    return mask if mask.geometry.same_grid(geometry) else resample(mask, geometry, interpolation="nearest")
