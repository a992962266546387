"""The scale of a source: its values over the body, brought to what the network sees."""

from __future__ import annotations

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.outline import Outline, percentiles
from sctlab_model.recipe import (
    PercentileNormalisation,
    RangeNormalisation,
    Recipe,
    RobustNormalisation,
    ZScoreNormalisation,
)
from sctlab_model.volume import Volume


def normalise(
    image: np.ndarray, mask: np.ndarray, recipe: Recipe, where: str, outline: Outline | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Normalise a source over its mask.

    Args:
        image: float32, axes z, y, x.
        mask: bool, same shape.
        where: What to name in messages.
        outline: Of a body that the image's border cuts: how much its voxels count in a robust scale.

    Returns:
        The normalised image with the outside value outside the mask, and the statistics used;
        `outside` among them is the normalised value of air, for padding.
    """
    inside = image[mask]
    settings = recipe.normalisation
    if isinstance(settings, ZScoreNormalisation):
        mean, std = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
        if std <= 0:
            raise InputError(where, found=f"every voxel in the mask is {mean:g}", expected="an image with contrast")
        out = (image - np.float32(mean)) / np.float32(std)
        out[~mask] = settings.outside
        return out, {"mean": mean, "std": std, "outside": float(settings.outside)}
    if isinstance(settings, PercentileNormalisation):
        voxels = inside
        if settings.scope == "volume":
            voxels = image = np.where(mask, image, np.float32(settings.fill))
        low, high = (float(v) for v in np.percentile(voxels, (settings.lower_percentile, settings.upper_percentile)))
        fill = low if settings.fill is None else settings.fill
    elif isinstance(settings, RobustNormalisation):
        low, high = _robust_limits(image, mask, settings, outline)
        fill = low
    else:
        assert isinstance(settings, RangeNormalisation)
        low, high, fill = settings.lower, settings.upper, settings.lower
    if not high > low:
        raise InputError(
            where,
            found=f"only the value {low:g} up to the upper percentile",
            expected="an image with contrast",
        )
    out = np.clip(np.where(mask, image, np.float32(fill)), low, high)
    out -= np.float32(low)
    out *= np.float32(2 / (high - low))
    out -= np.float32(1)
    outside = float(np.clip(fill, low, high) - low) * 2 / (high - low) - 1
    return out, {"lower": low, "upper": high, "outside": outside}


def _robust_limits(
    image: np.ndarray, mask: np.ndarray, settings: RobustNormalisation, outline: Outline | None
) -> tuple[float, float]:
    """Two percentiles over the body's foreground; of a cut body those that the whole one would have, as well as can be told."""
    wanted = (settings.lower_percentile, settings.upper_percentile)
    if outline is None or not (mask & (outline.weights > 0)).any():
        low, high = (float(v) for v in np.percentile(foreground(image[mask]), wanted))
        return low, high
    weights, seen = outline.weights, outline.weights > 0
    inside = mask & seen
    kept = keeps(image[inside])
    low, high = percentiles(image[inside][kept], weights[inside][kept], wanted)
    # The less skin is left, the less of its partial volume: the low end is then that of the image's air.
    sample = image[seen]
    air = float(np.percentile(sample[:: max(1, sample.size // AIR_SAMPLES)], settings.lower_percentile))
    if 0 < low - air <= NEAR_AIR * (high - low):
        low -= min(1.0, 2 * outline.cut) * (low - air)
    return low, high


NEAR_AIR = 0.1  # of the range between the limits; what lies further below is no air but a fill value
AIR_SAMPLES = 2_000_000
# Beyond the 5th or 95th percentile. In real MRs the 99.5th lies within 0.3 ranges of the 95th, of 240 simulated contrasts
# within 3: urine and cerebrospinal fluid in T2 are no strays.
STRAY_RANGES, STRAY_SHARE = 3.5, (0.001, 0.03)
FILL_SHARE = 0.03  # of a body's voxels; an 8-bit image has up to 2 % at one value


def foreground(values: np.ndarray) -> np.ndarray:
    """The values of a body's voxels without those that hold a fill value.

    A fill value is exactly shared by at least `FILL_SHARE` of the voxels and lies in the lowest tenth (or is the lowest
    tenth). An image that would be left with less than half of its voxels keeps all of them. Strays go, too: a few voxels far
    from all others, such as a spot where fat suppression failed, or saturated ones; fewer than `STRAY_SHARE[0]` move no
    percentile.
    """
    return values[keeps(values)]


def keeps(values: np.ndarray) -> np.ndarray:
    """Which values are foreground (`foreground`), bool."""
    low = values[values <= np.percentile(values, 10)]
    found, counts = np.unique(low, return_counts=True)
    most = int(counts.argmax())
    kept = values != found[most] if counts[most] >= FILL_SHARE * values.size else np.ones(values.shape, bool)
    kept = kept if 2 * np.count_nonzero(kept) >= values.size else np.ones(values.shape, bool)
    bottom, top = np.percentile(values[kept], (5, 95))
    reach = STRAY_RANGES * (top - bottom)
    for stray in (values < bottom - reach, values > top + reach):
        if STRAY_SHARE[0] <= np.count_nonzero(stray & kept) / values.size <= STRAY_SHARE[1]:
            kept &= ~stray
    return kept


def even_shading(image: Volume, mask: Volume) -> Volume:
    """Divide an MR by the smooth shading of its coils: N4 (Tustison 2010) over the mask, float32.

    The field is estimated on about 4 mm voxels and applied at full resolution; its mean over the mask is 1.
    """
    import SimpleITK as sitk

    lifted = image.with_array(np.maximum(image.array, 0).astype(np.float32))
    factors = [max(1, round(4 / s)) for s in image.geometry.spacing_xyz]
    factors = [min(f, max(1, n // 8)) for f, n in zip(factors, image.geometry.size_xyz, strict=True)]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([50, 50, 30])
    corrector.SetMaskLabel(1)
    whole = lifted.to_sitk()
    corrector.Execute(sitk.Shrink(whole, factors), sitk.Shrink(mask.to_sitk(), factors))
    field = np.exp(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(whole)))
    return image.with_array((image.array / (field / field[mask.array].mean())).astype(np.float32))
