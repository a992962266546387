"""The body mask, one implementation for every stage: registration, training, inference, evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from sctlab_model.cases import Task
from sctlab_model.cut_edges import image_box
from sctlab_model.errors import InputError
from sctlab_model.imaged import imaged_part
from sctlab_model.volume import Volume

BODY_THRESHOLD_HU = -400.0  # between lung/air and fat (-100)
LUNG_HU = -930.0  # aerated lung lies above, room air below
_ABOVE_AIR_HU = 70.0  # lung lies so far above the image's own air, where that isn't room air
# A couch's foam is as dark as the darkest lungs, but even: blocks of 3 mm differ from the mean of 15 mm around by 3 to 10 HU
# (median over a slice; noise), in real lungs by 13 to 28.
_DARK_LUNG_HU, _EVEN_HU = -860.0, 11.5
_NO_TISSUE_HU = -700.0  # the couch's shell is none of its foam
_NEAR_MM, _AROUND_MM = 3.0, 15.0
_AIR_LEFT = 0.9  # of an image: less body leaves air to find a threshold by
_NEAR_VOXELS = 4  # from a filled border: the body reaches it
_AIR_AROUND = 0.6  # share of the slices' corners outside the body that says that there is air around it
_AIR_TOUCHES = 0.1  # of the places outside the body that a region of air holds
_EVERYTHING = 0.99  # a mask of more than this share of the image needs evidence
_LUNG_SPREAD_HU = 60.0  # between the quartiles of its blocks of 3 mm; in a real chest about 100
_COARSE_MM = 3.0
_OPENING_MM = 6.0  # wider than a couch shell or a mask strap
_CLOSING_MM = 9.0


def body_mask(volume: Volume, task: Task) -> Volume:
    """Find the patient in an image.

    A threshold (fixed in HU for CT and CBCT, moved with the scale where it isn't that of HU; from the histogram for
    MR), the largest connected part after an opening that cuts off couch, headrest and straps, and every hole of an axial
    slice filled (lungs, bowel gas).

    Args:
        volume: MR, or CT/CBCT in HU (`Task.CBCT`); any orientation and spacing.
        task: What the image is.

    Returns:
        bool on the image's grid.

    Raises:
        InputError: Nothing in the image looks like a body, or everything does without evidence for it.
    """
    # "Slices" below are axial: bring the axis that runs along the body to the front.
    along = 2 - int(np.argmax(np.abs(volume.geometry.axes[2])))
    image = np.moveaxis(volume.array, along, 0)
    spacing = np.array(volume.geometry.spacing_xyz[::-1])[[along, *(k for k in range(3) if k != along)]]
    threshold = BODY_THRESHOLD_HU if task is Task.CBCT else _mr_threshold(image)
    nothing = InputError(
        volume.name or "image",
        found=f"nothing above {threshold:g} that could be a body",
        expected="an image of a patient",
        advice="give a body mask with --mask",
    )
    try:
        body, seen, share = _find(image, spacing, task, threshold)
    except _Nothing:
        raise nothing from None
    (top, left), (rows, columns) = image_box(image)
    part = np.s_[:, top : top + rows, left : left + columns]
    # A body in a filled border is that border, of a value between air and tissue, or above it.
    spills = 2 * (np.count_nonzero(body) - np.count_nonzero(body[part])) > body.size - body[part].size
    if (rows, columns) != image.shape[1:] and (spills or _reaches(body[part], (top, left), image.shape[1:])):
        # Cut by a filled border: as in the image without it, where the border isn't taken for the body's own edge. Where
        # there is air in it, that tells what is tissue; the fill, however much of it there is, doesn't.
        if task is not Task.CBCT and body[part].mean() < _AIR_LEFT:
            threshold = _mr_threshold(image[part])
        try:
            within, seen, share = _find(image[part], spacing, task, threshold)
            body = np.zeros_like(body)
            body[part] = within
            share = share if spills else float(body.mean())
        except _Nothing:
            if spills:
                raise nothing from None
    if share > _EVERYTHING and not (task is Task.CBCT and seen > 0.95):
        raise InputError(
            volume.name or "image",
            found=f"a body mask of {share:.1%} of the image: body and air can't be told apart",
            expected="an image of a patient with air around, or in HU",
            advice="give a body mask with --mask",
        )
    return Volume(np.ascontiguousarray(np.moveaxis(body, 0, along)), volume.geometry, f"body mask of {volume.name}")


class _Nothing(Exception):
    """No part of the image could be a body."""


def _reaches(body: np.ndarray, start: tuple[int, int], whole: tuple[int, ...]) -> bool:
    """Whether the body in a box of an image comes near to one of its sides that isn't the image's own."""
    near = [body[:, :_NEAR_VOXELS], body[:, :, :_NEAR_VOXELS], body[:, -_NEAR_VOXELS:], body[:, :, -_NEAR_VOXELS:]]
    filled = [*(n > 0 for n in start), *(n + k < w for n, k, w in zip(start, body.shape[1:], whole, strict=True))]
    return any(bool(side.any()) for side, f in zip(near, filled, strict=True) if f)


def _find(image: np.ndarray, spacing: np.ndarray, task: Task, threshold: float) -> tuple[np.ndarray, float, float]:
    """The body in an image with axial slices first; of what was imaged, the share of coarse blocks that show that they are
    tissue (all, where the rest of a round field of view is uneven as lung is), and the body's share.

    Raises:
        _Nothing: No part of the image could be a body.
    """
    step = np.maximum(1, np.rint(_COARSE_MM / spacing)).astype(int)
    step = np.minimum(step, np.maximum(1, np.array(image.shape) // 8))
    coarse_mm = spacing * step
    # What software fills in for an MR is black, as air is; in HU it may be anything.
    field = imaged_part(image, [float(s) for s in spacing[1:]]) if task is Task.CBCT else None
    means, shown = _block_means(image, step), None
    if field is not None:
        held = _block_means(field, step)
        shown = held > 0
        means = _block_means(np.where(field, image, image.dtype.type(0)), step) / np.where(shown, held, 1)
    if task is Task.CBCT:
        means = means - np.float32(_scale_offset(means if shown is None else means[shown]))
    coarse = means > threshold
    if shown is not None:
        coarse &= shown
    core = _largest_part(_open(coarse, coarse_mm))
    if core is None:
        raise _Nothing
    near = _distance(~core, coarse_mm) <= _OPENING_MM  # give back what the opening shaved off
    body = near & coarse | core
    body = _distance(~body, coarse_mm) <= _CLOSING_MM
    body = _distance(body, coarse_mm) > _CLOSING_MM
    body = _fill_slices(body | core, means if task is Task.CBCT else None, coarse_mm, shown)
    full = np.repeat(np.repeat(np.repeat(body, step[0], 0), step[1], 1), step[2], 2)
    full = np.pad(full, [(0, n - f) for n, f in zip(image.shape, full.shape, strict=True)], mode="edge")
    if field is None or shown is None:
        return full, float(coarse.mean()), float(full.mean())
    full &= field
    # A field of view in the chest: lung is uneven, air at any level isn't.
    dark = means[body & shown & ~coarse]
    lung = dark.size > 0 and float(np.subtract(*np.percentile(dark, (75, 25)))) > _LUNG_SPREAD_HU
    return full, 1.0 if lung else float(coarse[shown].mean()), float(full[field].mean())


def _block_means(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Mean of every block of `step` voxels (z, y, x), float32; a cut block at the end is left out."""
    count = np.array(image.shape) // step
    whole = image[tuple(slice(n * s) for n, s in zip(count, step, strict=True))]
    blocks = whole.reshape([k for pair in zip(count, step, strict=True) for k in pair])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _lung_level(body: np.ndarray, hu: np.ndarray, shown: np.ndarray | None) -> float:
    """HU above which a region outside the body is lung that the field of view cuts open, not air.

    Room air is darker than any lung, but in a CBCT air may lie anywhere. Where the corners of the slices (the rim of a round
    field of view) are outside the body there is air around it, and its level is measured there; else the field of view lies
    in the body.
    """
    outside, rows, columns = ~body, np.array([0, 0, -1, -1]), np.array([0, -1, 0, -1])
    if shown is not None:
        held = shown.any(axis=(1, 2))
        outside, hu, plane = (outside & shown)[held], hu[held], shown.any(axis=0)
        if not plane.all():
            rows, columns = np.nonzero(plane & ndimage.binary_dilation(~plane))
    corners = outside[:, rows, columns]
    if corners.mean() < _AIR_AROUND:
        return LUNG_HU
    labels, _ = ndimage.label(outside)
    touching, often = np.unique(labels[:, rows, columns][corners], return_counts=True)
    # Of several regions the darkest is air: the rim of a field of view may cut the lungs, too.
    levels = ndimage.median(hu, labels, touching[often >= _AIR_TOUCHES * often.sum()])
    return max(LUNG_HU, float(np.min(levels)) + _ABOVE_AIR_HU)


def _mr_threshold(image: np.ndarray) -> float:
    """Between noise and tissue: Otsu's threshold of the image's square root, squared.

    The root compresses bright fat and coil flare, so that dim muscle falls on the body's side.
    """
    from skimage.filters import threshold_otsu

    sample = (image[::2, ::2, ::2] if image.size > 1_000_000 else image).astype(np.float32)
    low, high = (float(v) for v in np.percentile(sample, (0.5, 99)))
    # Magnitude images begin at zero. A standardised one (much of it negative) or one with an offset begins elsewhere.
    base = low if (sample < 0).mean() > 0.05 or low > 0.2 * high else 0.0
    roots = np.sqrt(np.clip(sample - base, 0, max(high - base, 0)))
    if roots.max() <= roots.min():
        return high
    return base + float(threshold_otsu(roots, nbins=128) ** 2) * 0.6


def _scale_offset(means: np.ndarray) -> float:
    """What has to be subtracted to come to HU, roughly: 0 where the image holds air below -600, as HU do.

    Scanners and converters also store HU + 1024, and a CBCT's air may lie anywhere. Then the darker of two classes
    (Otsu) is taken for air at -1000, if the other one lies as far above it as tissue does.
    """
    from skimage.filters import threshold_otsu

    low, high = (float(v) for v in np.percentile(means, (0.5, 99.5)))
    if low < -600 or high - low < 300:
        return 0.0
    values = np.clip(means, low, high)
    cut = threshold_otsu(values, nbins=128)
    air, tissue = float(np.median(values[values <= cut])), float(np.median(values[values > cut]))
    return air + 1000.0 if 500 <= tissue - air <= 1600 else 0.0


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


def _fill_slices(mask: np.ndarray, hu: np.ndarray | None, spacing: np.ndarray, shown: np.ndarray | None) -> np.ndarray:
    """Fill the holes of every axial slice; with HU, also lung that the field of view (`shown`) cuts open."""
    filled = np.stack([ndimage.binary_fill_holes(s) for s in mask])
    if hu is not None and not filled.all():
        lung = _lung_level(filled, hu, shown)
        for k, (inside, values) in enumerate(zip(filled, hu, strict=True)):
            labels, count = ndimage.label(~inside if shown is None else ~inside & shown[k])
            medians = np.asarray(ndimage.median(values, labels, range(1, count + 1)))
            for part in (1 + np.flatnonzero(medians > lung)).tolist():
                if not even_and_dark(values[None], (labels == part)[None], spacing):
                    inside |= labels == part
    return filled


def even_and_dark(
    hu: np.ndarray, region: np.ndarray, spacing_zyx: Sequence[float] | np.ndarray, even_hu: float = _EVEN_HU
) -> bool:
    """Whether a region is air or foam: dark, and even but for noise. The darkest lung has vessels everywhere.

    Args:
        hu: HU [z, y, x], axial slices first.
        region: bool, same shape.
        spacing_zyx: Voxels in mm.
        even_hu: Median difference of 3 mm from the 15 mm around, below which a region is even.
    """
    if float(np.median(hu[region])) > _DARK_LUNG_HU:
        return False
    near, around = ([1, *(max(1, round(mm / s)) for s in spacing_zyx[1:])] for mm in (_NEAR_MM, _AROUND_MM))
    inner = ndimage.binary_erosion(region & (hu < _NO_TISSUE_HU), np.ones(around, bool))
    if not inner.any():
        return False
    unevenness = np.abs(ndimage.uniform_filter(hu, near) - ndimage.uniform_filter(hu, around))
    return float(np.median(unevenness[inner])) < even_hu
