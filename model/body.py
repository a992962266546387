"""The body mask, one implementation for every stage: registration, training, inference, evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sctlab_model.body_shape import add_cut_lungs, cut_off_boards, find_parts
from sctlab_model.cases import Task
from sctlab_model.cut_edges import image_box
from sctlab_model.errors import InputError
from sctlab_model.imaged import imaged_part
from sctlab_model.volume import Volume

BODY_THRESHOLD_HU = -400.0  # between lung/air and fat (-100)
LUNG_HU = -930.0  # aerated lung lies above, room air below
_ABOVE_AIR_HU = 70.0  # lung lies so far above the image's own air
_DARKEST_AIR_HU = -1050.0  # of a badly calibrated scanner; what is darker was filled in
# A couch's foam and cushions may be as bright as lung, but are even: blocks of 3 mm differ from the mean of 15 mm around by
# 3 to 10 HU (median over a slice; noise), in real lungs by 13 to 28. So shading, which is smooth, makes no lung of air.
_DARK_LUNG_HU, _EVEN_HU, _UNEVEN_HU = -860.0, 11.5, 14.0
_NO_TISSUE_HU, _ABOVE_FOAM_HU = -700.0, 160.0  # the couch's shell is none of its foam
_LARGE_PART = 0.05  # of a slice, or of a body
_NEAR_MM, _AROUND_MM = 3.0, 15.0
_AIR_LEFT = 0.9  # of an image: less body leaves air to find a threshold by
_AIR_AROUND = 0.6  # share of the slices' corners outside the body that says that there is air around it
_AIR_TOUCHES = 0.1  # of the places outside the body that a region of air holds
_EVERYTHING = 0.99  # a mask of more than this share of the image needs evidence
_ALL_TISSUE = 0.95  # share of an image above the threshold in HU that is evidence
_LUNG_SPREAD_HU = 60.0  # between the quartiles of its blocks of 3 mm; in a real chest about 100
_CONTRAST_HU = (500.0, 1600.0)  # between air and soft tissue, whatever the scale
_NO_CONTRAST_HU = 300.0  # an image of a smaller range is none in HU
_NO_LUNG_HU = -600.0  # an image without anything darker isn't in HU
_ONE_MATERIAL = 0.05  # range of a phantom's values beside its contrast to what lies around; patients: 0.5 to 3
_AIR_HU = -900.0  # what was filled in around is air from here on
_BELOW_AIR_HU = -1100.0  # nothing in HU is darker
_SOFT_TISSUE_HU, _AGREEMENT_HU = -30.0, 350.0
_MAY_BE_TISSUE_HU, _BONE_SPREAD_HU, _BONE_SHARE = 150.0, 250.0, 0.35
_AIR_PERCENT = 0.5  # of an image: few hold no air at all
_COARSE_MM = 3.0
SMALLEST_BODY_MM = 45.0  # a wrist: no image of a patient covers less
_OFFSET_SHARE = 0.04  # of an MR's brightest: air of real ones lies below 0.025
# Fluid alone may be bright (MR urography): so little of an image, beside a dim body so much larger, which is less even than noise.
_FLUID_SHARE, _DIM_BODY, _UNEVEN_TISSUE, _SMOOTH_MM = 0.05, 4.0, 0.2, 6.0
_EVEN_AIR = 0.1  # of the contrast to the body: the spread of an MR's air, between the quartiles of its blocks


def body_mask(volume: Volume, task: Task) -> Volume:
    """Find the patient in an image.

    What software has filled in (borders, the outside of a round field of view, empty slices) is left out. Then a threshold
    (fixed in HU for CT and CBCT, moved with the scale where it isn't that of HU; from the histogram for MR), the largest
    connected part after an opening that cuts off couch, headrest and straps, and every hole of an axial slice filled
    (lungs, bowel gas).

    Args:
        volume: MR, or CT/CBCT in HU (`Task.CBCT`); any orientation and spacing.
        task: What the image is.

    Returns:
        bool on the image's grid; a note where nearly all of what was imaged is body, or where it is doubtful.

    Raises:
        InputError: Nothing in the image looks like a body, or everything does without evidence for it.
    """
    # "Slices" below are axial: bring the axis that runs along the body to the front.
    along = 2 - int(np.argmax(np.abs(volume.geometry.axes[2])))
    image = np.moveaxis(volume.array, along, 0)
    spacing = np.array(volume.geometry.spacing_xyz[::-1])[[along, *(k for k in range(3) if k != along)]]
    (top, left), (rows, columns) = image_box(image)
    part = (slice(None), slice(top, top + rows), slice(left, left + columns))
    field = imaged_part(image[part], spacing[1:].tolist())
    blocks = _Blocks.of(image[part], field, spacing)
    filled_in = _filled_in(image, part, field)
    board = doubtful = False
    if task is Task.CBCT:
        body, believed, doubtful, board = _in_hu(blocks, filled_in)
    else:
        body, believed = _in_mr(blocks, image[part] if field is None else image[part][field], filled_in)
        if body is not None:
            corners = None if field is not None and not blocks.shown.any(axis=0).all() else blocks.rim()
            cut_lungs = add_cut_lungs(body, blocks.shown, corners) > _LARGE_PART
            believed, doubtful = believed or cut_lungs, cut_lungs or not _leaves_air(body, blocks)
    if body is None:
        width = max(spacing * image.shape)
        raise InputError(
            volume.name or "image",
            found="nothing that could be a body",
            expected="an image of a patient",
            advice=f"the whole image is {width:.2g} mm wide: is its spacing in mm?"
            if width < SMALLEST_BODY_MM
            else "give a body mask with --mask",
        )
    share = float(body[blocks.shown].mean())
    if share > _EVERYTHING and not believed and not _of_one_material(blocks, filled_in):
        raise InputError(
            volume.name or "image",
            found=f"a body mask of {share:.1%} of the image: body and air can't be told apart",
            expected="an image of a patient with air around, or in HU",
            advice="give a body mask with --mask",
        )
    mask = np.zeros(image.shape, bool)
    mask[part] = blocks.in_full(body, image[part].shape)
    if field is not None:
        mask[part] &= field
    notes = []
    if share > _EVERYTHING:
        notes.append(
            f"the computed body mask holds {share:.1%} of what was imaged: is there no air beside the patient?"
        )
    elif doubtful:
        notes.append(
            "where tissue or lung ends can't be seen everywhere: look at the computed body mask, or give one with --mask"
        )
    if board:
        notes.append("a board that sticks out beside the patient was left out of the computed body mask")
    mask = np.ascontiguousarray(np.moveaxis(mask, 0, along))
    return Volume(mask, volume.geometry, f"body mask of {volume.name}", tuple(notes))


@dataclass(frozen=True)
class _Blocks:
    """An image in blocks of about 3 mm, axial slices first: a body's outline needs no more, and noise is less in them.

    Args:
        means: Of what was imaged, float32.
        shown: Where anything was imaged, bool.
        step: Voxels of a block (z, y, x).
        spacing: mm (z, y, x).
    """

    means: np.ndarray
    shown: np.ndarray
    step: np.ndarray
    spacing: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, field: np.ndarray | None, spacing: np.ndarray) -> _Blocks:
        step = np.maximum(1, np.rint(_COARSE_MM / spacing)).astype(int)
        step = np.minimum(step, np.maximum(1, np.array(image.shape) // 8))
        if field is None:
            means = _block_means(image, step)
            return cls(means, np.ones(means.shape, bool), step, spacing * step)
        held = _block_means(field, step)
        means = _block_means(np.where(field, image, image.dtype.type(0)), step)
        return cls(means / np.where(held > 0, held, 1), held > 0, step, spacing * step)

    def in_full(self, coarse: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A mask of blocks as one of voxels; what is left at the ends goes on as the last block."""
        for axis, step in enumerate(self.step.tolist()):
            coarse = coarse.repeat(step, axis)
        return np.pad(coarse, [(0, n - k) for n, k in zip(shape, coarse.shape, strict=True)], mode="edge")

    def rim(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns where a slice ends: its corners, or the rim of a round field of view."""
        plane = self.shown.any(axis=0)
        if plane.all():
            return np.array([0, 0, -1, -1]), np.array([0, -1, 0, -1])
        rows, columns = np.nonzero(plane & ndimage.binary_dilation(~plane))
        return rows, columns


def _block_means(image: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Mean of every block of `step` voxels (z, y, x), float32; a cut block at the end is left out."""
    count = np.array(image.shape) // step
    whole = image[tuple(slice(n * s) for n, s in zip(count, step, strict=True))]
    blocks = whole.reshape([k for pair in zip(count, step, strict=True) for k in pair])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def _filled_in(image: np.ndarray, part: tuple[slice, ...], field: np.ndarray | None) -> np.ndarray:
    """The values beyond `image[part][field]`."""
    if field is None and image[part].size == image.size:
        return image.ravel()[:0]  # of most images nothing: no mask of all of it is made
    beyond = np.ones(image.shape, bool)
    beyond[part] = False if field is None else ~field
    return image[beyond]


def _of_one_material(blocks: _Blocks, filled_in: np.ndarray) -> bool:
    """Whether what was imaged is one even thing, brighter than what lies around: a phantom in air of one value, no field of view."""
    if not filled_in.size:
        return False
    low, middle, high = np.percentile(blocks.means[blocks.shown], (2, 50, 98))
    return bool(high - low <= _ONE_MATERIAL * (middle - np.median(filled_in)))


def _in_hu(blocks: _Blocks, filled_in: np.ndarray) -> tuple[np.ndarray | None, bool, bool, bool]:
    """The body in a CT or CBCT, in blocks; whether the values say so even where all is body; whether it is doubtful; boards left out.

    Of tissue alone it is said by bone or fat beside it, or by what was filled in around: air's HU.
    """
    offset = _scale_offset(blocks.means[blocks.shown])
    hu = blocks.means - np.float32(offset)
    tissue = blocks.shown & (hu > BODY_THRESHOLD_HU)
    body = find_parts(tissue, hu, BODY_THRESHOLD_HU, blocks.spacing)
    if body is None:
        return None, False, True, False
    board = cut_off_boards(body, blocks.spacing)
    guessed = _add_cut_lungs(body, hu, blocks, LUNG_HU if offset == 0 else -np.inf)
    doubtful = guessed or _leaves_lung(body, blocks)
    if offset or not blocks.shown.all():  # a field of view in the chest: lung is uneven, air at any level isn't
        dark = hu[body & blocks.shown & ~tissue]
        if dark.size and _spread(dark) > _LUNG_SPREAD_HU:
            return body, True, doubtful, board
    low, high = np.percentile(hu[blocks.shown], (0.5, 99.5))
    around = float(np.median(filled_in[:: max(1, filled_in.size // 1_000_000)])) if filled_in.size else 0.0
    told = high - low >= _NO_CONTRAST_HU or around <= _AIR_HU
    return body, bool(tissue[blocks.shown].mean() > _ALL_TISSUE and told), doubtful, board


def _in_mr(blocks: _Blocks, imaged: np.ndarray, filled_in: np.ndarray) -> tuple[np.ndarray | None, bool]:
    """The body in an MR, in blocks, of what was imaged; and whether it can be believed where all is body.

    The threshold lies between the air of what was imaged and its tissue, however much was filled in around. Where no air
    was imaged, what was filled in stands for it.
    """
    threshold, dim = _mr_thresholds(imaged)
    body = _above(threshold, blocks)
    if dim is not None:
        body = _around_fluid(body, _above(dim, blocks), threshold, blocks)
    if not filled_in.size:
        return body, False
    every = max(1, (imaged.size + filled_in.size) // 1_000_000)
    shown = imaged.ravel()[::every].astype(np.float32)
    fill = filled_in[::every].astype(np.float32).clip(0, None).clip(None, np.percentile(shown, _AIR_PERCENT))
    all_body = _above(_mr_thresholds(np.concatenate([shown, fill]))[0], blocks)
    if body is None or all_body is None:
        return (all_body if body is None else body), False
    if all_body[blocks.shown].mean() < _AIR_LEFT or _leaves_air(body, blocks):
        return body, False
    return all_body, imaged.size <= _EVERYTHING * (imaged.size + filled_in.size)


def _above(threshold: float, blocks: _Blocks) -> np.ndarray | None:
    return find_parts(blocks.shown & (blocks.means > threshold), blocks.means, threshold, blocks.spacing)


def _leaves_air(body: np.ndarray, blocks: _Blocks) -> bool:
    """Whether what lies outside a body is as even as air, beside the contrast: in real MRs 0.01 to 0.08, of tissue 0.17 to 0.5."""
    outside = blocks.shown & ~body
    if not outside.any():
        return False
    contrast = float(np.median(blocks.means[body]) - np.median(blocks.means[outside]))
    return _spread(blocks.means[outside]) <= _EVEN_AIR * contrast


def _leaves_lung(body: np.ndarray, blocks: _Blocks) -> bool:
    """Whether what lies outside a body in a CT or CBCT is as uneven as lung."""
    outside = blocks.shown & ~body
    if not outside.any():
        return False
    dark = outside & (blocks.means < np.median(blocks.means[outside]) + _ABOVE_FOAM_HU)
    return (_unevenness(blocks.means, dark, blocks.spacing) or 0.0) > _UNEVEN_HU


def _around_fluid(
    fluid: np.ndarray | None, body: np.ndarray | None, threshold: float, blocks: _Blocks
) -> np.ndarray | None:
    """The dim body where fluid alone lies above the threshold; what lies above it where there is no such body."""
    if fluid is None or body is None or body.sum() < _DIM_BODY * fluid.sum() or body[blocks.shown].mean() > _AIR_LEFT:
        return fluid
    smooth = ndimage.gaussian_filter(blocks.means, _SMOOTH_MM / blocks.spacing)[body & (blocks.means < threshold)]
    return body if smooth.size and _spread(smooth) > _UNEVEN_TISSUE * float(np.median(smooth)) else fluid


def _mr_thresholds(image: np.ndarray) -> tuple[float, float | None]:
    """Between noise and tissue: Otsu's threshold of the image's square root, squared; where hardly anything lies above, that of the rest, too.

    The root compresses bright fat and coil flare, so that dim muscle falls on the body's side.
    """
    from skimage.filters import threshold_otsu

    every = tuple(slice(None, None, 2 if image.size > 1_000_000 else 1) for _ in image.shape)
    sample = image[every].astype(np.float32)
    low, high = (float(v) for v in np.percentile(sample, (_AIR_PERCENT, 99)))
    # Magnitude images begin at zero. A standardised one (much of it negative) or one with an offset begins elsewhere.
    base = low if (sample < 0).mean() > 0.05 or low > _OFFSET_SHARE * high else 0.0
    roots = np.sqrt(np.clip(sample - base, 0, max(high - base, 0)))
    if roots.max() <= roots.min():
        return high, None
    cut = float(threshold_otsu(roots, nbins=128))
    rest = roots[roots <= cut]
    few = rest.size > (1 - _FLUID_SHARE) * roots.size and rest.max() > rest.min()
    return base + cut**2 * 0.6, base + float(threshold_otsu(rest, nbins=128) ** 2) * 0.6 if few else None


def _scale_offset(means: np.ndarray) -> float:
    """What has to be subtracted to come to HU, roughly; 0 for values that are HU.

    Scanners and converters also store HU + 1024, and a CBCT's air may lie anywhere. Then the darker of two classes
    (Otsu) is taken for air at -1000, if the other one lies as far above it as tissue does. HU have something dark (air,
    or lung: those aren't told apart), but nothing darker than air; only a fill value is, and tissue then lies where it should.
    """
    from skimage.filters import threshold_otsu

    low, high = (float(v) for v in np.percentile(means, (_AIR_PERCENT, 100 - _AIR_PERCENT)))
    if _BELOW_AIR_HU <= low < _NO_LUNG_HU or high - low < _NO_CONTRAST_HU:
        return 0.0
    values = np.clip(means, low, high)
    cut = threshold_otsu(values, nbins=128)
    air, tissue = float(np.median(values[values <= cut])), float(np.median(values[values > cut]))
    # A crop of soft tissue and bone holds no air: bone varies more than tissue does, and there is less of it.
    bone = values[values > cut]
    if abs(air) <= _MAY_BE_TISSUE_HU and _spread(bone) > _BONE_SPREAD_HU and bone.size < _BONE_SHARE * values.size:
        return 0.0
    # As tissue implies it, too: air that was cut off at -500 is no offset.
    agree = abs(tissue - _SOFT_TISSUE_HU - (air + 1000)) <= _AGREEMENT_HU
    if not agree or not _CONTRAST_HU[0] <= tissue - air <= _CONTRAST_HU[1]:
        return 0.0
    return air + 1000.0 if low >= _NO_LUNG_HU or air < _DARKEST_AIR_HU else 0.0


def _add_cut_lungs(body: np.ndarray, hu: np.ndarray, blocks: _Blocks, air_below: float) -> bool:
    """Add lung that the field of view cuts open to a body whose slices have no holes.

    Args:
        body: bool [z, y, x]; changed.
        hu: Same shape.
        blocks: What was imaged.
        air_below: Level below which all is air; none where an offset was guessed, perhaps from the lungs.

    Returns:
        Whether much was taken for lung where hardly any air is seen to compare it with.
    """
    if body.all():
        return False
    level, air_seen = _lung_level(body, hu, blocks, air_below)
    guessed = False
    for inside, shown, values in zip(body, blocks.shown, hu, strict=True):
        labels, count = ndimage.label(~inside & shown)
        medians = np.asarray(ndimage.median(values, labels, range(1, count + 1)))
        for k in (1 + np.flatnonzero(medians > level)).tolist():
            part = labels == k
            if not even_and_dark(values[None], part[None], blocks.spacing, dark_hu=BODY_THRESHOLD_HU):
                inside |= part
                guessed |= not air_seen and bool(part.mean() > _LARGE_PART)  # lung, or a couch's foam with its shell
            elif not air_seen and medians[k - 1] > _DARK_LUNG_HU:  # lung without vessels is rare, but can't be excluded
                inside |= part
                guessed |= bool(part.mean() > _LARGE_PART)
    return guessed


def _lung_level(body: np.ndarray, hu: np.ndarray, blocks: _Blocks, air_below: float) -> tuple[float, bool]:
    """HU above which a region outside the body is lung that the field of view cuts open, not air; whether there is air around.

    Air is the darkest region that reaches the corners of the slices (the rim of a round field of view): in a CBCT it may lie at
    any level. Where most corners lie in the body, the darkest region may be lung, and room air is darker than any.
    """
    held = blocks.shown.any(axis=(1, 2))
    rows, columns = blocks.rim()
    outside, hu = (blocks.shown & ~body)[held], hu[held]
    corners = outside[:, rows, columns]
    if not corners.any():
        return air_below, False
    labels, _ = ndimage.label(outside)
    touching, often = np.unique(labels[:, rows, columns][corners], return_counts=True)
    levels = ndimage.median(hu, labels, touching[often >= min(_AIR_TOUCHES * often.sum(), often.max())])
    above_air = max(float(np.min(levels)), _DARKEST_AIR_HU) + _ABOVE_AIR_HU
    if corners.mean() >= _AIR_AROUND:
        return above_air, True
    return min(air_below, above_air), False


def _spread(values: np.ndarray) -> float:
    """Between the quartiles."""
    return float(np.subtract(*np.percentile(values, (75, 25))))


def even_and_dark(
    hu: np.ndarray,
    region: np.ndarray,
    spacing_zyx: Sequence[float] | np.ndarray,
    even_hu: float = _EVEN_HU,
    dark_hu: float = _DARK_LUNG_HU,
) -> bool:
    """Whether a region is air or foam: dark, and even but for noise. The darkest lung has vessels everywhere.

    Args:
        hu: HU [z, y, x], axial slices first.
        region: bool, same shape.
        spacing_zyx: Voxels in mm.
        even_hu: Median difference of 3 mm from the 15 mm around, below which a region is even.
        dark_hu: Median of a region that is dark.
    """
    middle = float(np.median(hu[region]))
    if middle > dark_hu:
        return False
    unevenness = _unevenness(hu, region & (hu < max(_NO_TISSUE_HU, middle + _ABOVE_FOAM_HU)), spacing_zyx)
    return unevenness is not None and unevenness < even_hu


def _unevenness(hu: np.ndarray, region: np.ndarray, spacing_zyx: Sequence[float] | np.ndarray) -> float | None:
    """Median difference of the 3 mm from the 15 mm around, of what is deep in a region; None where nothing is."""
    near, around = ([1, *(max(1, round(mm / s)) for s in spacing_zyx[1:])] for mm in (_NEAR_MM, _AROUND_MM))
    inner = ndimage.binary_erosion(region, np.ones(around, bool))
    if not inner.any():
        return None
    differences = np.abs(ndimage.uniform_filter(hu, near) - ndimage.uniform_filter(hu, around))
    return float(np.median(differences[inner]))
