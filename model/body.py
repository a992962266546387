"""The body mask, one implementation for every stage: registration, training, inference, evaluation."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from model.errors import InputError
from model.interface import Task
from model.volume import Volume

BODY_THRESHOLD_HU = -400.0  # between lung/air and fat (-100)
LUNG_HU = -930.0  # aerated lung lies above, room air below
_COARSE_MM = 3.0
_OPENING_MM = 6.0  # wider than a couch shell or a mask strap
_CLOSING_MM = 9.0


def body_mask(volume: Volume, task: Task) -> Volume:
    """Find the patient in an image.

    A threshold (fixed in HU for CT and CBCT, from the histogram for MR), the largest connected part after
    an opening that cuts off couch and straps, and every hole of an axial slice filled (lungs, bowel gas).

    Args:
        volume: MR, or CT/CBCT in HU (`Task.CBCT`); axes z, y, x with z along the body, any spacing.
        task: What the image is.

    Returns:
        bool on the image's grid.

    Raises:
        InputError: Nothing in the image looks like a body.
    """
    step = np.maximum(1, np.rint(_COARSE_MM / np.array(volume.geometry.spacing_xyz[::-1]))).astype(int)
    step = np.minimum(step, np.maximum(1, np.array(volume.array.shape) // 8))
    image = volume.array.astype(np.float32, copy=False)
    threshold = BODY_THRESHOLD_HU if task is Task.CBCT else _mr_threshold(image)
    coarse_mm = np.array(volume.geometry.spacing_xyz[::-1]) * step
    smooth = ndimage.uniform_filter(image, step.tolist(), mode="nearest")
    coarse = smooth[tuple(slice(s // 2, None, s) for s in step)] > threshold
    core = _largest_part(_open(coarse, coarse_mm))
    if core is None:
        raise InputError(volume.name or "image", f"nothing above {threshold:g} that could be a body",
                         "an image of a patient", "give a body mask with --mask")  # fmt: skip
    near = _distance(~core, coarse_mm) <= _OPENING_MM  # give back what the opening shaved off
    body = near & coarse | core
    body = _distance(~body, coarse_mm) <= _CLOSING_MM
    body = _distance(body, coarse_mm) > _CLOSING_MM
    values = smooth[tuple(slice(s // 2, None, s) for s in step)] if task is Task.CBCT else None
    body = _fill_slices(body | core, values)
    full = np.repeat(np.repeat(np.repeat(body, step[0], 0), step[1], 1), step[2], 2)
    pad = [(0, max(0, n - f)) for n, f in zip(volume.array.shape, full.shape, strict=True)]
    full = np.pad(full, pad, mode="edge")[tuple(slice(n) for n in volume.array.shape)]
    return Volume(full, volume.geometry, f"body mask of {volume.name}")


def _mr_threshold(image: np.ndarray) -> float:
    """Between noise and tissue: Otsu's threshold of the image's square root, squared.

    The root compresses bright fat and coil flare, so that dim muscle falls on the body's side.
    """
    from skimage.filters import threshold_otsu

    sample = image[::2, ::2, ::2] if image.size > 1_000_000 else image
    high = float(np.percentile(sample, 99))
    roots = np.sqrt(np.clip(sample, 0, max(high, 0)))
    if roots.max() <= roots.min():
        return high
    return float(threshold_otsu(roots, nbins=128) ** 2) * 0.6


def _distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm of every True voxel to the nearest False one in its slice; the image's border is no edge."""
    import edt

    return np.stack([edt.edt(s, anisotropy=tuple(spacing[1:]), black_border=False) for s in np.ascontiguousarray(mask)])


def _open(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    eroded = _distance(mask, spacing) > _OPENING_MM / 2
    return _distance(~eroded, spacing) <= _OPENING_MM / 2 if eroded.any() else eroded


def _largest_part(mask: np.ndarray) -> np.ndarray | None:
    labels, count = ndimage.label(mask)
    if count == 0:
        return None
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def _fill_slices(mask: np.ndarray, hu: np.ndarray | None) -> np.ndarray:
    """Fill the holes of every axial slice; with HU, also lung that the field of view cuts open."""
    filled = np.stack([ndimage.binary_fill_holes(s) for s in mask])
    if hu is not None:
        for inside, values in zip(filled, hu, strict=True):
            labels, count = ndimage.label(~inside)
            medians = ndimage.median(values, labels, range(1, count + 1))
            inside |= np.isin(labels, 1 + np.flatnonzero(np.asarray(medians) > LUNG_HU))
    return filled
