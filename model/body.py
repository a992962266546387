"""The body mask, one implementation for every stage: registration, training, inference, evaluation."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

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
        volume: MR, or CT/CBCT in HU (`Task.CBCT`); any orientation and spacing.
        task: What the image is.

    Returns:
        bool on the image's grid.

    Raises:
        InputError: Nothing in the image looks like a body.
    """
    # "Slices" below are axial: bring the axis that runs along the body to the front.
    along = 2 - int(np.argmax(np.abs(volume.geometry.axes[2])))
    image = np.moveaxis(volume.array, along, 0)
    spacing = np.array(volume.geometry.spacing_xyz[::-1])[[along, *(k for k in range(3) if k != along)]]
    step = np.maximum(1, np.rint(_COARSE_MM / spacing)).astype(int)
    step = np.minimum(step, np.maximum(1, np.array(image.shape) // 8))
    threshold = BODY_THRESHOLD_HU if task is Task.CBCT else _mr_threshold(image)
    coarse_mm = spacing * step
    means = _block_means(image, step)
    coarse = means > threshold
    core = _largest_part(_open(coarse, coarse_mm))
    if core is None:
        raise InputError(
            volume.name or "image",
            found=f"nothing above {threshold:g} that could be a body",
            expected="an image of a patient",
            advice="give a body mask with --mask",
        )
    near = _distance(~core, coarse_mm) <= _OPENING_MM  # give back what the opening shaved off
    body = near & coarse | core
    body = _distance(~body, coarse_mm) <= _CLOSING_MM
    body = _distance(body, coarse_mm) > _CLOSING_MM
    body = _fill_slices(body | core, means if task is Task.CBCT else None)
    full = np.repeat(np.repeat(np.repeat(body, step[0], 0), step[1], 1), step[2], 2)
    full = np.pad(full, [(0, n - f) for n, f in zip(image.shape, full.shape, strict=True)], mode="edge")
    return Volume(np.ascontiguousarray(np.moveaxis(full, 0, along)), volume.geometry, f"body mask of {volume.name}")


def _block_means(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Mean of every block of `step` voxels (z, y, x), float32; a cut block at the end is left out."""
    count = np.array(image.shape) // step
    whole = image[tuple(slice(n * s) for n, s in zip(count, step, strict=True))]
    blocks = whole.reshape([k for pair in zip(count, step, strict=True) for k in pair])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _mr_threshold(image: np.ndarray) -> float:
    """Between noise and tissue: Otsu's threshold of the image's square root, squared.

    The root compresses bright fat and coil flare, so that dim muscle falls on the body's side.
    """
    from skimage.filters import threshold_otsu

    sample = (image[::2, ::2, ::2] if image.size > 1_000_000 else image).astype(np.float32)
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
