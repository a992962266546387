"""What the judge looks at: both images on one coarse isotropic grid over the fixed body, the moving one under the solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from sctlab.registration.pairs import Pair
from sctlab.registration.quality import best_rigid
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import AffineTransform, Transform
from sctlab.transforms.field import displacement_field, grid_points
from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import Geometry, Volume, resample

FINEST_MM = 5.0
MOST_VOXELS = 150_000  # keeps the judge within seconds; the grid gets coarser instead
MARGIN_MM = 8.0  # around the body: the skin counts
LEAST_VOXELS = 200
POINTS_MM = 12.0  # between those that tell the rigid motion


@dataclass(frozen=True)
class View:
    """Arrays [z, y, x] on one isotropic grid.

    Args:
        fixed, moving: Values clipped to where tissues differ, float32; the moving image under the solution.
        data: Where both images have data.
        mask: The fixed image's body.
        region: The body and a margin, where agreement counts.
        grid: Of all of them.
        body_gap_mm: How far apart the surfaces of both bodies lie; None where a body isn't found or is the whole image.
    """

    fixed: np.ndarray
    moving: np.ndarray
    data: np.ndarray
    mask: np.ndarray
    region: np.ndarray
    grid: Geometry
    body_gap_mm: float | None = None

    @property
    def spacing_mm(self) -> float:
        """Of the grid."""
        return self.grid.spacing_xyz[0]

    @property
    def left_right(self) -> int:
        """The arrays' axis along the patient's left-right."""
        return 2 - int(np.argmax(np.abs(self.grid.axes[0])))


class Looker:
    """Looks at one pair under any number of solutions; what depends on the images alone is made once.

    Args:
        pair: The images.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.grid = judge_grid(pair)
        spacing = self.grid.spacing_xyz[0]
        self._moving = anti_aliased(pair.moving, spacing)
        self.fixed = _display(self._on_grid(anti_aliased(pair.fixed, spacing), "linear", _low(pair.fixed)))
        self.mask = self._on_grid(pair.fixed_mask, "nearest") > 0
        whole = pair.fixed.with_array(np.ones(pair.fixed.geometry.shape_zyx, np.uint8))
        self.within = self._on_grid(whole, "nearest") > 0
        self.region = ndimage.distance_transform_edt(~self.mask) * spacing <= MARGIN_MM
        self._bodies = _bodies(pair)

    def look(self, transform: Transform) -> View:
        """Both images as the judge sees them.

        Args:
            transform: From fixed points to moving points.

        Raises:
            InputError: Next to nothing of the body has data in both images.
        """
        mapping = displacement_field(transform, self.grid)
        data = field_of_view(self.pair.moving.geometry, mapping, self.grid).array & self.within
        if (self.region & data).sum() < LEAST_VOXELS:
            raise InputError(
                self.pair.id,
                found="next to nothing of the body has data in both images",
                expected="images that overlap",
            )
        outside = self.pair.outside
        moving = _display(
            apply_to_image(self._moving, mapping, self.grid, interpolation="linear", outside=outside).array
        )
        gap = self._body_gap_mm(mapping, data)
        return View(self.fixed, moving, data, self.mask, self.region, self.grid, gap)

    def _on_grid(self, volume: Volume, interpolation: Literal["linear", "nearest"], outside: float = 0.0) -> np.ndarray:
        return resample(volume, self.grid, interpolation=interpolation, outside=outside).array

    def _body_gap_mm(self, mapping: Transform, data: np.ndarray) -> float | None:
        if self._bodies is None:
            return None
        fixed, moving = self._bodies
        a = (self._on_grid(fixed, "nearest") > 0) & data
        b = (apply_to_labels(moving, mapping, self.grid).array > 0) & data
        surface = np.count_nonzero(a & ~ndimage.binary_erosion(a, border_value=1)) or 1
        return float(min(np.count_nonzero(a ^ b) / surface * self.grid.spacing_xyz[0], 100.0))


def judge_grid(pair: Pair) -> Geometry:
    """An isotropic grid over the fixed body with room for the perturbations around it."""
    index = np.argwhere(pair.fixed_mask.array > 0)
    geometry = pair.fixed.geometry
    own = np.array(geometry.spacing_xyz)
    low, high = index.min(0)[::-1] * own - MARGIN_MM, index.max(0)[::-1] * own + MARGIN_MM
    spacing = max(FINEST_MM, float((np.prod(high - low) / MOST_VOXELS) ** (1 / 3)))
    size = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 5)
    origin = np.array(geometry.origin_xyz) + geometry.axes @ ((low + high - (size - 1) * spacing) / 2)
    return Geometry(tuple(size), (spacing,) * 3, tuple(origin), geometry.direction)


def nearest_rigid(transform: Transform, geometry: Geometry) -> AffineTransform:
    """The rigid motion nearest to a transform over an image's grid, fixed points to moving points.

    A mirror image that was bent until it fits looks like the other one; turned and moved only, it doesn't.
    """
    coarse = geometry.resized((POINTS_MM,) * 3)
    points = grid_points(coarse).reshape(-1, 3)
    vectors = displacement_field(transform, coarse).vectors.reshape(3, -1).T
    return best_rigid(points, points + vectors)


def moved(data: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """Where the shifted moving image has data; what a roll brings in from the other face has none."""
    rolled = np.roll(data, tuple(-s for s in shift), axis=(0, 1, 2))
    for axis, s in enumerate(shift):
        if s:
            index = [slice(None)] * 3
            index[axis] = slice(-s, None) if s > 0 else slice(None, -s)
            rolled[tuple(index)] = False
    return rolled


def _bodies(pair: Pair) -> tuple[Volume, Volume] | None:
    """Both bodies; None where one isn't found or is the whole image."""
    kinds = [Task.MRI if name == "mr" else Task.CBCT for name in (pair.fixed_name, pair.moving_name)]
    try:
        fixed, moving = (body_mask(image, kind) for image, kind in zip((pair.fixed, pair.moving), kinds, strict=True))
    except InputError:
        return None
    return None if fixed.array.all() or moving.array.all() else (fixed, moving)


def _display(image: np.ndarray) -> np.ndarray:
    """Values clipped to where tissues differ, float32: HU to −300…500, others to their 99th percentile."""
    values = image.astype(np.float32)
    if values.min() < -300:
        return np.clip(values, -300, 500) / 400
    high = float(np.percentile(values[values > values.min()], 99)) if (values > values.min()).any() else 1.0
    return np.clip(values, 0, high) / max(high, 1e-6) * 2


def _low(volume: Volume) -> float:
    return float(np.percentile(volume.array, 1))
