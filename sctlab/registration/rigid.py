"""The rigid start: mutual information over three angles and three shifts, from a search over shifts to 3 mm voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model.errors import InputError
from model.volume import Geometry
from sctlab.registration.adam import Adam
from sctlab.registration.frame import Lattice, carry, extent_zyx, sample_at, smoothed
from sctlab.registration.metrics import mutual_information
from sctlab.registration.transforms import EulerTransform


@dataclass(frozen=True)
class RigidSettings:
    """How the rigid stage searches.

    Args:
        search_mm: Half-width of the search over shifts, around the centres of both images and of both bodies.
        step_mm: Its step.
        levels_mm: Voxels of the refinements.
        iterations: Gradient steps a level.
        samples: Points a step.
        bins: Histogram bins.
        least_overlap: Share of the fixed mask that must stay inside the moving image.
    """

    search_mm: float = 48.0
    step_mm: float = 12.0
    levels_mm: tuple[float, ...] = (8.0, 4.0)
    iterations: tuple[int, ...] = (60, 40)
    samples: int = 6000
    bins: int = 32
    least_overlap: float = 0.25


@dataclass(frozen=True)
class Side:
    """One image as the rigid stage sees it: tensors [1, 1, z, y, x] on the image's own grid."""

    image: Tensor
    mask: Tensor
    geometry: Geometry


def register_rigid(
    fixed: Side, moving: Side, settings: RigidSettings, *, seed: int
) -> tuple[EulerTransform, dict[str, float]]:
    """The rigid transform from fixed points to moving points, and how good it is.

    Args:
        fixed, moving: Images with masks (samples are drawn in the fixed mask; those that fall outside the moving
            mask don't count).

    Raises:
        InputError: The masks of the images can't be made to overlap.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = _centre_of(fixed)
    starts, searched = _search(fixed, moving, centre, settings, generator)
    score = 0.0
    for number, (spacing, iterations) in enumerate(zip(settings.levels_mm, settings.iterations, strict=True)):
        level = _Level(fixed, moving, spacing, settings, generator)
        candidates = [level.refine(start, centre, iterations if number or len(starts) == 1 else iterations // 2)
                      for start in starts]  # fmt: skip
        parameters, score = max(candidates, key=lambda found: found[1])
        starts = [parameters]
    values = parameters.tolist()
    euler = EulerTransform(tuple(values[:3]), tuple(values[3:]), tuple(float(c) for c in centre))
    return euler, {"mutual_information": score, "after_search": searched}


def _centre_of(side: Side) -> np.ndarray:
    """Physical centre of mass of the mask (x, y, z), mm."""
    index = torch.nonzero(side.mask[0, 0] > 0.5)
    if not len(index):
        raise InputError("registration", "an empty mask", "a mask with voxels")
    return side.geometry.to_physical(index.double().mean(0).flip(0).cpu().numpy())


class _Level:
    """Both images at one voxel size, with the fixed samples in physical space."""

    def __init__(self, fixed: Side, moving: Side, spacing: float, settings: RigidSettings, generator: torch.Generator):
        self.settings, self.generator = settings, generator
        f_image, f_mask, f_lattice = _coarse(fixed, spacing)
        self.image, self.mask, self.lattice = _coarse(moving, spacing)
        self.moving_geometry = moving.geometry
        index = torch.nonzero(f_mask[0, 0] > 0.5)
        if not len(index):
            raise InputError("registration", f"a mask that vanishes at {spacing:g} mm voxels", "a larger mask")
        self.values = _scaled(f_image[0, 0][tuple(index.T)])
        geometry = f_lattice.geometry(fixed.geometry)
        points = geometry.to_physical(index.flip(1).double().cpu().numpy())
        self.points = torch.tensor(points, device=fixed.image.device)
        self.image = _scaled(self.image)
        axes = torch.tensor(moving.geometry.axes, device=fixed.image.device)
        self.to_frame = axes.T  # physical offset from the moving origin → mm along the moving axes
        self.origin = torch.tensor(moving.geometry.origin_xyz, dtype=torch.float64, device=fixed.image.device)
        self.both = torch.cat((self.image, self.mask), dim=1)

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Moving intensity and moving mask at physical points [N, 3] (x, y, z)."""
        frame = (points - self.origin) @ self.to_frame.T
        frame = frame.flip(-1).float()
        found = sample_at(self.both, self.lattice, frame, chunks=torch.get_num_threads())
        start = frame.new_tensor(self.lattice.start_zyx)
        end = start + frame.new_tensor([(n - 1) * self.lattice.spacing for n in self.lattice.size_zyx])
        inside = ((frame >= start - 1e-3) & (frame <= end + 1e-3)).all(-1)
        return found[0], (found[1] > 0.5) & inside

    def score(self, parameters: Tensor, centre: Tensor, chosen: Tensor) -> Tensor:
        """Mutual information of the chosen samples, times the share of them that overlaps.

        The share keeps a small overlap that happens to agree from beating a large one; 0 below the least overlap.
        """
        moved = (self.points[chosen] - centre) @ rotation(parameters[:3]).T + centre + parameters[3:]
        values, valid = self.sample(moved)
        overlap = valid.float().mean()
        if overlap < self.settings.least_overlap:
            return values.sum() * 0
        return overlap * mutual_information(self.values[chosen][valid], values[valid], bins=self.settings.bins)

    def choose(self, count: int) -> Tensor:
        """Indices of a random subset of the samples."""
        if count >= len(self.points):
            return torch.arange(len(self.points), device=self.points.device)
        return torch.randint(len(self.points), (count,), generator=self.generator).to(self.points.device)

    def refine(self, start: Tensor, centre: np.ndarray, iterations: int) -> tuple[Tensor, float]:
        """Adam on angles and shifts; the step shrinks to a tenth, the last iterates are averaged."""
        centre = torch.tensor(centre, device=self.points.device)
        # One unit of an angle moves a point at the body's mean radius by 1 mm, so that one rate suits all six.
        radius = float((self.points - centre).square().sum(-1).mean().sqrt())
        scale = start.new_tensor([1 / radius] * 3 + [1.0] * 3)
        free = (start / scale).clone().requires_grad_()
        optimiser = Adam(free)
        rate = self.lattice.spacing / 4
        tail, total = [], max(1, iterations // 4)
        for step in range(iterations):
            loss = -self.score(free * scale, centre, self.choose(self.settings.samples))
            loss.backward()
            optimiser.step(rate * 0.1 ** (step / max(1, iterations - 1)))
            if step >= iterations - total:
                tail.append(free.detach().clone())
        found = (torch.stack(tail).mean(0) if tail else free.detach()) * scale
        with torch.no_grad():
            every = self.choose(4 * self.settings.samples)
            before, after = self.score(start, centre, every), self.score(found, centre, every)
        return (found, float(after)) if after >= before else (start, float(before))


def rotation(angles: Tensor) -> Tensor:
    """Rz Rx Ry of angles about x, y, z in radians (ITK's Euler3DTransform); differentiable."""
    (cx, cy, cz), (sx, sy, sz) = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros_like(cx), torch.ones_like(cx)
    about_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx]).view(3, 3)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy]).view(3, 3)
    about_z = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one]).view(3, 3)
    return about_z @ about_x @ about_y


def _search(
    fixed: Side, moving: Side, centre: np.ndarray, settings: RigidSettings, generator: torch.Generator
) -> tuple[list[Tensor], float]:
    """Up to three starts (angles and shifts) worth refining: the plausible shifts, each improved on a grid."""
    level = _Level(fixed, moving, settings.step_mm, settings, generator)
    pivot = torch.tensor(centre, device=fixed.image.device)
    chosen = level.choose(3000)
    anchors = [
        np.zeros(3),
        _centre_of(moving) - centre,
        moving.geometry.centre_xyz - fixed.geometry.centre_xyz,
    ]
    reach = round(settings.search_mm / settings.step_mm)
    steps = settings.step_mm * np.arange(-reach, reach + 1)
    found: list[tuple[float, np.ndarray]] = []

    def parameters(shift: np.ndarray) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, *shift], dtype=torch.float64, device=pivot.device)

    def score(shift: np.ndarray) -> float:
        return float(level.score(parameters(shift), pivot, chosen))

    with torch.no_grad():
        for anchor in anchors:
            here, value = anchor, score(anchor)
            for _ in range(2):  # one axis after the other, twice: far cheaper than the whole cube
                for axis in (2, 1, 0):
                    trials = [np.where(np.arange(3) == axis, anchor + step, here) for step in steps]
                    scores = [score(trial) for trial in trials]
                    if max(scores) > value:
                        value, here = max(scores), trials[int(np.argmax(scores))]
            for shift, quality in ((here, value), (anchor, score(anchor))):
                near = [k for k, (_, other) in enumerate(found) if np.linalg.norm(other - shift) < settings.step_mm]
                if quality > 0 and not near:
                    found.append((quality, shift))
    if not found:
        raise InputError("registration", "the images don't overlap, wherever the moving one is put",
                         f"at least {settings.least_overlap:.0%} of the fixed mask inside the moving image",
                         "check that both images show the same region and that the masks are right")  # fmt: skip
    found.sort(key=lambda pair: -pair[0])
    return [parameters(shift) for _, shift in found[:3]], found[0][0]


def _coarse(side: Side, spacing: float) -> tuple[Tensor, Tensor, Lattice]:
    """Image, mask (edges of the grid included) and lattice of one image at a voxel size, along its own axes."""
    own = np.array(side.geometry.spacing_xyz[::-1])
    spacing = max(spacing, float(own.min()))
    lattice = Lattice.between(np.zeros(3), extent_zyx(side.geometry), spacing)
    image = carry(smoothed(side.image, own, spacing), side.geometry, lattice, side.geometry)
    mask = carry(side.mask, side.geometry, lattice, side.geometry)
    return image, mask, lattice


def _scaled(values: Tensor) -> Tensor:
    """Values to [0, 1] between their 0.5th and 99.5th percentile."""
    low, high = percentiles(values, (0.005, 0.995))
    return ((values - low) / max(high - low, 1e-6)).clamp(0, 1)


def percentiles(values: Tensor, shares: tuple[float, ...]) -> list[float]:
    """Percentiles of at most a million values, evenly picked."""
    flat = values.flatten()
    flat = flat[:: max(1, len(flat) // 1_000_000)]
    return torch.quantile(flat.float(), flat.new_tensor(shares, dtype=torch.float32)).tolist()
