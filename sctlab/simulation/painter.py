"""Paint shapes given as signed distances (mm, negative inside) into HU, tissue and label arrays, with soft edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from sctlab.simulation.tissues import Tissue, sample_hu
from sctlab.transforms.cubic import cubic_weights
from sctlab_model.volume import Geometry, triple

Box = tuple[slice, slice, slice]
Points = Sequence[np.ndarray]  # x, y, z
Vector = Sequence[float] | np.ndarray


class Painter:
    """A grid that shapes are painted on, in the order of painting.

    Shapes live in an ideal body (LPS, mm). The grid sees it through a smooth random warp, so that no
    organ is an exact ellipsoid and no patient is symmetric.

    Args:
        grid: Where to paint; axes must be LPS.
        rng: The patient's random numbers.
        warp_mm: Standard deviation of the warp, in mm.
    """

    def __init__(self, grid: Geometry, rng: np.random.Generator, warp_mm: float = 2.5) -> None:
        self.grid, self.rng = grid, rng
        self.detail = rng.spawn(1)[0]  # for what was added later: the numbers of everything else stay what they were
        self.edge_mm = float(np.mean(grid.spacing_xyz[:2])) * 1.15
        index = [np.arange(n) for n in grid.size_xyz]
        self.axes = [(grid.origin_xyz[i] + index[i] * grid.spacing_xyz[i]).astype(np.float32) for i in range(3)]
        shape = grid.shape_zyx
        self.points: list[np.ndarray] = []
        for axis in range(3):
            view = self.axes[axis].reshape([-1 if a == 2 - axis else 1 for a in range(3)])
            warp = smooth_noise(shape, grid.spacing_xyz, 45.0, rng) * warp_mm
            warp += smooth_noise(shape, grid.spacing_xyz, 18.0, rng) * (0.3 * warp_mm)
            self.points.append(view + warp)
        self.reach_mm = 4.5 * warp_mm
        self.hu_of = sample_hu(rng)
        self.hu = np.full(shape, self.hu_of[Tissue.AIR], np.float32)
        self.tissue = np.zeros(shape, np.uint8)
        self.label = np.zeros(shape, np.uint8)
        self._tiles: dict[float, np.ndarray] = {}

    @property
    def everywhere(self) -> Box:
        """The whole grid."""
        return (slice(None), slice(None), slice(None))

    def box(self, low_xyz: Vector, high_xyz: Vector) -> Box | None:
        """The part of the grid that may show the ideal body's points between two corners; None if none."""
        slices = []
        for axis in (2, 1, 0):
            values = self.axes[axis]
            start = int(np.searchsorted(values, low_xyz[axis] - self.reach_mm))
            stop = int(np.searchsorted(values, high_xyz[axis] + self.reach_mm))
            if start >= stop:
                return None
            slices.append(slice(start, stop))
        return triple(slices)

    def at(self, box: Box) -> Points:
        """Coordinates x, y, z in the ideal body of a box's voxels."""
        x, y, z = self.points
        return x[box], y[box], z[box]

    def noise(self, box: Box, scale_mm: float) -> np.ndarray:
        """Unit-variance smooth noise in a box, continuous from box to box."""
        if scale_mm not in self._tiles:
            spacing = np.array(self.grid.spacing_xyz[::-1])
            if scale_mm >= 9:  # over the whole grid: a periodic tile would be about as large
                tile = smooth_noise(self.hu.shape, self.grid.spacing_xyz, 1.7 * scale_mm, self.rng)
            else:
                size = tuple(int(n) for n in np.maximum(16, np.ceil(14 * scale_mm / spacing)))
                tile = self.rng.standard_normal(size, dtype=np.float32)
                tile = ndimage.gaussian_filter(tile, scale_mm / spacing, mode="wrap", truncate=3)
            self._tiles[scale_mm] = tile / (tile.std() + 1e-9)
        tile = self._tiles[scale_mm]
        if tile.shape == self.hu.shape:
            return tile[box]
        starts = [(s.start or 0, s.stop if s.stop is not None else n) for s, n in zip(box, self.hu.shape, strict=True)]
        indices = [np.arange(a, b) % n for (a, b), n in zip(starts, tile.shape, strict=True)]
        return tile[np.ix_(*indices)]

    def fill(
        self,
        box: Box,
        distance: np.ndarray,
        tissue: Tissue,
        label: int | None = None,
        *,
        hu: float | np.ndarray | None = None,
    ) -> None:
        """Paint where `distance` < 0; the edge is a linear ramp one voxel wide, so HU has partial volume.

        Args:
            distance: Signed distance in mm on the box, negative inside.
            label: TotalSegmentator id; 0 clears, None keeps what is there.
            hu: Value in place of the tissue's own.
        """
        alpha = np.clip(0.5 - distance / self.edge_mm, 0, 1)
        value = self.hu_of[tissue] if hu is None else hu
        self.hu[box] += alpha * (value - self.hu[box])
        inside = distance < 0
        self.tissue[box][inside] = tissue
        if label is not None:
            self.label[box][inside] = label

    def bone(
        self, box: Box, distance: np.ndarray, label: int, *, cortex_mm: float = 1.6, marrow: Tissue = Tissue.RED_MARROW
    ) -> None:
        """Paint a bone: a cortical shell of `cortex_mm` (varied over its surface) around marrow."""
        if not (distance < self.edge_mm).any():
            return
        self.fill(box, distance, Tissue.CORTICAL_BONE, label)
        thickness = cortex_mm * (1 + 0.25 * self.noise(box, 6.0))
        self.fill(box, distance + np.maximum(thickness, 0.4), marrow, label)

    def ellipsoid(
        self,
        centre: Vector,
        radii: Vector,
        tissue: Tissue,
        label: int | None = None,
        *,
        rough_mm: float = 0.0,
        angles: Vector = (0, 0, 0),
    ) -> None:
        """Paint an ellipsoid turned by `angles` (degrees about x, y, z), its surface roughened by noise."""
        reach = max(radii) + 3 * rough_mm
        box = self.box(np.subtract(centre, reach), np.add(centre, reach))
        if box is not None:
            distance = ellipsoid(self.at(box), centre, radii, angles)
            if rough_mm:
                distance = distance + rough_mm * self.noise(box, 9.0)
            self.fill(box, distance, tissue, label)

    def tube(
        self,
        points: np.ndarray,
        radii: float | Vector,
        tissue: Tissue,
        label: int | None = None,
        *,
        cortex_mm: float | None = None,
        wall: tuple[float, Tissue] | None = None,
        flatten: float = 1.0,
        rough_mm: float = 0.0,
    ) -> None:
        """Paint a tube along a polyline, `points` [n, 3] (x, y, z) with a radius at every point.

        Args:
            cortex_mm: Makes it a bone with that cortex around `tissue` as marrow.
            wall: Thickness and tissue of a wall around the content `tissue`.
            flatten: Height of the cross-section along z relative to the radius (ribs 2, bowel 1).
            rough_mm: Roughness of the surface.
        """
        points = np.asarray(points, dtype=np.float64)
        radii = np.broadcast_to(np.asarray(radii, dtype=np.float64), (len(points),))
        for box, distance in self.tube_distances(points, radii, flatten):
            if rough_mm:
                distance = distance + rough_mm * self.noise(box, 9.0)
            if cortex_mm is not None:
                self.fill(box, distance, Tissue.CORTICAL_BONE, label)
            elif wall is not None:
                self.fill(box, distance - wall[0], wall[1], label)
            else:
                self.fill(box, distance, tissue, label)
        if cortex_mm is not None or wall is not None:
            inset = cortex_mm or 0.0
            for box, distance in self.tube_distances(points, np.maximum(radii - inset, 0.2), flatten):
                self.fill(box, distance, tissue, label)

    def tube_distances(
        self, points: np.ndarray, radii: np.ndarray, flatten: float = 1.0
    ) -> Iterator[tuple[Box, np.ndarray]]:
        """Yield (box, distance) for every segment of a tube."""
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            reach = max(ra, rb) * max(1.0, flatten) + 4
            box = self.box(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            if box is not None:
                yield box, capsule(self.at(box), a, b, ra, rb, flatten)


def ellipsoid(points: Points, centre: Vector, radii: Vector, angles: Vector = (0, 0, 0)) -> np.ndarray:
    """Approximate signed distance to an ellipsoid (first-order, exact on the surface)."""
    offset = [p - c for p, c in zip(points, centre, strict=True)]
    if any(angles):
        offset = turn(offset, angles)
    k0 = sum((o / r) ** 2 for o, r in zip(offset, radii, strict=True))
    k1 = sum((o / (r * r)) ** 2 for o, r in zip(offset, radii, strict=True))
    k0 = np.sqrt(k0)
    return k0 * (k0 - 1) / np.sqrt(k1 + 1e-9)


def capsule(points: Points, a: np.ndarray, b: np.ndarray, ra: float, rb: float, flatten: float = 1.0) -> np.ndarray:
    """Signed distance to a capsule with end radii; z is squeezed by `flatten`."""
    scale = (1.0, 1.0, 1.0 / flatten)
    axis = (b - a) * scale
    length = float(axis @ axis) + 1e-9
    offset = [(p - c) * s for p, c, s in zip(points, a, scale, strict=True)]
    t = np.clip(sum(o * v for o, v in zip(offset, axis, strict=True)) / length, 0, 1)
    distance = np.sqrt(sum((o - t * v) ** 2 for o, v in zip(offset, axis, strict=True)))
    return distance - (ra + t * (rb - ra))


def turn(offset: Sequence[np.ndarray], angles: Vector) -> list[np.ndarray]:
    """Rotate coordinates about x, then y, then z (degrees)."""
    x, y, z = offset
    for axis, angle in enumerate(angles):
        if angle:
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            if axis == 0:
                y, z = c * y + s * z, -s * y + c * z
            elif axis == 1:
                x, z = c * x - s * z, s * x + c * z
            else:
                x, y = c * x + s * y, -s * x + c * y
    return [x, y, z]


def smooth_noise(
    shape: tuple[int, int, int], spacing_xyz: Vector, scale_mm: float, rng: np.random.Generator
) -> np.ndarray:
    """Unit-variance Gaussian noise correlated over `scale_mm`, float32: a coarse random lattice, cubically zoomed."""
    coarse = [max(4, int(np.ceil(n * s / scale_mm)) + 4) for n, s in zip(shape, spacing_xyz[::-1], strict=True)]
    field = rng.standard_normal(coarse, dtype=np.float32)
    for axis, n in enumerate(shape):
        # cubic B-spline weights along one axis at a time
        at = 1 + np.arange(n) * spacing_xyz[2 - axis] / scale_mm
        base = np.minimum(at.astype(int), field.shape[axis] - 3)
        t = at - base
        weights = cubic_weights(t)
        view = [-1 if a == axis else 1 for a in range(3)]
        # gathered, not multiplied as a matrix: BLAS may sum in another order with other thread counts
        field = sum(np.take(field, base - 1 + k, axis) * weights[k].astype(np.float32).reshape(view) for k in range(4))
    return np.ascontiguousarray(field / 0.35).astype(np.float32)  # 0.35: deviation of a cubic lattice in 3D
