"""Bone or contrast medium: what the bright voxels of a real CT are, with labels or without.

Bone has a dense, uneven shell around something else; a vessel, kidney or bowel full of contrast medium is even and
brightest inside. Even cores and shells are markers; a watershed on the gradient shares out the voxels between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from sctlab_model.volume import Geometry

DENSE_HU = 130.0
# Brighter than any contrast medium's blur is bone's shell; where there is no contrast medium, brighter than any soft tissue:
# an old patient's cortex is thin, and blurred by voxels of 3 mm.
SHELL_HU, PLAIN_SHELL_HU = 230.0, 150.0
ALWAYS_BONE_HU = 750.0
_THICK_MM = 4.5  # half of what is thicker than cortical bone, whose HU are above 750 there
_WORKING_MM = 2.0
_EVEN_MM = 7.0
# Share of brighter voxels around an even core: vertebrae have 0.4 and more, kidneys below 0.1, an aorta that lies against a
# vertebra up to 0.2; a femoral head 0.1.
BRIGHT_RING, BRIGHT_RING_LARGE = 0.06, 0.22
_SOCKET, _WITHIN_MEDIUM = 0.45, 0.3  # of a part's surface that the other touches
_PART_ML = (1.0, 150.0)  # parts that may change sides: a heart is larger
_CORTEX_SHARE = 0.01  # of a bone
_CLOSING_MM = 3.0
_LARGEST_MARROW_MM2 = 1500.0  # a larger hole in a ring of bone is the brain, the pelvis or the chest
_CANAL_MM2, _CANAL_HU = 80.0, (0.0, 60.0)  # the spinal canal: larger than a nutrient canal, neither fatty nor spongy


@dataclass(frozen=True)
class Dense:
    """Bright voxels shared out.

    Args:
        bone: Bone with the marrow inside it, boolean [z, y, x].
        iodine: A contrast medium.
    """

    bone: np.ndarray
    iodine: np.ndarray


def bone_or_iodine(
    hu: np.ndarray,
    body: np.ndarray,
    grid: Geometry,
    *,
    known_bone: np.ndarray | None = None,
    known_soft: np.ndarray | None = None,
) -> Dense:
    """Tell bone from a contrast medium.

    Args:
        hu: HU with little noise [z, y, x].
        body: Where to look.
        known_bone, known_soft: What labels say: bones, and organs that are no bone.
    """
    step = np.maximum(1, np.rint(_WORKING_MM / np.array(grid.spacing_xyz[::-1]))).astype(int)
    shape = hu.shape
    spacing = np.array(grid.spacing_xyz[::-1]) * step
    coarse = _blocks(np.where(body, hu, -1000), step)
    bone_marker = np.zeros(coarse.shape, bool) if known_bone is None else _blocks(known_bone, step) > 0.5
    soft_marker = np.zeros(coarse.shape, bool) if known_soft is None else _blocks(known_soft, step) > 0.5
    dense = (coarse > DENSE_HU) | bone_marker
    smooth = ndimage.gaussian_filter(coarse, 1.2 / spacing)
    even = _even_cores(smooth, dense & ~bone_marker, spacing)
    even = _to_their_edges(even, coarse, spacing) & ~bone_marker
    shell_hu = SHELL_HU if even.any() else PLAIN_SHELL_HU
    marrow = _inside_shells(np.where(even | soft_marker, np.minimum(coarse, 100), coarse), spacing, shell_hu)
    marrow &= ~soft_marker & ~even
    shell = (coarse > shell_hu) & ~even
    thick = _thick(smooth, spacing)
    shell &= (coarse > ALWAYS_BONE_HU) | ~thick
    markers = np.zeros(coarse.shape, np.int32)
    markers[(shell | marrow & dense) & ~soft_marker | bone_marker] = 1
    markers[(even | soft_marker) & dense & ~bone_marker] = 2
    if (markers == 2).any():
        gradient = ndimage.generic_gradient_magnitude(coarse, ndimage.sobel)
        share = watershed(gradient, markers, mask=dense)
        # thick and bright without an even core: a vertebra that a vessel touches; small vessels have no core either
        share[(share == 2) & thick & ~_grown(even | soft_marker, spacing, 4.0)] = 1
    else:
        share = dense.astype(np.int32)
    solid = _without_specks((share == 1) | marrow, spacing, 60.0)
    solid, medium = _by_neighbours(solid, (share == 2) & ~solid, coarse, bone_marker, soft_marker, spacing)
    bone = _repeated(solid, step, shape)
    iodine = _repeated(medium, step, shape)
    # the coarse answer is for the bright voxels; a bone's surface is where its own voxels end
    surface = ndimage.binary_dilation(bone, iterations=1) & (hu > DENSE_HU + 50) & ~iodine
    return Dense((bone | surface) & body, iodine & (hu > DENSE_HU - 30) & ~bone & body)


def _by_neighbours(
    bone: np.ndarray,
    iodine: np.ndarray,
    hu: np.ndarray,
    known_bone: np.ndarray,
    known_soft: np.ndarray,
    spacing: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Bone and contrast medium [z, y, x], parts of one that the other surrounds given to the other.

    A femoral head is even spongy bone in a socket (touched on 0.49 of its surface by bone); a renal pelvis or a loop of bowel
    is brightest in the middle of what holds a medium, too. Kidneys, spleen, an aorta that lies against the spine: below 0.3.
    """
    new_bone, new_iodine = bone.copy(), iodine.copy()
    for mask, other, known, share in ((iodine, bone, known_soft, _SOCKET), (bone, iodine, known_bone, _WITHIN_MEDIUM)):
        parts, count = ndimage.label(mask)
        volume = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing)) / 1000
        for k, box in enumerate(ndimage.find_objects(parts), start=1):
            if not _PART_ML[0] <= volume[k] <= _PART_ML[1]:
                continue
            wide = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
            part = parts[wide] == k
            ring = ndimage.binary_dilation(part) & ~part
            if not ring.any() or other[wide][ring].mean() < share or (part & known[wide]).any():
                continue
            if mask is bone and (hu[wide][part] > ALWAYS_BONE_HU).mean() > _CORTEX_SHARE:
                continue
            to_bone = mask is iodine
            new_bone[wide][part], new_iodine[wide][part] = to_bone, not to_bone
    return new_bone, new_iodine


def _inside_shells(hu: np.ndarray, spacing: np.ndarray, shell_hu: float) -> np.ndarray:
    """Marrow: what a closed shell of bone surrounds, in slices along all three axes (two of them must agree).

    The spinal canal, the brain and the pelvis lie inside rings of bone, too: they are too large, or neither fat nor
    spongy bone.
    """
    shell = hu > shell_hu
    reach = np.maximum(1, np.rint(_CLOSING_MM / spacing)).astype(int)
    votes = np.zeros(hu.shape, np.uint8)
    sure = np.zeros(hu.shape, bool)
    for axis in range(3):
        across = [a for a in range(3) if a != axis]
        area = float(np.prod(spacing[across]))
        structure = np.ones([2 * reach[a] + 1 if a in across else 1 for a in range(3)], bool)
        edge = [(int(reach[a]), int(reach[a])) if a in across else (0, 0) for a in range(3)]
        padded = ndimage.binary_closing(np.pad(shell, edge), structure)
        closed = padded[tuple(slice(e[0], n - e[1]) for e, n in zip(edge, padded.shape, strict=True))] | shell
        for k in range(hu.shape[axis]):
            take = tuple(k if a == axis else slice(None) for a in range(3))
            plane = closed[take]
            if not plane.any():
                continue
            holes, count = ndimage.label(ndimage.binary_fill_holes(plane) & ~plane)
            inside = np.zeros(plane.shape, bool)
            if count:
                index = np.arange(1, count + 1)
                size = np.bincount(holes.ravel(), minlength=count + 1)[1:] * area
                # judged by their middle: a shaft's is its fattest part, the canal's is the cord
                depth = ndimage.distance_transform_edt(np.pad(holes > 0, 1))[1:-1, 1:-1]
                deepest = np.concatenate([[0], ndimage.maximum(depth, holes, index)])
                core = np.where(depth >= 0.6 * deepest[holes], holes, 0)
                level = ndimage.mean(hu[take], core, index)
                canal = (size > _CANAL_MM2) & (level > _CANAL_HU[0]) & (level < _CANAL_HU[1])
                good = (size < _LARGEST_MARROW_MM2) & ~canal & (level < 500) & (level > -150)
                inside = np.isin(holes, index[good])
            if inside.any():  # what the closing took from the holes' rims
                inside = (
                    ndimage.binary_dilation(inside, iterations=int(max(reach[across])))
                    & (plane | inside)
                    & ~shell[take]
                )
            votes[take] += inside
            if axis == 0 and inside.any():  # a shaft is open at its ends: fat or spongy bone within its ring is enough
                distinct = np.isin(holes, index[good & ((level < -5) | (level > 75))])
                sure[take] = ndimage.binary_dilation(distinct, iterations=int(max(reach[across]))) & inside
    return ((votes >= 2) | sure) & (hu < 700)


def _even_cores(hu: np.ndarray, dense: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels whose surroundings of 7 mm are as bright as they are: a vessel, a kidney, bowel with contrast medium.

    Spongy bone can be as even, but a cortex brighter than itself surrounds it.
    """
    size = tuple(int(n) for n in np.maximum(3, 2 * np.rint(_EVEN_MM / spacing / 2).astype(int) + 1))
    values = np.clip(hu, -200, 1500)
    mean = ndimage.uniform_filter(values, size)
    deviation = np.sqrt(np.maximum(ndimage.uniform_filter(values * values, size) - mean * mean, 0))
    even = dense & (mean > DENSE_HU) & (mean < ALWAYS_BONE_HU) & (deviation < np.maximum(25, 0.11 * mean))
    even = _without_specks(even, spacing, 250.0)
    parts, count = ndimage.label(even)
    keep = np.zeros(count + 1, bool)
    margin = np.ceil(9.0 / spacing).astype(int)
    for index, box in enumerate(ndimage.find_objects(parts), start=1):
        wide = tuple(slice(max(0, b.start - m), b.stop + m) for b, m in zip(box, margin, strict=True))
        part = parts[wide] == index
        distance = ndimage.distance_transform_edt(~part, sampling=spacing)
        ring = (distance > 0) & (distance < 8.0)
        level = float(np.median(hu[wide][part]))
        brighter = float(np.mean(hu[wide][ring] > level + max(25.0, 0.15 * level)))
        large = part.sum() * np.prod(spacing) > 4000
        keep[index] = brighter < (BRIGHT_RING_LARGE if large else BRIGHT_RING)
    return keep[parts]


def _to_their_edges(even: np.ndarray, hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Even cores grown by at most 7 mm, to where their brightness falls by 40 % or rises by half."""
    if not even.any():
        return even
    distance, nearest = ndimage.distance_transform_edt(~even, sampling=spacing, return_indices=True)
    level = ndimage.uniform_filter(hu, 3)[tuple(nearest)]
    return even | (distance < _EVEN_MM) & (hu > 0.6 * level) & (hu < 1.5 * level)


def _thick(hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Where something brighter than soft tissue is thicker than 9 mm."""
    bright = hu > 200
    core = ndimage.distance_transform_edt(bright, sampling=spacing) > _THICK_MM
    return _grown(core, spacing, _THICK_MM) & bright


def _without_specks(mask: np.ndarray, spacing: np.ndarray, smallest_mm3: float) -> np.ndarray:
    """The mask without connected parts below a volume."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    volume = np.bincount(parts.ravel()) * float(np.prod(spacing))
    volume[0] = 0
    return (volume >= smallest_mm3)[parts]


def _grown(mask: np.ndarray, spacing: np.ndarray, reach_mm: float) -> np.ndarray:
    """The mask with everything nearer than `reach_mm`."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing) < reach_mm if mask.any() else mask


def _blocks(array: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Block means, float32; the last block repeats the edge."""
    if (step == 1).all():
        return array.astype(np.float32)
    pad = [(0, -n % s) for n, s in zip(array.shape, step, strict=True)]
    padded = np.pad(array, pad, mode="edge")
    count = np.array(padded.shape) // step
    return padded.reshape([k for pair in zip(count, step, strict=True) for k in pair]).mean((1, 3, 5), dtype=np.float32)


def _repeated(mask: np.ndarray, step: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A coarse mask on the full grid."""
    for axis, n in enumerate(step):
        mask = np.repeat(mask, n, axis)
    return mask[tuple(slice(n) for n in shape)]
