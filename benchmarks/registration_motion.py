"""Pairs whose truth no smooth field can hold: organs that slide along the wall, and a neck that bends at its joints.

Both start from real CTs (`registration_pairs.py` makes the contrast). **Sliding**: setup error and smooth deformation of the
whole, then a flow inside the abdominal and thoracic cavity that is tangential on its surface, so that the displacement jumps
there along the surface and never across it. **Articulated**: skull, six blocks of the cervical spine and the shoulders are
rigid bodies, each turned against the one below; what lies between bones follows them by distance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from registration_pairs import CASES, Pair, errors, fixed_grid, load_ct, local_field, pair_of
from scipy import ndimage

from sctlab.transforms.data import AffineTransform, DisplacementField, EulerTransform, compose
from sctlab.transforms.field import displacement_field, grid_points
from sctlab.transforms.invert import invert
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

NEAR_MM = 10.0  # of the slip surface
SKIN_MM = 9.0  # skin and subcutaneous fat, as counted
BONE_HU = 200.0
# Everything that the peritoneum and the pleura let slide (TotalSegmentator ids), and what bounds the cavity.
ORGANS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18, 19, 20)
WALL = (*range(25, 51), 75, 76, 77, 78, *range(80, 90), *range(92, 117))
HEIGHT_MM = 16.0  # of a cervical vertebra with its disc
BLOCKS = 6  # of the cervical spine that are rigid bodies
MEASURES = ("slip_mm", "slip_p95_mm", "far_mm", "skin_normal_mm", "skin_tangential_mm", "bone_mm", "bone_truth_mm",
            "bone_error_mm")  # fmt: skip
MOTIONS = ("sliding", "sliding-trunk", "articulated")


@dataclass(frozen=True)
class Motion:
    """A pair, and where its truth is counted apart.

    Args:
        pair: The pair and its truth.
        cavity: Signed distance in mm to the slip surface on the fixed grid, positive inside; None without one.
        ct_cavity: The cavity in the CT (bool); None without one.
        bodies: Rigid bodies on the fixed grid, 0 elsewhere; None without any.
        ct_labels: Organ labels of the CT (TotalSegmentator's `total` ids), which the truth's cavity comes from; None without.
    """

    pair: Pair
    cavity: np.ndarray | None = None
    ct_cavity: Volume | None = None
    bodies: np.ndarray | None = None
    ct_labels: Volume | None = None


def make_motion(kind: str, data: Path, modality: str, seed: int) -> Motion:
    """The pair `kind/modality/seed`; the same seed gives the same motion for both modalities."""
    random = np.random.default_rng([seed, 100 + MOTIONS.index(kind)])
    if kind == "articulated":
        return _articulated(f"{kind}/{modality}/{seed}", data, random)
    case = "abdomen" if kind == "sliding" else "trunk"
    ct = load_ct(case, data)
    labels = read_volume((data / CASES[case][0]).with_name("labels.nii.gz")) if case == "abdomen" else None
    cavity = _enhanced_cavity(ct) if labels is None else _labelled_cavity(ct, labels)
    return replace(_sliding(f"{kind}/{modality}/{seed}", ct, cavity, CASES[case][2], random), ct_labels=labels)


def rough(labels: Volume, error_mm: float, seed: int) -> Volume:
    """Labels whose borders lie `error_mm` off in the mean, in patches of some centimetres, as a segmenter's do.

    A smooth random displacement whose length is 2 * `error_mm` in the mean: half of that is along a border's normal.
    """
    random, grid = np.random.default_rng([seed, 7]), labels.geometry
    width = 12.0 / np.array(grid.spacing_xyz[::-1])
    noise = np.stack([ndimage.gaussian_filter(random.standard_normal(grid.shape_zyx), width) for _ in range(3)])
    noise *= 2 * error_mm / np.sqrt((noise**2).sum(0)).mean()
    steps = np.array(grid.spacing_xyz[::-1])[:, None, None, None]
    where = np.indices(grid.shape_zyx) + noise / steps
    return labels.with_array(ndimage.map_coordinates(labels.array, where, order=0, mode="nearest"))


def motion_errors(motion: Motion, displacement: np.ndarray) -> dict[str, float]:
    """What `registration_pairs.errors` says, and the errors by place in mm.

    `slip_mm` within 10 mm of the slip surface, `far_mm` further inside the body and not in its outer 9 mm; the outer 9 mm
    along the skin's normal and across it; `bone_mm` the residual of every rigid body's points after their best rigid motion.
    """
    pair, grid = motion.pair, motion.pair.fixed.geometry
    found = errors(pair, displacement)
    error = displacement - pair.truth
    distance = np.sqrt((error**2).sum(0))
    depth = signed_distance(pair.body, grid)
    skin = pair.body & (depth <= SKIN_MM)
    normal = gradient(ndimage.gaussian_filter(depth, 1.0), grid)
    normal /= np.maximum(np.sqrt((normal**2).sum(0)), 1e-6)
    along = (error * normal).sum(0)
    across = np.sqrt(np.maximum(distance**2 - along**2, 0))
    found |= {"skin_normal_mm": float(np.abs(along)[skin].mean()), "skin_tangential_mm": float(across[skin].mean())}
    inner = pair.body & ~skin
    if motion.cavity is not None:
        near = inner & (np.abs(motion.cavity) <= NEAR_MM)
        found |= {
            "slip_mm": float(distance[near].mean()),
            "slip_p95_mm": float(np.percentile(distance[near], 95)),
            "far_mm": float(distance[inner & ~near].mean()),
        }
    if motion.bodies is not None:
        found |= {
            "bone_mm": rigid_residual(motion.bodies, displacement, grid),
            "bone_truth_mm": rigid_residual(motion.bodies, pair.truth, grid),
            "bone_error_mm": float(distance[motion.bodies > 0].mean()),
        }
    return found


def rigid_residual(bodies: np.ndarray, displacement: np.ndarray, grid: Geometry) -> float:
    """Mean distance of moved points from the best rigid motion of their body, mm."""
    points, residuals = grid_points(grid), []
    for number in range(1, int(bodies.max()) + 1):
        where = bodies == number
        if where.sum() < 20:
            continue
        start = points[where]
        moved = start + displacement[:, where].T
        a, b = start - start.mean(0), moved - moved.mean(0)
        u, _, vt = np.linalg.svd(a.T @ b)
        turn = vt.T @ np.diag([1, 1, np.linalg.det(vt.T @ u.T)]) @ u.T
        residuals.append(np.linalg.norm(a @ turn.T - b, axis=1))
    return float(np.concatenate(residuals).mean())


# --- organs that slide ----------------------------------------------------------------------------------------------


def _sliding(name: str, ct: Volume, cavity: np.ndarray, region: str, random: np.random.Generator) -> Motion:
    grid = fixed_grid(ct.geometry, random)
    room = np.minimum(1.0, 0.2 * np.array(grid.size_xyz) * np.array(grid.spacing_xyz) / 23.0)
    setup = EulerTransform(
        tuple(np.radians(random.uniform(-2, 2, 3))), tuple(random.uniform(-6, 6, 3) * room), tuple(grid.centre_xyz)
    ).affine()
    whole = compose(DisplacementField(grid, 0.5 * local_field(grid, random)), setup)
    inside = ndimage.gaussian_filter(signed_distance(cavity, ct.geometry), 1.0)
    start = grid_points(grid)
    carried = start + np.moveaxis(displacement_field(whole, grid).vectors, 0, -1)
    depth = _sample(inside, ct.geometry, carried)
    moved = carried.copy()
    within = depth > 0
    moved[within] = _flow(carried[within], inside, ct.geometry, random)
    field = DisplacementField(grid, np.ascontiguousarray(np.moveaxis(moved - start, -1, 0)))
    pair = pair_of(name, ct, field, random, crop=False, region=region)
    return Motion(pair, depth, Volume(inside > 0, ct.geometry, "cavity"))


def _flow(points: np.ndarray, inside: np.ndarray, grid: Geometry, random: np.random.Generator) -> np.ndarray:
    """Where a breath takes points [N, 3] of the cavity: most at its top, and along its surface near that."""
    amplitude, width = random.uniform(9, 14), random.uniform(90, 140)
    z = grid_points(grid)[..., 2]
    top = z[inside > 0].max() - 30
    profile = np.exp(-(((z - top) / width) ** 2))
    wanted = amplitude * np.array([0.0, 0.15, 1.0])[:, None, None, None] * profile
    normal = gradient(inside, grid)
    normal /= np.maximum(np.sqrt((normal**2).sum(0)), 1e-6)
    hold = np.exp(-((np.clip(inside, 0, None) / 20.0) ** 2))
    velocity = wanted - normal * ((wanted * normal).sum(0) * hold)
    steps = 12
    for _ in range(steps):
        points = points + np.stack([_sample(velocity[k], grid, points) for k in range(3)], -1) / steps
    return points


def _labelled_cavity(ct: Volume, labels: Volume) -> np.ndarray:
    """From organ labels: organs and what lies between them, without bones and muscles."""
    label = resample(labels, ct.geometry, interpolation="nearest", outside=0).array.astype(int)
    closed = _closed(np.isin(label, ORGANS), 24.0, ct.geometry)
    return _tidy(closed & ~np.isin(label, WALL) & (ct.array < BONE_HU), ct.geometry)


def _enhanced_cavity(ct: Volume) -> np.ndarray:
    """From a CT with contrast medium, where organs are brighter than muscle: lungs, gas and organs, and what is between."""
    smooth = ndimage.gaussian_filter(ct.array, 0.8)
    filled = np.stack([ndimage.binary_fill_holes(s) for s in _largest(smooth > -400)])
    depth = signed_distance(filled, ct.geometry)
    bone = ndimage.binary_dilation(_largest(smooth > 180), iterations=1)
    gas = filled & (smooth < -300) & (depth > 15)
    organs = ndimage.binary_opening((smooth > 85) & (smooth < 180) & ~bone & (depth > 15), iterations=2)
    closed = _closed(gas | organs, 24.0, ct.geometry)
    return _tidy(closed & ~bone & filled, ct.geometry)


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else mask


def _closed(mask: np.ndarray, reach: float, grid: Geometry) -> np.ndarray:
    """Closing with a ball; the image's ends close nothing."""
    grown = -signed_distance(mask, grid) <= reach
    return signed_distance(grown, grid) > reach


def _tidy(mask: np.ndarray, grid: Geometry) -> np.ndarray:
    """A smooth surface around the largest part."""
    return _largest(ndimage.gaussian_filter(signed_distance(mask, grid), 1.5) > 0)


# --- a neck that bends ----------------------------------------------------------------------------------------------


def _articulated(name: str, data: Path, random: np.random.Generator) -> Motion:
    ct = read_volume(data / "hn_ct_openkbp_109" / "ct.nii.gz")
    ct = ct.with_array(np.clip(ct.array.astype(np.float32), AIR_HU, 3071))
    ct = resample(ct, ct.geometry.resized((3.0,) * 3), interpolation="linear", outside=AIR_HU)
    grid = fixed_grid(ct.geometry, random)
    label, motions = _chain(ct, random)
    points = grid_points(ct.geometry)
    total, weights = np.zeros_like(points), np.zeros(points.shape[:3])
    for number, motion in enumerate(motions, start=1):
        distance = ndimage.distance_transform_edt(label != number, sampling=ct.geometry.spacing_xyz[::-1])
        weight = 1 / (distance + 1.0) ** 3
        total += weight[..., None] * (motion(points) - points)
        weights += weight
    pose = total / weights[..., None]
    smooth = np.stack([ndimage.gaussian_filter(pose[..., k], 2.0) for k in range(3)], -1)
    share = np.clip(ndimage.distance_transform_edt(label == 0) / 4.0, 0, 1)[..., None]  # bones stay as they are
    pose = (1 - share) * pose + share * smooth
    setup = EulerTransform(
        tuple(np.radians(random.uniform(-2, 2, 3))), tuple(random.uniform(-5, 5, 3)), tuple(ct.geometry.centre_xyz)
    ).affine()
    forward = compose(DisplacementField(ct.geometry, np.moveaxis(pose, -1, 0)), setup)
    backward, _ = invert(forward, grid)
    field = displacement_field(backward, grid)
    pair = pair_of(name, ct, field, random, crop=False, region="HN")
    on_ct = Volume(label.astype(np.uint8), ct.geometry)
    bodies = resample(on_ct, grid, interpolation="nearest", transform=field.to_sitk()).array
    return Motion(pair, bodies=np.where(pair.body, bodies, 0))


def _chain(ct: Volume, random: np.random.Generator) -> tuple[np.ndarray, list[AffineTransform]]:
    """Bones in blocks from the shoulders (1) to the skull (the last), and the motion of each."""
    points = grid_points(ct.geometry)
    y, z = points[..., 1], points[..., 2]
    bone = ct.array > BONE_HU
    # The neck reaches from above the shoulders to the skull base; its middle is where the spine is seen alone.
    width = (ct.array > -400).any(1).sum(1)
    bottom = z[np.flatnonzero(width < 0.55 * width.max()).min(), 0, 0] - 15
    middle = bottom + BLOCKS / 2 * HEIGHT_MM
    spine = np.median(y[bone & (np.abs(z - middle) < HEIGHT_MM)])
    block = np.clip(np.floor((z - bottom) / HEIGHT_MM) + 2, 1, BLOCKS + 2).astype(int)
    label = np.where(bone, block, 0)
    # Jaw, hyoid and face before the upper spine, and the occiput behind it, belong to the skull.
    label[bone & (z > middle) & (np.abs(y - spine) > 30)] = BLOCKS + 2
    turn = np.radians([random.uniform(1.0, 2.0) * random.choice([-1, 1]), *random.uniform(-0.6, 0.6, 2)])
    motions = [AffineTransform(np.eye(3))]
    for number in range(2, BLOCKS + 3):
        height = bottom + (number - 2) * HEIGHT_MM
        joint = points[bone & (np.abs(z - height) < 6) & (np.abs(y - spine) < 30)].mean(0)
        angles = turn * random.uniform(0.6, 1.4, 3)
        step = EulerTransform(tuple(angles), (0.0, 0.0, 0.0), tuple(joint)).affine()
        below = motions[-1]
        motions.append(AffineTransform(below.matrix @ step.matrix, tuple(below.matrix @ step.offset + below.offset)))
    return label, motions


# --- fields ---------------------------------------------------------------------------------------------------------


def signed_distance(mask: np.ndarray, grid: Geometry) -> np.ndarray:
    """Distance to a mask's surface in mm, positive inside; the mask goes on beyond the image's ends."""
    sampling = grid.spacing_xyz[::-1]
    pad = 12
    padded = np.pad(mask, pad, mode="edge")
    inside = ndimage.distance_transform_edt(padded, sampling=sampling)
    outside = ndimage.distance_transform_edt(~padded, sampling=sampling)
    half = 0.5 * min(sampling)
    return (np.where(padded, inside - half, half - outside))[(slice(pad, -pad),) * 3]


def gradient(values: np.ndarray, grid: Geometry) -> np.ndarray:
    """Gradient [3 (x, y, z), z, y, x] per mm in patient space."""
    along = np.stack([np.gradient(values, s, axis=2 - a) for a, s in enumerate(grid.spacing_xyz)])
    return np.einsum("ij,jzyx->izyx", grid.axes, along)


def _sample(values: np.ndarray, grid: Geometry, points: np.ndarray) -> np.ndarray:
    index = np.moveaxis(grid.to_index(points), -1, 0)[::-1]
    return ndimage.map_coordinates(values, index, order=1, mode="nearest", output=np.float64)
