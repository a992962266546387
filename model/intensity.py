"""Are the values those of the image that the task expects? Offsets of a CBCT, noise, 8-bit copies, clipped negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab_model.cut_edges import image_box
from sctlab_model.gates import Finding
from sctlab_model.imaged import imaged_part
from sctlab_model.volume import Volume

AIR_HU, FAT_HU, MUSCLE_HU = -1000.0, -100.0, 45.0
CONTRAST_HU = (500.0, 1600.0)  # between air and soft tissue; scatter flattens a CBCT, beam hardening stretches it
PLAIN_HU = 300.0  # nearer to HU than this is a bad calibration, no offset
LARGEST_RANGE_HU = 20_000.0
NO_AIR_HU = -200.0  # nothing darker: neither air nor gas nor the fill of a masked image
FAT_BELOW_HU = -50.0  # a hundredth of a body in HU is darker, of MRs (a little below 0 by their filters) nothing
NO_TISSUE_HU = 600.0  # further from soft tissue than a badly calibrated CBCT gets
AGREEMENT_HU = 350.0  # between the offsets that air and tissue imply
# What exports add: a lost rescale intercept, or numbers made positive.
KNOWN_OFFSETS = (-1024, -1000, 1000, 1024, 2000, 2048, 3000, 3024, 4096, 8192, 16384, 32768)
SNAP_HU = 60.0
MINIMUM_RANGE_HU = 300.0
NOISE_CORRELATION = 0.25  # of neighbouring voxels; images of patients have more than 0.7, also noisy ones
CLIPPED_SHARE = 0.2
OUTLIER_RANGES = 3.0  # ranges of all but the last permille away from the rest
SAMPLES = 2_000_000


@dataclass(frozen=True)
class Offset:
    """How far a CBCT's values lie from HU.

    Args:
        value: What was added; 0 where the values are HU or where no offset explains them.
        explained: The values are HU, or HU plus `value`.
        air, tissue: Commonest values of air and of soft tissue (fat or muscle) as they are in the file.
        others: Offsets that explain the values nearly as well.
    """

    value: float
    explained: bool
    air: float
    tissue: float
    others: tuple[float, ...] = ()


def find_offset(source: Volume) -> Offset:
    """Recognise HU plus a constant: air and soft tissue are 1,000 HU apart, wherever they lie."""
    whole = _offset(_sample(source.array))
    imaged = _imaged(source)
    if imaged is None:
        return whole
    # A masked image's air is the fill; where there is air beside it, the fill says nothing.
    within = _offset(_sample(imaged))
    return within if _contrasted(within) else whole


def _imaged(source: Volume) -> np.ndarray | None:
    """The values without filled borders, empty slices and what lies beyond a round field of view; None where that is all."""
    along = 2 - int(np.argmax(np.abs(source.geometry.axes[2])))
    image = np.moveaxis(source.array, along, 0)
    spacing = [s for k, s in enumerate(source.geometry.spacing_xyz[::-1]) if k != along]
    (top, left), (rows, columns) = image_box(image)
    part = image[:, top : top + rows, left : left + columns]
    field = imaged_part(part, spacing)
    if field is not None:
        return part[field]
    return None if part.shape == image.shape else part


def _contrasted(offset: Offset) -> bool:
    """Whether there are air and soft tissue in it."""
    return CONTRAST_HU[0] <= offset.tissue - offset.air <= CONTRAST_HU[1]


def _offset(values: np.ndarray) -> Offset:
    low, high = map(float, np.percentile(values, (0.5, 99.5)))
    if high - low < MINIMUM_RANGE_HU:
        return Offset(0.0, False, low, float(np.median(values)))
    air, tissue = map(_mode, _two_classes(values[(values >= low) & (values <= high)]))
    by_air, by_tissue = air - AIR_HU, tissue - (FAT_HU + MUSCLE_HU) / 2
    contrast = CONTRAST_HU[0] <= tissue - air <= CONTRAST_HU[1]
    if contrast and abs(by_air - by_tissue) <= AGREEMENT_HU and min(abs(by_air), abs(by_tissue)) > PLAIN_HU:
        value, *others = _candidates(by_air, by_tissue, tissue)
        return Offset(value, True, air, tissue, tuple(others))
    return Offset(0.0, abs(by_tissue) <= NO_TISSUE_HU and high - low < LARGEST_RANGE_HU, air, tissue)


def _candidates(by_air: float, by_tissue: float, tissue: float) -> list[float]:
    """Known offsets that put soft tissue where fat or muscle is, best first; else what air and tissue imply."""

    def miss(offset: float) -> float:
        return min(abs(tissue - offset - expected) for expected in (FAT_HU, MUSCLE_HU))

    known = sorted((float(k) for k in KNOWN_OFFSETS if miss(k) <= SNAP_HU), key=miss)
    return known or [round(by_air if abs(by_air - by_tissue) <= 200 else by_tissue, -1)]


def check_cbct(source: Volume) -> list[Finding]:
    """Whether a CBCT is in HU."""
    low, high = float(source.array.min()), float(source.array.max())
    offset = find_offset(source)
    if offset.value:
        names = " or ".join(f"{'+' if o > 0 else '-'} {abs(o):g}" for o in (offset.value, *offset.others))
        return [
            Finding(
                f"VALUES LOOK LIKE HU {names}: soft tissue is at {offset.tissue:.0f}, values run from {low:g} to {high:g}. "
                "The sCT will be wrong. Export again with the rescale applied, or give --correct-offset"
            )
        ]
    if not offset.explained:
        return [
            Finding(
                f"values run from {low:g} to {high:g} with soft tissue at {offset.tissue:.4g}, unlike a CBCT in HU, and no "
                "plain offset explains them: is this a CBCT, and was the rescale applied?",
                "refuse",
            )
        ]
    bottom, top = (float(v) for v in np.percentile(_sample(source.array), (0.1, 99.9)))
    wild = _wild_voxels(source.array, bottom, top)
    if wild is not None:
        return [wild]
    if bottom > NO_AIR_HU and float(np.percentile(_sample(source.array), 1)) < FAT_BELOW_HU:
        return [
            Finding(
                f"values run from {low:g} to {high:g}, with fat and nothing as dark as air (-1000 HU): a part of a body "
                "without air or gas, whose scale can't be checked"
            )
        ]
    if bottom > NO_AIR_HU:
        return [
            Finding(
                f"values run from {low:g} to {high:g}, and nothing is as dark as air (-1000 HU): is this an MR, or were "
                "negative values cut off?",
                "refuse",
            )
        ]
    contrast = offset.tissue - offset.air
    if offset.air < -500 and not CONTRAST_HU[0] <= contrast <= CONTRAST_HU[1]:
        return [Finding(f"air and soft tissue lie {contrast:.0f} apart, unlike a CBCT in HU (1000): check the rescale")]
    if low > -500 or low < -5000 or high < 200 or high > 60_000:
        return [
            Finding(
                f"values run from {low:g} to {high:g}, unlike a CBCT in HU (about -1000 to 3000): check the rescale"
            )
        ]
    return []


def check_mr(source: Volume) -> list[Finding]:
    """Whether an MR has lost something on its way here."""
    array = source.array
    low, high = float(array.min()), float(array.max())
    values = _sample(array)
    bottom, top = map(float, np.percentile(values, (0.1, 99.9)))
    findings = []
    span = max(top - bottom, float(np.finfo(np.float32).tiny))
    wild = _wild_voxels(array, bottom, top)
    if wild is not None:
        findings.append(wild)
    elif low < -200 and bottom < -0.15 * span:
        offset = find_offset(source)
        in_hu = _contrasted(offset) and max(abs(offset.air - AIR_HU), abs(offset.tissue)) <= PLAIN_HU
        findings.append(
            Finding(
                f"values run from {low:g} to {high:g}, unlike an MR (not negative): is this a CT or CBCT?",
                "refuse" if in_hu else "warn",
            )
        )
    if array.dtype == np.uint8 or _few_values(values):
        findings.append(
            Finding("the image has at most 256 different values, like an 8-bit copy: use the original, which has more")
        )
    return findings


def _wild_voxels(array: np.ndarray, bottom: float, top: float) -> Finding | None:
    """Voxels several ranges away from nearly all others, which lie between `bottom` and `top`."""
    reach = OUTLIER_RANGES * max(top - bottom, float(np.finfo(np.float32).tiny))
    far = (array < bottom - reach) | (array > top + reach)
    count = int(np.count_nonzero(far))
    if not count:
        return None
    value = float(array[far].flat[0])
    return Finding(
        f"{count} voxels lie far outside of the rest (such as {value:g}; nearly all are {bottom:g} to {top:g})"
    )


def check_clipped(source: Volume, mask: np.ndarray) -> list[Finding]:
    """Whether an MR's negative values were cut off: much of the body then has the smallest value."""
    inside, low = source.array[mask], source.array.min()
    share = np.count_nonzero(inside <= low) / max(1, inside.size)
    if share <= CLIPPED_SHARE:
        return []
    return [Finding(f"{share:.0%} of the body has the smallest value ({low:g}): were negative values cut off?")]


def check_noise(source: Volume) -> list[Finding]:
    """Whether neighbouring voxels have anything to do with each other."""
    correlation = _neighbour_correlation(source.array)
    if correlation is None or correlation >= NOISE_CORRELATION:
        return []
    return [
        Finding(
            f"neighbouring voxels are hardly related (correlation {correlation:.2f}), like pure noise: is this an image?"
        )
    ]


def _neighbour_correlation(array: np.ndarray) -> float | None:
    """Correlation of each voxel with the next one, over the two longest axes; None where there are too few."""
    correlations = []
    # A handful of wild voxels would hold nearly all of the variance; they have a finding of their own.
    bottom, top = np.percentile(_sample(array), (0.1, 99.9))
    for axis in np.argsort(array.shape)[-2:]:
        n = array.shape[axis]
        if n < 8 or array.size < 4096:
            continue
        step = max(1, array.size // SAMPLES)
        first = np.take(array, range(n - 1), axis).ravel()[::step].astype(np.float64).clip(bottom, top)
        second = np.take(array, range(1, n), axis).ravel()[::step].astype(np.float64).clip(bottom, top)
        if first.std() > 0 and second.std() > 0:
            correlations.append(float(np.corrcoef(first, second)[0, 1]))
    return max(correlations) if correlations else None


def _few_values(values: np.ndarray) -> bool:
    distinct = np.unique(values)
    return 2 < distinct.size <= 256 and values.size > 100_000


def _sample(array: np.ndarray) -> np.ndarray:
    return array.ravel()[:: max(1, array.size // SAMPLES)].astype(np.float32)


def _two_classes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Otsu's split into the darker and the brighter part."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    threshold = edges[int(np.nanargmax(between[:-1])) + 1]
    return values[values < threshold], values[values >= threshold]


def _mode(values: np.ndarray) -> float:
    """Commonest value, within 20 HU."""
    if values.size == 0:
        return 0.0
    low, high = float(values.min()), float(values.max())
    if high - low < 1:  # a fill value; too narrow for bins of float32
        return low
    bins = int(np.clip((high - low) / 10, 8, 4000))
    counts, edges = np.histogram(values, bins, (low, high + 1e-3))
    best = int(np.argmax(np.convolve(counts, np.ones(3), mode="same")))
    return float((edges[best] + edges[best + 1]) / 2)


def _snapped(offset: float) -> float:
    nearest = min(KNOWN_OFFSETS, key=lambda known: abs(known - offset))
    return float(nearest) if abs(nearest - offset) <= SNAP_HU else float(round(offset, -1))
