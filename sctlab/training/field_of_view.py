"""Smaller fields of view: a training case as a scan that ends in the body shows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab_model.preparation import canvas_box, stack_indices
from sctlab_model.recipe import Canvas

SIDE = 0.5  # of the cut ones, how many end early on each side
LEAST_VOXELS = 16  # in the plane, that are left on either side of the drawn voxel


@dataclass(frozen=True)
class FieldOfView:
    """A box of a case's canvas, and nothing beyond it, as if the scan had ended there.

    Preparation leaves nothing else of a body that the image's border cuts: no mask, no target, and in the source the
    value of air; the slices beyond the ends are reflected ones.

    Args:
        first: First slice, row and column.
        last: Those behind the last.
    """

    first: tuple[int, int, int]
    last: tuple[int, int, int]

    @classmethod
    def draw(
        cls,
        shape: tuple[int, ...],
        slices: tuple[int, int],
        y: int,
        x: int,
        reach: int,
        rng: np.random.Generator,
    ) -> FieldOfView:
        """A box around a voxel: each side in the plane, and one end of the volume, is cut in half of the draws.

        Args:
            shape: Of the case, z, y, x.
            slices: First and last slice that must stay.
            y: Row of the voxel.
            x: Column of the voxel.
            reach: Neighbouring slices that the network sees on one side: an end farther away isn't noticed.
            rng: Of this draw.

        Example:
            >>> view = FieldOfView.draw((9, 64, 64), (4, 4), 30, 40, 2, np.random.default_rng(0))
            >>> [a <= k < b for a, k, b in zip(view.first, (4, 30, 40), view.last)]
            [True, True, True]
        """
        first, last = [0, 0, 0], list(shape)
        for axis, place in ((1, y), (2, x)):
            if rng.random() < SIDE:
                first[axis] = int(rng.integers(max(place - LEAST_VOXELS, 0) + 1))
            if rng.random() < SIDE:
                last[axis] = int(rng.integers(min(place + LEAST_VOXELS + 1, shape[axis]), shape[axis] + 1))
        if rng.random() < SIDE:
            left = int(rng.integers(reach + 1))  # neighbours that are left on that side
            if rng.random() < 0.5:
                first[0] = max(slices[0] - left, 0)
            else:
                last[0] = min(slices[1] + left + 1, shape[0])
        return cls((first[0], first[1], first[2]), (last[0], last[1], last[2]))

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> FieldOfView:
        """All of a case's canvas (z, y, x)."""
        return cls((0, 0, 0), (shape[0], shape[1], shape[2]))

    def stack(self, z: int, slices: int) -> np.ndarray:
        """Indices into the case's slices of the network's input around slice `z`, reflected at the ends."""
        return self.first[0] + stack_indices(self.last[0] - self.first[0], slices)[z - self.first[0]]

    def plane(self, array: np.ndarray) -> np.ndarray:
        """What the field of view holds of planes [..., y, x]."""
        return array[..., self.first[1] : self.last[1], self.first[2] : self.last[2]]

    def canvas(self, mask: np.ndarray, canvas: Canvas) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row and column, and size, of the canvas that preparation gives this image; of the box's own planes.

        Args:
            mask: Of the case, bool [z, y, x].
            canvas: Of the recipe.
        """
        start, size = canvas_box(self.plane(mask[self.first[0] : self.last[0]]), canvas)
        return (start[1], start[2]), (size[1], size[2])
