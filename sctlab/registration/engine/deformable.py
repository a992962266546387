"""The deformable stage: a multi-resolution cubic B-spline that minimises a weighted sum of metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sctlab.features import load_extractor
from sctlab.registration.engine.adam import Adam
from sctlab.registration.engine.bspline import ControlGrid, bending_energy, evaluate, evaluate_at, jacobian, refine
from sctlab.registration.engine.discrete import search
from sctlab.registration.engine.folding import penalty
from sctlab.registration.engine.frame import (
    Lattice,
    bounds_mm,
    carry,
    extent_zyx,
    inside,
    reach_of,
    sample_at,
    smoothed,
    to_device,
)
from sctlab.registration.engine.impact import JacobianFeatures, StaticFeatures
from sctlab.registration.engine.metrics import mutual_information
from sctlab.registration.presets import Discrete, Level, Preset
from sctlab.transforms.transforms import EulerTransform
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume

MARGIN_MM = 20.0  # around the fixed mask: context of the features
REACH_MM = 40.0  # around that: where the field may point to
FEATURE_BYTES = 800_000_000  # of the feature maps of a level; making them takes about twice that for a moment


@dataclass(frozen=True)
class Images:
    """Both images and their masks as tensors [1, 1, z, y, x] on their own grids."""

    fixed: Tensor
    moving: Tensor
    fixed_mask: Tensor
    moving_mask: Tensor
    bone: Tensor | None
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
    ) -> Images:
        """Tensors on the device; masks on their image's grid, everything where there is no mask."""
        f_mask, m_mask = _on_grid(fixed_mask, fixed.geometry), _on_grid(moving_mask, moving.geometry)
        low, high = bounds_mm(f_mask)
        return cls(
            to_device(fixed.array, device),
            to_device(moving.array, device),
            to_device(f_mask.array, device),
            to_device(m_mask.array, device),
            None if bone is None else to_device(_on_grid(bone, moving.geometry).array, device),
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


class Working:
    """Both images at one level, the moving one carried over by the rigid part, and the metrics on them."""

    def __init__(
        self, images: Images, rigid: EulerTransform, preset: Preset, voxel_mm: float, generator: torch.Generator
    ) -> None:
        fixed, moving = images.fixed_geometry, images.moving_geometry
        finest = min(min(fixed.spacing_xyz), min(moving.spacing_xyz))
        extent = extent_zyx(fixed)
        # A thin stack still gets a few working voxels across: none of them would lie inside it otherwise.
        spacing = max(min(voxel_mm, float(extent.min()) / 3), finest)
        affine = rigid.affine()
        mapping = (affine.matrix, affine.offset)
        low = np.maximum(images.low_zyx - MARGIN_MM, 0)
        high = np.minimum(images.high_zyx + MARGIN_MM, extent)
        # Little further than the moving image goes: beyond it only its border's values would be repeated.
        least, greatest = reach_of(moving, fixed, mapping)
        near = np.minimum(np.maximum(low - REACH_MM, least - 2 * spacing), low)
        far = np.maximum(np.minimum(high + REACH_MM, greatest + 2 * spacing), high)
        self.extractors = [load_extractor(t.extractor, device=images.device) for t in preset.features]
        spacing = planned_spacing((high - low, far - near), spacing, self._channels(preset))
        self.lattice = Lattice.between(low, high, spacing)
        self.moving_lattice = Lattice.between(near, far, spacing)
        own_fixed, own_moving = (np.array(g.spacing_xyz[::-1]) for g in (fixed, moving))
        self.fixed = carry(smoothed(images.fixed, own_fixed, spacing), fixed, self.lattice, fixed)
        self.moving = carry(smoothed(images.moving, own_moving, spacing), moving, self.moving_lattice, fixed, mapping)
        mask = carry(images.fixed_mask, fixed, self.lattice, fixed)
        self.mask = ((mask > 0.5) & (inside(fixed, self.lattice, fixed, images.device) > 0.5)).float()
        valid = carry(images.moving_mask, moving, self.moving_lattice, fixed, mapping, outside="zeros")
        valid = (valid > 0.5).float() * inside(moving, self.moving_lattice, fixed, images.device, mapping)
        self.valid = _without_border(valid)
        self.bone = None
        if images.bone is not None:
            self.bone = carry(images.bone, moving, self.moving_lattice, fixed, mapping, outside="zeros")
        self.preset, self.generator = preset, generator
        if not bool((self.mask > 0).any()):
            raise InputError(
                "fixed mask", found=f"nothing left of it at {spacing:g} mm voxels", expected="a larger mask"
            )
        self._set_up_metrics()

    def _channels(self, preset: Preset) -> float:
        """Feature channels that are kept for every voxel; strided layers count by their share of the voxels."""
        total = 0.0
        for term, extractor in zip(preset.features, self.extractors, strict=True):
            if term.mode == "static":
                layers = [extractor.layers[i] for i in term.layers]
                total += sum(layer.channels / layer.stride**extractor.dimension for layer in layers)
        return total

    def _set_up_metrics(self) -> None:
        fixed, moving = (self.fixed, self.lattice), (self.moving, self.moving_lattice)
        self.static: list[StaticFeatures] = []
        self.jacobian: list[JacobianFeatures] = []
        for term, extractor in zip(self.preset.features, self.extractors, strict=True):
            if term.mode == "static":
                self.static.append(StaticFeatures(term, extractor, fixed, moving, self.generator))
            else:
                self.jacobian.append(JacobianFeatures(term, extractor, fixed, moving, self.generator))
        self.intensities = (_scaled(self.fixed, self.mask > 0).flatten(), _scaled(self.moving, self.valid > 0))

    def stride(self, points: int) -> int:
        """Stride of the subgrid that holds about `points` voxels of the mask."""
        count = float(self.mask.sum())
        return max(1, round((count / max(points, 1)) ** (1 / 3)))

    def loss(self, coefficients: Tensor, grid: ControlGrid, bases: tuple[Tensor, ...], stride: int) -> Tensor | None:
        """The metrics at a random offset of the strided subgrid; None when no point of it counts.

        Args:
            coefficients, grid: The field.
            bases: `grid.basis` at every voxel position of the lattice, z, y, x.
            stride: Voxels between samples.
        """
        size = self.lattice.size_zyx
        offsets = [int(torch.randint(min(stride, n), (1,), generator=self.generator)) for n in size]
        window = tuple(slice(o, None, stride) for o in offsets)
        mask = self.mask[0, 0][window]
        chosen = torch.nonzero(mask.flatten() > 0)[:, 0]
        field = evaluate(coefficients, tuple(b[w] for b, w in zip(bases, window, strict=True)))
        displacement = field.flatten(1).index_select(1, chosen).T
        points, index = self._points(window, chosen, mask.shape)
        moved = points + displacement
        with torch.no_grad():
            weights = (sample_at(self.valid, self.moving_lattice, moved)[0] > 0.9).float()
            if weights.sum() < 8:
                return None
        total = moved.new_zeros(())
        for term in self.static:
            total = total + term(points, moved, weights, index)
        if self.preset.mutual_information:
            fixed, moving = self.intensities
            found = sample_at(moving, self.moving_lattice, moved)[0]
            total = total - self.preset.mutual_information * mutual_information(
                fixed[index], found, weights, bins=self.preset.bins
            )
        if self.jacobian:
            total = total + self._jacobian_loss(coefficients, grid, points, weights)
        if self.preset.rigidity and self.bone is not None:
            total = total + self.preset.rigidity * self._rigidity(coefficients, grid, window, moved, chosen)
        return total

    @torch.no_grad()
    def information(self, coefficients: Tensor, bases: tuple[Tensor, ...], stride: int) -> float:
        """Mutual information of the intensities times the share of points that land on valid moving voxels."""
        window = (slice(None, None, stride),) * 3
        chosen = torch.nonzero(self.mask[0, 0][window].flatten() > 0)[:, 0]
        field = evaluate(coefficients, tuple(b[::stride] for b in bases))
        points, index = self._points(window, chosen, field.shape[1:])
        moved = points + field.flatten(1).index_select(1, chosen).T
        valid = sample_at(self.valid, self.moving_lattice, moved)[0] > 0.9
        fixed, moving = self.intensities
        found = sample_at(moving, self.moving_lattice, moved)[0]
        if not bool(valid.any()):
            return 0.0
        return float(valid.float().mean() * mutual_information(fixed[index][valid], found[valid], bins=32))

    def _points(self, window: tuple[slice, ...], chosen: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Positions [N, 3] in mm (z, y, x) of chosen voxels of a window, and their flat index in the lattice."""
        size = self.lattice.size_zyx
        axes = [torch.arange(n, device=chosen.device)[w] for n, w in zip(size, window, strict=True)]
        z = chosen // (shape[1] * shape[2])
        y = chosen // shape[2] % shape[1]
        x = chosen % shape[2]
        z, y, x = axes[0][z], axes[1][y], axes[2][x]
        voxels = torch.stack((z, y, x), dim=1)
        points = voxels.float() * self.lattice.spacing + voxels.new_tensor(self.lattice.start_zyx, dtype=torch.float32)
        return points, (z * size[1] + y) * size[2] + x

    def _jacobian_loss(self, coefficients: Tensor, grid: ControlGrid, points: Tensor, weights: Tensor) -> Tensor:
        """Jacobian-mode terms at a random subset of the points whose moving side counts."""
        usable = torch.nonzero(weights > 0)[:, 0]

        def field(where: Tensor) -> Tensor:
            return where + evaluate_at(coefficients, grid, where)

        total = points.new_zeros(())
        for term in self.jacobian:
            count = min(term.term.points, len(usable))
            chosen = usable[torch.randperm(len(usable), generator=self.generator)[:count].to(usable.device)]
            total = total + term(points[chosen], field, None)
        return total

    def _rigidity(
        self, coefficients: Tensor, grid: ControlGrid, window: tuple[slice, ...], moved: Tensor, chosen: Tensor
    ) -> Tensor:
        """Mean |JᵀJ − I|² where the warped bone is (the orthonormality of Staring et al., Medical Physics 34, 2007)."""
        positions = tuple(self.lattice.positions(a)[w] for a, w in zip(range(3), window, strict=True))
        matrix = jacobian(coefficients, grid, positions).flatten(2).index_select(2, chosen)
        with torch.no_grad():
            bone = sample_at(self.bone, self.moving_lattice, moved)[0]
        product = torch.einsum("kin,kjn->ijn", matrix, matrix)
        excess = product - torch.eye(3, device=product.device)[:, :, None]
        return (excess.square().sum((0, 1)) * bone).sum() / bone.sum().clamp_min(1.0)


def planned_spacing(extents_zyx_mm: Iterable[np.ndarray], spacing: float, channels: float) -> float:
    """The wanted voxel size, or a coarser one where the feature maps of all images would not fit the plan."""
    while True:
        voxels = sum(np.prod(extent / spacing + 1) for extent in extents_zyx_mm)
        if 4 * channels * voxels <= FEATURE_BYTES:
            return spacing
        spacing *= 1.1


def deform(
    images: Images,
    rigid: EulerTransform,
    preset: Preset,
    *,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Tensor, ControlGrid, dict[str, float]]:
    """Coefficients [3 (z, y, x), control points] in mm along the fixed image's axes, their grid, and metric values."""
    generator = torch.Generator().manual_seed(seed)
    extent = extent_zyx(images.fixed_geometry)
    coarsest = preset.knots_mm * 2 ** (len(preset.levels) - 1)
    grid = ControlGrid.covering(tuple(extent), coarsest, margin=max(images.fixed_geometry.spacing_xyz))
    coefficients = torch.zeros(3, *grid.size_zyx, device=images.device)
    values: dict[str, float] = {}
    total = sum(level.iterations for level in preset.levels)
    done = 0
    for number, level in enumerate(preset.levels):
        if number:
            coefficients, grid = refine(coefficients), grid.refined()
        working = Working(images, rigid, preset, level.voxel_mm, generator)
        if number == 0 and preset.discrete is not None:
            coefficients = _coarse_start(working, coefficients, grid, preset.discrete)

        def step(n: int, start: int = done) -> None:
            progress((start + n) / total)

        coefficients, first, last = optimise(working, coefficients, grid, level, step)
        values |= {f"level{number + 1}_start": first, f"level{number + 1}_end": last}
        done += level.iterations
    return coefficients, grid, values


def optimise(
    working: Working,
    coefficients: Tensor,
    grid: ControlGrid,
    level: Level,
    progress: Callable[[int], None],
) -> tuple[Tensor, float, float]:
    """Adam at one level; the mean of the last iterates, and the metric at the start and the end."""
    preset = working.preset
    bases = tuple(grid.basis(a, working.lattice.positions(a)).to(coefficients) for a in range(3))
    stride = working.stride(level.points)
    guard = tuple(_between(grid, a) for a in range(3)) if preset.folding else None
    # Bending in units of the knots: the same weight then means the same smoothness at every level.
    weight = preset.bending * grid.spacing_zyx[0] ** 2
    free = coefficients.clone().requires_grad_()
    optimiser = Adam(free)
    tail = max(1, level.iterations // 5)
    mean, first, last = torch.zeros_like(coefficients), None, 0.0
    for step in range(level.iterations):
        metric = working.loss(free, grid, bases, stride)
        if metric is None:
            raise InputError(
                "registration",
                found="no voxel of the fixed mask lands inside the moving image",
                expected="images that overlap",
                advice="check the masks and the frames of reference",
            )
        loss = metric + weight * bending_energy(free, grid.spacing_zyx)
        if guard is not None:
            loss = loss + preset.folding * penalty(free, grid, guard, preset.least_determinant)
        loss.backward()
        optimiser.step(level.rate_mm * 0.1 ** (step / max(1, level.iterations - 1)))
        last = float(metric.detach())
        first = last if first is None else first
        if step >= level.iterations - tail:
            mean += free.detach() / tail
        progress(step + 1)
    return mean, first or 0.0, last


def _coarse_start(working: Working, coefficients: Tensor, grid: ControlGrid, settings: Discrete) -> Tensor:
    """The discrete search's field as a spline, kept only where three witnesses agree that it helps.

    Metric and bending together must fall, and mutual information of the intensities must rise: in flat tissue and at
    the corners of the field of view the search alone follows noise.
    """
    features = load_extractor("mind", device=working.fixed.device)
    with torch.no_grad():
        fixed, moving = features(working.fixed)[0], features(working.moving)[0]
        found, cells = search(
            (fixed, working.lattice), (moving, working.moving_lattice), working.mask, working.valid, settings
        )
        start = _fitted(found, cells, grid)
        bases = tuple(grid.basis(a, working.lattice.positions(a)).to(coefficients) for a in range(3))
        state = working.generator.get_state()
        scores, information = [], []
        for trial in (coefficients, start):
            working.generator.set_state(state)  # the same samples for both
            value = working.loss(trial, grid, bases, working.stride(20000))
            bending = working.preset.bending * grid.spacing_zyx[0] ** 2 * bending_energy(trial, grid.spacing_zyx)
            scores.append(float("inf") if value is None else float(value + bending))
            information.append(working.information(trial, bases, working.stride(20000)))
    for term in working.static + working.jacobian:
        for scale in term.scales:
            scale.start = 0.0  # what the level starts from is decided only now
    better = scores[1] < scores[0] - settings.gain * abs(scores[0]) and information[1] > information[0]
    return start if better else coefficients


def _fitted(values: Tensor, cells: Lattice, grid: ControlGrid) -> Tensor:
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


def _between(grid: ControlGrid, axis: int) -> np.ndarray:
    """Positions half-way between the control points of the valid region and on them."""
    count = grid.size_zyx[axis] - 3
    return grid.start_zyx[axis] + grid.spacing_zyx[axis] * (1 + 0.5 * np.arange(2 * count + 1))


def _without_border(valid: Tensor) -> Tensor:
    """Zeros in the outermost voxels [1, 1, z, y, x]: sampling repeats them for every point beyond the lattice."""
    return functional.pad(valid[..., 1:-1, 1:-1, 1:-1], [1] * 6)


def _scaled(image: Tensor, where: Tensor) -> Tensor:
    """Intensities to [0, 1] between the 0.5th and 99.5th percentile of the voxels that count."""
    chosen = image[where] if bool(where.any()) else image
    chosen = chosen.flatten()[:: max(1, chosen.numel() // 1_000_000)]
    low, high = torch.quantile(chosen, chosen.new_tensor((0.005, 0.995))).tolist()
    return ((image - low) / max(high - low, 1e-6)).clamp(0, 1)


def _on_grid(mask: Volume | None, geometry: Geometry) -> Volume:
    """A mask (bool) on an image's grid; all of it when there is none."""
    from sctlab_model.volume import resample

    if mask is None:
        return Volume(np.ones(geometry.shape_zyx, dtype=bool), geometry)
    mask = mask.with_array(mask.array > 0)
    return mask if mask.geometry.same_grid(geometry) else resample(mask, geometry, interpolation="nearest")


__all__ = ["Images", "Working", "deform", "optimise"]
