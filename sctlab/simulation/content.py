"""Content that changes between two days: bowel gas that comes and goes, stool in its place."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sctlab.simulation.phantom import Phantom
from sctlab.simulation.tissues import Tissue

HOLLOW_ORGANS = (6, 18, 19, 20)  # stomach, small bowel, duodenum, colon
FILLED = (Tissue.STOOL, Tissue.FLUID)
GAS_HU = -985.0


def change_content(
    phantom: Phantom, hu_of: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[Phantom, np.ndarray]:
    """The patient on another day, in the same pose.

    About half of the gas pockets are replaced by content, and some pockets of content by gas on top.

    Args:
        phantom: The patient in the CT's pose.
        hu_of: HU of every tissue, indexed by `Tissue`.
        strength: 0 changes nothing, 1 about half of the pockets.

    Returns:
        The changed patient, and a boolean array of the voxels whose HU changed by more than 20.
    """
    organ = np.isin(phantom.label, HOLLOW_ORGANS)
    if strength <= 0 or not organ.any():
        return phantom, np.zeros(phantom.hu.shape, bool)
    z, y, x = ndimage.find_objects(organ.astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in (z, y, x))
    hu, tissue, organ = phantom.hu[box].copy(), phantom.tissue[box].copy(), organ[box]
    spacing = np.array(phantom.geometry.spacing_xyz[::-1])
    gas = organ & (tissue == Tissue.GAS)
    vanish = _pockets(gas, 0.5 * strength, rng)
    # the rim of a pocket holds part gas: its share is taken from HU
    reach = ndimage.distance_transform_edt(~vanish, sampling=spacing) < 2.2 if vanish.any() else vanish
    reach &= (organ | vanish) & ~(gas & ~vanish)
    filling = float(hu_of[Tissue.STOOL]) + 12 * rng.standard_normal()
    share = np.clip((20 - hu) / (20 - GAS_HU), 0, 1)
    hu[reach] += (share * (filling - GAS_HU))[reach]
    tissue[vanish] = Tissue.STOOL
    filled = organ & np.isin(phantom.tissue[box], FILLED)
    appear = _pockets(filled, 0.22 * strength, rng)
    if appear.any():
        level = _levels(appear, rng)
        inner = ndimage.binary_erosion(appear & level)
        tissue[inner] = Tissue.GAS
        soft = np.clip(ndimage.gaussian_filter(inner.astype(np.float32), 0.6 / spacing * spacing.min()), 0, 1)
        soft = np.where(appear, soft, np.minimum(soft, 0.5) * inner)
        hu += soft * (GAS_HU - hu)
    changed = np.zeros(phantom.hu.shape, bool)
    changed[box] = np.abs(hu - phantom.hu[box]) > 20
    new_hu, new_tissue = phantom.hu.copy(), phantom.tissue.copy()
    new_hu[box], new_tissue[box] = hu, tissue
    return Phantom(new_hu, new_tissue, phantom.label, phantom.geometry), changed


def _pockets(where: np.ndarray, chance: float, rng: np.random.Generator) -> np.ndarray:
    """A random choice of the connected parts of at least 30 voxels."""
    parts, count = ndimage.label(where)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    keep = (rng.random(count + 1) < chance) & (sizes >= 30)
    keep[0] = False
    return keep[parts]


def _levels(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gas lies on top (towards the front): the upper part of every connected pocket."""
    parts, _ = ndimage.label(where)
    result = np.zeros(where.shape, bool)
    for i, box in enumerate(ndimage.find_objects(parts), start=1):
        height = box[1].stop - box[1].start
        cut = int(height * rng.uniform(0.25, 0.7))
        part = parts[box] == i
        part[:, cut:] = False
        result[box] |= part
    return result
