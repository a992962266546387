"""The cavity in which organs slide along the wall: thorax and abdomen inside ribs, muscles and spine.

Labels of the CT know best (`cavity_by_labels`). Without them `find_cavity` asks its finders in turn: first the organs that the
anatomy network sees, then the wall by intensities. One that knows more goes before them: a function under
`register_cavity_finder`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from sctlab_model.anatomy.classes import BONES, INDEX, to_classes
from sctlab_model.anatomy.shipped import is_here
from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import ProductError
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample, triple

Finder = Callable[[Volume], Volume | None]
_FINDERS: list[tuple[int, Finder]] = []

VOXEL_MM = 3.0
ANGLES = 72
STEP_MM = 2.0
LEAN_HU, GAS_HU, BONE_HU = -30.0, -300.0, 160.0
LEAST_BONE_HU = 100.0  # median of whole bones, marrow included
MUSCLE_MM = 12.0  # gaps of the muscles that are bridged
THINNEST_MM, THICKEST_MM = 4.0, 30.0  # of the wall, ribs and spine apart
RUN_MM = 6.0  # of fat or gas that ends the wall: thinner layers lie between muscles
ORGAN_MM = 12.0  # of lean tissue behind a rib that is taken for an organ
LINING_MM = 2.0  # between a rib's inner face and the cavity
BACK_DEGREES = 40.0  # around the spine, whose depth doesn't count as thickness of the wall
USUAL_MM = 14.0  # thickness where nothing tells
LITRE_MM3 = 1e6
# What slides, and what it slides along (names of `sctlab_model.anatomy.classes`).
ORGANS = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "lungs", "bowel",
          "urinary_bladder", "heart")  # fmt: skip
ADRENALS = (8, 9)  # ids of `total` that the anatomy network's classes leave out; they go with the kidneys
WALL = ("sacrum", "spine", "spinal_cord", "ribs", "sternum", "hips", "femora", "humeri", "shoulder_girdle", "outer_fat",
        "gluteal_muscles", "back_muscles", "iliopsoas")  # fmt: skip
BETWEEN_MM = 36.0  # half the width of fat and vessels between organs that counts as inside
FEWEST_VOXELS = 400  # of 3 mm (11 ml) that make an organ, or bone, of a label map
# Ids that are bone in one version of TotalSegmentator's `total` alone, the other way round soft: 1 has vertebrae from 18 on
# and ribs from 58 to 81, 2 has the upper spine from 42 to 50, the skull at 91 and ribs from 93 to 116.
BONE_IN_1, BONE_IN_2 = (*range(18, 25), *range(58, 69)), (*range(42, 51), 91, *range(93, 117))
FEWEST_OWN_VOXELS = 400  # of the labels' own grid that tell about a version
STIFFNESS = 4.0  # of the thickness along the wall, against one observation


def register_cavity_finder(*, position: int = 100) -> Callable[[Finder], Finder]:
    """Make a function one of the finders, asked in the order of their positions."""

    def keep(finder: Finder) -> Finder:
        _FINDERS.append((position, finder))
        _FINDERS.sort(key=lambda entry: entry[0])
        return finder

    return keep


def find_cavity(ct: Volume) -> Volume | None:
    """The cavity (bool) of a CT in HU on a grid of the finder's; None where no finder knows one."""
    for _, finder in _FINDERS:
        found = finder(ct)
        if found is not None:
            return found
    return None


@register_cavity_finder(position=50)
def cavity_by_organs(ct: Volume) -> Volume | None:
    """The organs that the anatomy network sees and what lies between them, without bones, muscles and outer fat.

    Args:
        ct: HU; any grid.

    Returns:
        bool on an axial grid of 3 mm voxels; None without the network's weights, or where it sees less than a litre of organs
        or that is left of the cavity.
    """
    if not is_here():
        return None
    from sctlab_model.anatomy.segmenter import see_anatomy

    grid = _axial_grid(ct.geometry)
    coarse = resample(ct, grid, interpolation="linear", outside=AIR_HU)
    try:
        labels = see_anatomy(coarse).labels.array
    except ProductError:  # too small, or nothing in it
        return None
    return _around_organs(to_classes(labels), coarse)


def cavity_by_labels(ct: Volume, labels: Volume) -> Volume | None:
    """The organs of a label map and what lies between them, without its bones and muscles.

    Args:
        ct: HU; any grid.
        labels: TotalSegmentator's `total` ids (version 2), on the CT's grid or another one.

    Returns:
        bool on an axial grid of 3 mm voxels; None where the map can't be a whole one of the trunk: less than a litre of organs,
        fewer than two of them, or no bone (a map of some organs leaves others outside).
    """
    grid = _axial_grid(ct.geometry)
    known = to_classes(labels.array)
    known[np.isin(labels.array, ADRENALS)] = INDEX["kidney_right"]
    classes = resample(labels.with_array(known), grid, interpolation="nearest", outside=0).array.astype(np.uint8)
    organs = np.count_nonzero(np.bincount(classes.ravel(), minlength=len(INDEX))[_indices(ORGANS)] >= FEWEST_VOXELS)
    if organs < 2 or np.isin(classes, BONES).sum() < FEWEST_VOXELS:
        return None
    return _around_organs(classes, resample(ct, grid, interpolation="linear", outside=AIR_HU))


def of_version_1(ct: Volume, labels: Volume) -> bool:
    """Whether labels are numbered as by TotalSegmentator's version 1: bone lies where that has it, and not where 2 has it.

    Args:
        ct: HU; any grid.
        labels: `total` ids of either version, on the CT's grid or another one.
    """
    hu = resample(ct, labels.geometry, interpolation="linear", outside=AIR_HU).array

    def dense(ids: tuple[int, ...]) -> bool | None:
        where = np.isin(labels.array, ids)
        return None if where.sum() < FEWEST_OWN_VOXELS else bool(np.median(hu[where]) > LEAST_BONE_HU)

    return dense(BONE_IN_1) is True and dense(BONE_IN_2) is not True


def _around_organs(classes: np.ndarray, coarse: Volume) -> Volume | None:
    """What organs fill and enclose, from a class map [z, y, x] on the grid of a CT; None below a litre of organs or cavity."""
    seen = np.isin(classes, _indices(ORGANS))
    if seen.sum() * VOXEL_MM**3 < LITRE_MM3:
        return None
    # Specks are none; an organ that the image's ends cut goes on there.
    organs = ndimage.binary_opening(np.pad(seen, 1, mode="edge"))[(slice(1, -1),) * 3]
    bone = coarse.array > BONE_HU
    soft = _closed(organs) & ~np.isin(classes, _indices(WALL)) & ~(bone & ~organs)
    cavity = _largest(ndimage.gaussian_filter(_largest(soft).astype(np.float32), 1.0, mode="nearest") > 0.5)
    return Volume(cavity, coarse.geometry, "cavity") if cavity.sum() * VOXEL_MM**3 >= LITRE_MM3 else None


def _indices(names: tuple[str, ...]) -> list[int]:
    return [INDEX[name] for name in names]


def _closed(mask: np.ndarray) -> np.ndarray:
    """Closing by a ball, as if the organs went on beyond the image's ends."""
    pad = int(np.ceil(BETWEEN_MM / VOXEL_MM)) + 1
    padded = np.pad(mask, pad, mode="edge")
    grown = ndimage.distance_transform_edt(~padded, sampling=VOXEL_MM) <= BETWEEN_MM
    closed: np.ndarray = ndimage.distance_transform_edt(grown, sampling=VOXEL_MM) > BETWEEN_MM
    return closed[(slice(pad, -pad),) * 3]


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    largest: np.ndarray = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if count else mask
    return largest


@register_cavity_finder()
def cavity_by_wall(ct: Volume) -> Volume | None:
    """The inside of the wall, by the depth at which fat, gas or lung begins behind muscle and ribs.

    In axial slices rays leave a centre in front of the spine. On each, the wall reaches from the outer border of lean tissue to
    the first layer of fat or gas, or just behind a rib where an organ lies against it; where nothing tells (liver beside
    muscle) the thickness is that of the places around.

    Args:
        ct: HU; any grid.

    Returns:
        bool on an axial grid of 3 mm voxels; None where no body, no ribs or muscles, or less than a litre is found.
    """
    grid = _axial_grid(ct.geometry)
    coarse = resample(ct, grid, interpolation="linear", outside=AIR_HU)
    hu = ndimage.gaussian_filter(coarse.array.astype(np.float32), 0.5)
    try:
        body = body_mask(coarse, Task.CBCT).array
    except ProductError:
        return None
    inner = _inside_fat(hu, body)
    if inner.sum() * VOXEL_MM**3 < LITRE_MM3:
        return None
    rays = _Rays(hu, inner)
    thickness = _smooth_thickness(*rays.observed())
    cavity = rays.deeper_than(thickness) & inner & ~ndimage.binary_dilation(hu > BONE_HU)
    cavity = ndimage.gaussian_filter(cavity.astype(np.float32), 1.0) > 0.5
    cavity = _largest(cavity)
    return Volume(cavity, grid, "cavity") if cavity.sum() * VOXEL_MM**3 >= LITRE_MM3 else None


def _axial_grid(geometry: Geometry) -> Geometry:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in geometry.size_xyz])).reshape(3, -1).T
    points = geometry.to_physical(corners.astype(float))
    low, high = points.min(0), points.max(0)
    size = np.maximum(np.floor((high - low) / VOXEL_MM + 1e-6).astype(int) + 1, 2)
    # In the middle of the image: with more than half a voxel over at one end, the last slice would have no cavity.
    start = (low + high - (size - 1) * VOXEL_MM) / 2
    return Geometry(triple(int(n) for n in size), (VOXEL_MM,) * 3, triple(float(v) for v in start))


def _inside_fat(hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """What the muscles enclose, slice by slice, themselves included: [z, y, x]."""
    skin = 2  # voxels of skin, which is lean as well
    deep = ndimage.binary_erosion(np.pad(body, skin, mode="edge"), iterations=skin)[(slice(skin, -skin),) * 3]
    lean = deep & ((hu > LEAN_HU) | (hu < GAS_HU))
    disc = _disc(MUSCLE_MM / VOXEL_MM)
    out = np.zeros_like(body)
    for k, one in enumerate(lean):
        padded = np.pad(one, 6)
        filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, disc))
        out[k] = ndimage.binary_opening(filled, disc)[6:-6, 6:-6]
    return _largest(out)


def _disc(radius: float) -> np.ndarray:
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= radius**2 + 0.5


class _Rays:
    """Rays from a centre in each axial slice: what lies at which depth below the outer border of the muscles."""

    def __init__(self, hu: np.ndarray, inner: np.ndarray) -> None:
        self.inner = inner
        slices = np.flatnonzero(inner.any((1, 2)))
        centres = np.full((len(inner), 2), np.nan)
        for k in slices:
            rows, columns = np.nonzero(inner[k])
            # The centre of the muscles lies in the spine's front half; the cavity's lies further in front.
            centres[k] = rows.mean() - 0.15 * np.ptp(rows), columns.mean()
        for axis in range(2):
            known = centres[slices, axis]
            filled = np.interp(np.arange(len(inner)), slices, known)
            centres[:, axis] = ndimage.gaussian_filter1d(filled, 3.0)
        self.centres = centres
        self.angles = np.arange(ANGLES) * 2 * np.pi / ANGLES  # 0 is the front, a quarter turn on is +x
        reach = 0.75 * max(inner.shape[1:]) * VOXEL_MM
        radii = np.arange(0, reach, STEP_MM)
        y = centres[:, 0, None, None] - np.cos(self.angles)[None, :, None] * radii / VOXEL_MM
        x = centres[:, 1, None, None] + np.sin(self.angles)[None, :, None] * radii / VOXEL_MM
        z = np.broadcast_to(np.arange(len(inner))[:, None, None], y.shape)
        self.hu = ndimage.map_coordinates(hu, [z, y, x], order=1, mode="constant", cval=AIR_HU)
        within = ndimage.map_coordinates(inner.astype(np.float32), [z, y, x], order=1, mode="constant") > 0.5
        last = within.shape[2] - 1 - np.argmax(within[:, :, ::-1], axis=2)
        self.outer = np.where(within.any(2), radii[last], 0.0)  # [z, angle], mm
        self.radii = radii

    def observed(self) -> tuple[np.ndarray, np.ndarray]:
        """Thickness of the wall in mm and weight of that observation [z, angle]."""
        depth = self.outer[..., None] - self.radii
        counts = depth >= 0
        back = np.abs(np.degrees(self.angles) - 180) < BACK_DEGREES
        limit = np.where(back, 100.0, 40.0)[None, :, None]
        bone = np.where(counts & (self.hu > BONE_HU) & (depth < limit), depth, 0.0).max(2)
        open_ = counts & (self.hu < LEAN_HU)
        length = round(RUN_MM / STEP_MM)
        run = open_.copy()  # fat or gas from here inwards, for as long as counts
        for k in range(1, length):
            run[..., k:] &= open_[..., :-k]
        behind = np.maximum(bone, THINNEST_MM)[..., None]
        begins = np.where(run & (depth > behind), depth, np.inf).min(2)
        gas = np.where(counts & (self.hu < GAS_HU) & (depth > behind), depth, np.inf).min(2)
        ribs = bone > THINNEST_MM
        organ = ribs & (begins > bone + ORGAN_MM)  # an organ lies against the ribs
        thickness = np.where(organ, bone + LINING_MM, begins)
        known = organ | (begins < np.where(back[None], 100.0, THICKEST_MM))
        weight = np.where(known, np.where(gas <= begins + STEP_MM, 1.0, 0.5), 0.0) * (self.outer > 0)
        return np.where(known, thickness, 0.0), weight

    def deeper_than(self, thickness: np.ndarray) -> np.ndarray:
        """Voxels [z, y, x] that lie deeper below the border than `thickness` [z, angle] mm."""
        z, y, x = np.indices(self.inner.shape)
        dy = self.centres[:, 0][z] - y
        dx = x - self.centres[:, 1][z]
        angle = (np.arctan2(dx, dy) % (2 * np.pi)) * ANGLES / (2 * np.pi)
        limit = np.pad(self.outer - thickness, ((0, 0), (0, 1)), mode="wrap")
        edge = ndimage.map_coordinates(limit, [z, angle], order=1, mode="nearest")
        return np.hypot(dx, dy) * VOXEL_MM < edge


def _smooth_thickness(observed: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A smooth thickness [z, angle] near the observations; those that disagree with their surroundings count less."""
    nz, na = observed.shape
    index = np.arange(nz * na).reshape(nz, na)
    pairs = np.concatenate(
        [
            np.stack([index[:-1].ravel(), index[1:].ravel()], 1),
            np.stack([index.ravel(), np.roll(index, -1, axis=1).ravel()], 1),
        ]
    )
    rows = np.repeat(np.arange(len(pairs)), 2)
    values = np.tile([1.0, -1.0], len(pairs))
    step = sparse.csr_matrix((values, (rows, pairs.ravel())), shape=(len(pairs), nz * na))
    smooth = STIFFNESS * (step.T @ step)
    target, trust = observed.ravel(), weight.ravel().astype(float)
    solution = np.full(nz * na, USUAL_MM)
    for _ in range(4):
        diagonal = sparse.diags(trust + 0.01)
        solution = spsolve((smooth + diagonal).tocsc(), trust * target + 0.01 * USUAL_MM)
        trust = weight.ravel() / (1 + ((solution - target) / 5.0) ** 2)
    return solution.reshape(nz, na)
