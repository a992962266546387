"""The shape of a body: its parts, boards that touch it, and lungs that the image's border cuts open."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_OPENING_MM = 6.0  # wider than a couch shell or a mask strap
_CLOSING_MM = 9.0
_APART_MM = 1000.0  # between slices, so that distances are those in a slice
_LIMB_SHARE = 0.2  # of the largest part: the other leg
# Smaller parts of this share are arms where they are as bright as tissue and thicker than what patients lie on.
_ARM_SHARE, _ARM_RADIUS_MM, _ARM_BRIGHTNESS = 0.01, 18.0, 0.4
# A board is thinner than this, sticks out so far beside the body, in so many of its slices, at one height.
_BOARD_MM, _STICKS_OUT_MM, _BOARD_SLICES = 24.0, 60.0, 0.5
_ENCLOSED, _ENCLOSED_SHARE = 0.75, 0.02  # of a dark region in the body's convex hull; of the body's area in the slice


def find_parts(tissue: np.ndarray, values: np.ndarray, threshold: float, spacing: np.ndarray) -> np.ndarray | None:
    """The body among blocks of tissue: without what is thin (couch, headrest, straps), its gaps and holes filled.

    The largest connected part, another one at least a fifth as large (two legs), and arms: smaller ones that are thick and
    as bright as tissue is.

    Args:
        tissue: bool [z, y, x], axial slices first.
        values: Same shape.
        threshold: What tissue lies above.
        spacing: mm (z, y, x).

    Returns:
        bool, same shape; None where nothing is thick enough.
    """
    eroded = distance_mm(tissue, spacing) > _OPENING_MM / 2
    labels, count = ndimage.label(distance_mm(~eroded, spacing) <= _OPENING_MM / 2 if eroded.any() else eroded)
    if count == 0:
        return None
    core = _body_parts(labels, values, threshold, spacing)
    body = core | tissue & (distance_mm(~core, spacing) <= _OPENING_MM)  # give back what the opening shaved off
    body = distance_mm(~body, spacing) <= _CLOSING_MM
    body = core | (distance_mm(body, spacing) > _CLOSING_MM)
    return np.stack([ndimage.binary_fill_holes(s) for s in body])


def _body_parts(labels: np.ndarray, values: np.ndarray, threshold: float, spacing: np.ndarray) -> np.ndarray:
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    chosen = labels == largest
    others = [k for k in np.flatnonzero(sizes >= max(1, _ARM_SHARE * sizes[largest])).tolist() if k != largest]
    if not others:
        return chosen
    bright = threshold + _ARM_BRIGHTNESS * (float(np.median(values[chosen])) - threshold)
    for k in others:
        part = labels == k
        limb = sizes[k] >= _LIMB_SHARE * sizes[largest] or distance_mm(part, spacing).max() >= _ARM_RADIUS_MM
        if limb and float(np.median(values[part])) >= bright:
            chosen |= part
    return chosen


def distance_mm(mask: np.ndarray, spacing: np.ndarray, *, border: bool = False) -> np.ndarray:
    """Distance in mm of every True voxel to the nearest False one in its slice; the image's `border` may be an edge, too."""
    import edt

    return edt.edt(np.ascontiguousarray(mask), anisotropy=(_APART_MM, *spacing[1:]), black_border=border)


def cut_off_boards(body: np.ndarray, spacing: np.ndarray) -> bool:
    """Take a board that the patient lies on out of a body; it is flat, thin, and sticks out beside the body in most slices.

    Args:
        body: bool [z, y, x], axial slices first; changed.
        spacing: mm (z, y, x).

    Returns:
        Whether there was one.
    """
    held = body.any(axis=(1, 2))
    thick = distance_mm(body, spacing, border=True) > _BOARD_MM / 2
    if not thick.any():
        return False
    thick = distance_mm(~thick, spacing) <= _BOARD_MM / 2 + spacing[1:].max() / 2
    found = False
    for axis in (1, 2):  # a patient may lie on the side
        sticks_out = np.moveaxis(body & ~thick, axis, 1)
        across = spacing[3 - axis]
        # Lines of voxels across the slice that lie beside the body: a board's are long, in neighbouring rows, in all slices.
        lengths = sticks_out.sum(axis=2) * across
        rows = np.flatnonzero((lengths[held] >= _STICKS_OUT_MM).mean(axis=0) >= _BOARD_SLICES)
        if not rows.size or (rows[-1] - rows[0] + 1) * spacing[axis] > _BOARD_MM:
            continue
        turned = np.moveaxis(body, axis, 1)  # a view
        bulk = np.flatnonzero(np.moveaxis(thick, axis, 1).any(axis=(0, 2)))
        below = rows.mean() > bulk.mean()
        # A body, or an arm, that the image's border cuts has sharp corners there.
        if turned[:, -1 if below else 0].any():
            continue
        if below:
            turned[:, rows[0] :] = False
        else:
            turned[:, : rows[-1] + 1] = False
        found = True
    return found


def add_cut_lungs(body: np.ndarray, shown: np.ndarray, corners: tuple[np.ndarray, np.ndarray] | None) -> float:
    """Add dark regions that the image's border cuts open to a body: those that lie in its convex hull.

    Air beside a convex body lies outside of its hull, or holds corners of the image; a lung that the border cuts lies between
    ribs and border. (Of an MR, in which lung is as dark and as even as air.)

    Args:
        body: bool [z, y, x], axial slices first; changed.
        shown: What was imaged, same shape.
        corners: Rows and columns where a rectangular image ends; None of a round field of view.

    Returns:
        How much was added, as a share of the body.
    """
    from skimage.morphology import convex_hull_image

    before = int(np.count_nonzero(body)) or 1
    for inside, seen in zip(body, shown, strict=True):
        labels, count = ndimage.label(seen & ~inside)
        if not count or not inside.any():
            continue
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        if corners is not None:
            sizes[labels[corners]] = 0
        large = np.flatnonzero(sizes >= max(1, _ENCLOSED_SHARE * inside.sum())).tolist()
        if not large:
            continue
        hull = convex_hull_image(inside)
        for k in large:
            part = labels == k
            if hull[part].mean() >= _ENCLOSED:
                inside |= part
    return np.count_nonzero(body) / before - 1
