"""The rigid start: likeness of MIND-SSC features over three angles and three shifts, a search over shifts first.

Features and not mutual information of the intensities: within a body mask, mutual information prefers a head beside the
head (a slice of air in the moving image tells as much as bone does), features do not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sctlab.features import load_extractor
from sctlab.registration.engine.adam import Adam
from sctlab.registration.engine.lattice import Lattice, carry, extent_zyx, sample_at, smoothed
from sctlab.registration.engine.settings import RigidSettings
from sctlab.transforms.data import EulerTransform
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.volume import Geometry, triple

ORIENTATIONS, ORIENTATION_STEPS = 5, 40  # turned images that are refined before one is compared with the header's


@dataclass(frozen=True)
class MaskedImage:
    """One image as the rigid stage sees it: tensors [1, 1, z, y, x] on the image's own grid."""

    image: Tensor
    mask: Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Start:
    """Three angles (radians) and three shifts (mm), and the order of the angles: each has its own gimbal lock."""

    parameters: Tensor
    zyx: bool = False
    turn: tuple[float, ...] | None = None  # the quarter turns in it, as a matrix by rows

    @property
    def matrix(self) -> np.ndarray:
        """The quarter turns in it."""
        return np.eye(3) if self.turn is None else np.reshape(self.turn, (3, 3))


def register_rigid(
    fixed: MaskedImage, moving: MaskedImage, settings: RigidSettings, *, seed: int
) -> tuple[EulerTransform, dict[str, float]]:
    """The rigid transform from fixed points to moving points, and how good it is.

    Args:
        fixed, moving: Images with masks (samples are drawn in the fixed mask; those that fall outside the moving
            mask don't count).

    Raises:
        RegistrationError: The masks of the images can't be made to overlap by `RigidSettings.least_share`.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = _centre_of(fixed)
    moving = along_axes(moving, fixed.geometry, np.eye(3))
    shifts, searched, least = _search(fixed, moving, centre, settings, generator)
    starts = [Start(parameters) for parameters in shifts]
    turned, quarter_turns = orientation(fixed, moving, centre, settings, seed)
    if turned is not None:
        starts.append(turned)
    refined: list[tuple[Start, float]] = []
    for number, (spacing, iterations) in enumerate(zip(settings.levels_mm, settings.iterations, strict=True)):
        several = iterations // 2 if number == 0 and len(starts) > 1 else iterations
        levels: dict[tuple[float, ...] | None, _Level] = {}
        refined = []
        for start in starts:
            if start.turn not in levels:
                axes = along_axes(moving, fixed.geometry, start.matrix)
                levels[start.turn] = _Level(fixed, axes, spacing, settings, generator)
                levels[start.turn].least = least
            refined.append(levels[start.turn].refine(start, centre, several))
        refined.sort(key=lambda pair: -pair[1])
        starts = [start for start, _ in refined[:2]]  # a coarse level may prefer the wrong one of two
    best, score = refined[0]
    values = best.parameters.tolist()
    euler = EulerTransform(triple(values[:3]), triple(values[3:]), triple(float(c) for c in centre), best.zyx)
    return euler, {"likeness": score, "after_search": searched, "quarter_turns": float(quarter_turns)}


def _centre_of(masked: MaskedImage) -> np.ndarray:
    """Physical centre of mass of the mask (x, y, z), mm."""
    index = torch.nonzero(masked.mask[0, 0] > 0.5)
    if not len(index):
        raise InputError("registration", found="an empty mask", expected="a mask with voxels")
    return masked.geometry.to_physical(index.double().mean(0).flip(0).cpu().numpy())


class _Level:
    """Both images at one voxel size, with the fixed samples in physical space."""

    def __init__(
        self,
        fixed: MaskedImage,
        moving: MaskedImage,
        spacing: float,
        settings: RigidSettings,
        generator: torch.Generator,
    ):
        self.settings, self.generator = settings, generator
        self.least = settings.least_share  # share of the samples that must overlap; the search raises it
        # A stack of a few slices keeps enough of them to tell a shift along it.
        thinnest = min(extent_zyx(fixed.geometry).min(), extent_zyx(moving.geometry).min())
        spacing = min(spacing, float(thinnest) / 6)
        f_image, f_mask, f_lattice = _coarse(fixed, spacing)
        image, self.mask, self.lattice = _coarse(moving, spacing)
        self.moving_geometry = moving.geometry
        index = torch.nonzero(f_mask[0, 0] > 0.5)
        if not len(index):
            raise InputError(
                "registration", found=f"a mask that vanishes at {spacing:g} mm voxels", expected="a larger mask"
            )
        extractor = load_extractor("mind", device=fixed.image.device)
        self.features = extractor(f_image)[0][0][(slice(None), *index.T)]
        geometry = f_lattice.geometry(fixed.geometry)
        points = geometry.to_physical(index.flip(1).double().cpu().numpy())
        self.points = torch.tensor(points, device=fixed.image.device)
        axes = torch.tensor(moving.geometry.axes, device=fixed.image.device)
        self.to_frame = axes.T  # physical offset from the moving origin → mm along the moving axes
        self.origin = torch.tensor(moving.geometry.origin_xyz, dtype=torch.float64, device=fixed.image.device)
        # Channels last: the corners of a point lie together.
        both = torch.cat((extractor(image)[0], self.mask), dim=1)
        self.both = both.contiguous(memory_format=torch.channels_last_3d)

    def sample(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Moving features [C, N] and moving mask [N] at physical points [N, 3] (x, y, z)."""
        frame = (points - self.origin) @ self.to_frame.T
        frame = frame.flip(-1).float()
        found = sample_at(self.both, self.lattice, frame, chunks=torch.get_num_threads())
        start = frame.new_tensor(self.lattice.start_zyx)
        end = start + frame.new_tensor([(n - 1) * self.lattice.spacing for n in self.lattice.size_zyx])
        inside = ((frame >= start - 1e-3) & (frame <= end + 1e-3)).all(-1)
        return found[:-1], (found[-1] > 0.5) & inside

    def compare(self, parameters: Tensor, centre: Tensor, chosen: Tensor, zyx: bool = False) -> tuple[Tensor, Tensor]:
        """Likeness of the chosen samples, 0 to 1, times the share of them that overlaps; and that share.

        Likeness is 1 − mean |f − m| / 0.5 of MIND-SSC features, which lie in [0, 1]. The share keeps a small
        overlap that happens to agree from beating a large one.
        """
        moved = (self.points[chosen] - centre) @ rotation(parameters[:3], zyx).T + centre + parameters[3:]
        features, valid = self.sample(moved)
        overlap = valid.float().mean()
        distance = (features - self.features[:, chosen]).abs().mean(0)
        return overlap - 2 * (distance * valid).mean(), overlap

    def score(self, parameters: Tensor, centre: Tensor, chosen: Tensor, zyx: bool = False) -> Tensor:
        """The likeness of `compare`; 0 below the least overlap."""
        score, overlap = self.compare(parameters, centre, chosen, zyx)
        return score if overlap >= self.least else score * 0

    def choose(self, count: int) -> Tensor:
        """Indices of a random subset of the samples."""
        if count >= len(self.points):
            return torch.arange(len(self.points), device=self.points.device)
        return torch.randint(len(self.points), (count,), generator=self.generator).to(self.points.device)

    def refine(self, begin: Start, centre: np.ndarray, iterations: int) -> tuple[Start, float]:
        """Adam on angles and shifts; the step shrinks to a tenth, the last iterates are averaged."""
        start, zyx = begin.parameters, begin.zyx
        middle = torch.tensor(centre, device=self.points.device)
        # One unit of an angle moves a point at the body's mean radius by 1 mm, so that one rate suits all six.
        radius = float((self.points - middle).square().sum(-1).mean().sqrt())
        scale = start.new_tensor([1 / radius] * 3 + [1.0] * 3)
        free = (start / scale).clone().requires_grad_()
        optimiser = Adam(free)
        rate = self.lattice.spacing / 4
        tail, total = [], max(1, iterations // 4)
        for step in range(iterations):
            loss = -self.score(free * scale, middle, self.choose(self.settings.samples), zyx)
            loss.backward()
            optimiser.step(rate * 0.1 ** (step / max(1, iterations - 1)))
            if step >= iterations - total:
                tail.append(free.detach().clone())
        found = (torch.stack(tail).mean(0) if tail else free.detach()) * scale
        with torch.no_grad():
            every = self.choose(4 * self.settings.samples)
            before, after = self.score(start, middle, every, zyx), self.score(found, middle, every, zyx)
        return (replace(begin, parameters=found), float(after)) if after >= before else (begin, float(before))


def rotation(angles: Tensor, zyx: bool = False) -> Tensor:
    """Rz Rx Ry of angles about x, y, z in radians (ITK's Euler3DTransform), or Rz Ry Rx; differentiable."""
    (cx, cy, cz), (sx, sy, sz) = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros_like(cx), torch.ones_like(cx)
    about_x = torch.stack([one, zero, zero, zero, cx, -sx, zero, sx, cx]).view(3, 3)
    about_y = torch.stack([cy, zero, sy, zero, one, zero, -sy, zero, cy]).view(3, 3)
    about_z = torch.stack([cz, -sz, zero, sz, cz, zero, zero, zero, one]).view(3, 3)
    return about_z @ about_y @ about_x if zyx else about_z @ about_x @ about_y


def orientation(
    fixed: MaskedImage, moving: MaskedImage, centre: np.ndarray, settings: RigidSettings, seed: int
) -> tuple[Start | None, int]:
    """The best of the 24 orientations of the moving image, where one is clearly more alike than that of its header.

    Prone patients, feet-first scans and wrong headers turn an image by multiples of 90°, which no gradient finds. All of
    them are compared at coarse voxels around the centres of both bodies and of both grids.

    Returns:
        A start, or None where the header's orientation holds; and the number of quarter turns about an axis that it
        takes (0, 1 or 2).
    """
    if settings.orientation_voxel_mm is None:
        return None, 0
    generator = torch.Generator().manual_seed(seed)  # its own: the other starts stay what they were
    thinnest = min(extent_zyx(fixed.geometry).min(), extent_zyx(moving.geometry).min())
    coarse = [_coarsened(image, min(settings.orientation_voxel_mm, float(thinnest) / 6)) for image in (fixed, moving)]
    anchors = [_centre_of(moving) - centre, moving.geometry.centre_xyz - fixed.geometry.centre_xyz]
    steps = settings.orientation_voxel_mm * 1.5 * np.array((-1, 0, 1))
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    found: list[tuple[float, Start, _Level]] = []  # the best place of each orientation
    for matrix in quarter_rotations():
        turned = along_axes(coarse[1], fixed.geometry, matrix)
        level = _Level(coarse[0], turned, settings.orientation_voxel_mm, settings, generator)
        pivot = torch.tensor(centre, device=fixed.image.device)
        chosen = level.choose(settings.samples // 2)
        angles, zyx = euler_angles(matrix)
        places = [
            torch.tensor([*angles, *shift], dtype=torch.float64, device=pivot.device)
            for anchor in anchors
            for shift in anchor + cube
        ]
        with torch.no_grad():
            scores = [float(level.score(place, pivot, chosen, zyx)) for place in places]
        best = int(np.argmax(scores))
        turn = None if np.array_equal(matrix, np.eye(3)) else tuple(matrix.ravel().tolist())
        found.append((scores[best], Start(places[best], zyx, turn), level))
    found.sort(key=lambda item: -item[0])
    # The places lie far apart, and the header's own is the only one that is exactly right: the best are refined first.
    candidates = [
        next(item for item in found if item[1].turn is None),
        *[item for item in found if item[1].turn is not None][:ORIENTATIONS],
    ]
    refined = [level.refine(start, centre, ORIENTATION_STEPS) for _, start, level in candidates]
    header, (best_turned, score) = refined[0], max(refined[1:], key=lambda pair: pair[1])
    if score <= (1 + settings.orientation_gain) * max(header[1], 0.0) or score <= 0:
        return None, 0
    angle = np.degrees(np.arccos(np.clip((np.trace(best_turned.matrix) - 1) / 2, -1, 1)))
    return best_turned, round(angle / 90)


def along_axes(moving: MaskedImage, fixed: Geometry, matrix: np.ndarray) -> MaskedImage:
    """The same image stored along the fixed image's index axes, after a turn of the patient.

    A channel of MIND-SSC compares neighbours in one direction of the stored image: where that is another direction of the
    patient, the right place looks wrong.

    Args:
        matrix: From fixed to moving directions, of quarter turns.
    """
    axes = moving.geometry.axes
    likeness = axes.T @ matrix @ fixed.axes  # old index axis by new index axis
    order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(likeness[o, k]) for k, o in enumerate(p)))
    flipped = [bool(likeness[o, k] < 0) for k, o in enumerate(order)]
    if order == (0, 1, 2) and not any(flipped):
        return moving
    geometry = moving.geometry
    corner = np.zeros(3)
    for k, o in enumerate(order):
        corner[o] = geometry.size_xyz[o] - 1 if flipped[k] else 0
    direction = np.stack([-axes[:, o] if flipped[k] else axes[:, o] for k, o in enumerate(order)], axis=1)
    stored = Geometry(
        triple(geometry.size_xyz[o] for o in order),
        triple(geometry.spacing_xyz[o] for o in order),
        triple(float(v) for v in geometry.to_physical(corner)),
        tuple(direction.ravel().tolist()),
    )
    dims = [0, 1, *(4 - order[k] for k in (2, 1, 0))]
    flips = [4 - k for k in range(3) if flipped[k]]
    image, mask = (t.permute(dims).flip(flips).contiguous() for t in (moving.image, moving.mask))
    return MaskedImage(image, mask, stored)


def _coarsened(masked: MaskedImage, spacing: float) -> MaskedImage:
    """Image and mask at a voxel size."""
    image, mask, lattice = _coarse(masked, spacing)
    return MaskedImage(image, mask, lattice.geometry(masked.geometry))


def quarter_rotations() -> list[np.ndarray]:
    """The 24 rotations that map the axes onto each other."""
    matrices = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1.0, 1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                matrices.append(matrix)
    return matrices


def euler_angles(matrix: np.ndarray) -> tuple[tuple[float, float, float], bool]:
    """Angles about x, y, z of a rotation, and whether their order is Rz Ry Rx: the one without gimbal lock."""
    if abs(matrix[2, 1]) < 0.9:  # Rz Rx Ry: sin x = R[2, 1]
        about_x = np.arcsin(np.clip(matrix[2, 1], -1, 1))
        about_y = np.arctan2(-matrix[2, 0], matrix[2, 2])
        about_z = np.arctan2(-matrix[0, 1], matrix[1, 1])
        return (float(about_x), float(about_y), float(about_z)), False
    about_y = np.arcsin(np.clip(-matrix[2, 0], -1, 1))  # Rz Ry Rx: sin y = −R[2, 0]
    about_x = np.arctan2(matrix[2, 1], matrix[2, 2])
    about_z = np.arctan2(matrix[1, 0], matrix[0, 0])
    return (float(about_x), float(about_y), float(about_z)), True


def _search(
    fixed: MaskedImage, moving: MaskedImage, centre: np.ndarray, settings: RigidSettings, generator: torch.Generator
) -> tuple[list[Tensor], float, float]:
    """Starts (angles and shifts) worth refining, the best first; its score; and the least overlap that counts.

    Every shift of a cube is tried.
    """
    level = _Level(fixed, moving, settings.search_voxel_mm, settings, generator)
    pivot = torch.tensor(centre, device=fixed.image.device)
    chosen = level.choose(settings.samples // 2)
    anchors = [
        np.zeros(3),
        _centre_of(moving) - centre,
        moving.geometry.centre_xyz - fixed.geometry.centre_xyz,
    ]
    reach = round(settings.search_mm / settings.step_mm)
    steps = settings.step_mm * np.arange(-reach, reach + 1)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    shifts: list[np.ndarray] = []
    for anchor in anchors:
        known = np.array(shifts or [np.full(3, np.inf)])
        shifts += [s for s in anchor + cube if np.linalg.norm(known - s, axis=1).min() > settings.step_mm / 2]

    def parameters(shift: np.ndarray) -> Tensor:
        return torch.tensor([0.0, 0.0, 0.0, *shift], dtype=torch.float64, device=pivot.device)

    with torch.no_grad():
        compared = [level.compare(parameters(shift), pivot, chosen) for shift in shifts]
    scores, overlaps = np.array([[float(value) for value in pair] for pair in compared]).T
    attainable = float(overlaps.max())
    if attainable < settings.least_share:
        raise RegistrationError(
            "registration",
            found=f"at best {attainable:.1%} of the fixed mask lies inside the moving image and "
            "its mask, wherever that is put: the images don't overlap",
            expected=f"at least {settings.least_share:.0%}",
            advice="check that both images show the same region and that the masks are right",
        )
    least = max(settings.least_share, settings.least_overlap * attainable)
    found: list[int] = []
    for k in np.argsort(-scores):
        near = any(np.linalg.norm(shifts[k] - shifts[other]) < 1.5 * settings.step_mm for other in found)
        if overlaps[k] >= least and not near:
            found.append(int(k))
        if len(found) == settings.candidates:
            break
    return [parameters(shifts[k]) for k in found], float(scores[found[0]]), least


def _coarse(masked: MaskedImage, spacing: float) -> tuple[Tensor, Tensor, Lattice]:
    """Image, mask (edges of the grid included) and lattice of one image at a voxel size, along its own axes."""
    own = np.array(masked.geometry.spacing_xyz[::-1])
    spacing = max(spacing, float(own.min()))
    lattice = Lattice.between(np.zeros(3), extent_zyx(masked.geometry), spacing)
    image = carry(smoothed(masked.image, own, spacing), masked.geometry, lattice, masked.geometry)
    mask = carry(masked.mask, masked.geometry, lattice, masked.geometry)
    return image, mask, lattice
