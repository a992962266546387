"""One prediction against every reference and against the truth: HU, sharpness, and the displacement that was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import edt
import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from scipy.stats import spearmanr

from sctlab.evaluation.closer import distance_in
from sctlab.evaluation.definitions import CHALLENGE_ORGANS, FEATURE_PREFIX, LPIPS, feature_key
from sctlab.evaluation.organs import region_metrics
from sctlab.evaluation.tissues import TISSUES
from sctlab.measures.image import image_metrics
from sctlab.measures.ssim import ssim
from sctlab.registration.settings import Convention
from sctlab.study.displacement import WINDOW, edge_shift
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.files import read_transform
from sctlab.transforms.invert import invert
from sctlab_model.cases import Case, Region, find_image
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import AIR_HU, Volume

TRUTH = "truth"
METRICS = ("mae", "psnr", "ms_ssim", "ssim", "mean_error", "rmse", "sharpness", "bone_dice")
ORGANS = "organ_error"  # only where labels are known
SAME = "mae_same"  # only where it is known what changed between the scans
SMALLEST_ORGAN = 100  # voxels; a smaller one's mean says little
BONE_HU = TISSUES["spongy bone"][0]
PROFILE_STEPS = np.arange(-3.5, 4)  # voxels in the plane from the surface of a bone, inside (negative) to outside
Profiles = list[list[float | None]]
FACING = 0.7  # cosine to the axis from which on a surface faces along it


@dataclass(frozen=True)
class Reference:
    """A column: the CT on the source's grid, as one set of pairs has it.

    Args:
        ct: HU.
        seen: Where the CT has data (bool, z y x).
        labels: Of its organs (ids, z y x), by the study's segmenter.
    """

    ct: Volume
    seen: np.ndarray
    labels: np.ndarray | None = None


def find_truth(case: Case) -> Path | None:
    """The aligned CT of a simulated case."""
    return find_image(case.folder / "truth", "ct_aligned") if case.folder is not None else None


def load_reference(case: Case, folder: Path, convention: Convention | None) -> Reference | None:
    """What a case's registered or planted pair says the CT is; None where there is no pair.

    Under `source_to_ct` the delivered CT is carried onto the source's grid through the inverse of the registration:
    the prediction stays the same in every column.
    """
    path = find_image(folder, "ct")
    if path is None or not (folder / "pair.json").is_file():
        return None
    if convention is not Convention.SOURCE_TO_CT:
        ct, fov = read_volume(path), find_image(folder, "fov")
        seen = read_mask(fov).array > 0 if fov is not None else np.ones(ct.array.shape, dtype=bool)
        return Reference(ct, seen)
    assert isinstance(case.source, Path)
    grid = read_volume(case.source).geometry
    inverse, _ = invert(read_transform(folder / "transform.h5").transform, grid)
    ct = read_volume(path)
    moved = apply_to_image(ct, inverse, grid, outside=AIR_HU)
    return Reference(moved, field_of_view(ct.geometry, inverse, grid).array)


def score_case(
    prediction: Volume,
    spread: Volume | None,
    references: dict[str, Reference],
    mask: np.ndarray,
    organs: np.ndarray | None = None,
    *,
    changed: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    region: Region | None = None,
    features: Sequence[str] = (),
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """Scores of one prediction, by reference; what was learnt of the displacement is `displacement`'s.

    All references are scored over one mask, the body where each of them has data, so that columns can be compared.

    Args:
        prediction: HU, on the source's grid.
        spread: The ensemble's standard deviation (HU).
        references: With `truth` where it is known; its scores hold the shift of the edges, too.
        mask: The body (bool, z y x).
        organs: Label ids on the source's grid.
        changed: Where gas or filling differ between the scans (bool, z y x): a reference's CT shows what the source does
            not, and no registration can mend that.
        labels: The segmenter's of the prediction: Dice and HD95 against every reference's own, over the region's classes.
        region: Of the case.
        features: Extractors whose feature distance counts.
        device: Of the extractors.

    Returns:
        Reference → metric → value. `organ_error`: mean over organs of the difference (HU, no sign) of an organ's mean in
        both images. `mae_same`: the MAE without what changed. `spread_rho`: over voxels, Spearman's correlation of the ensemble's spread with what it should
        tell: against the truth the absolute error, against a reference the size of that reference's bias,
        ||sCT - reference| - |sCT - truth||.

    Raises:
        InputError: Nowhere in the body do all references have data.
    """
    common = common_mask(references, mask)
    if not common.any():
        names = ", ".join(references)
        raise InputError(
            "references", found=f"no place in the body where {names} have data", expected="one place or more"
        )
    rows: dict[str, dict[str, float]] = {}
    for name, reference in references.items():
        row = image_metrics(prediction.array, reference.ct.array, common).as_dict()
        row["ssim"] = ssim(prediction.array, reference.ct.array, common)
        row["sharpness"] = sharpness(prediction, common) / sharpness(reference.ct, common)
        row["bone_dice"] = bone_dice(prediction, reference.ct, common)
        rows[name] = {k: float(row[k]) for k in METRICS}
        if changed is not None:
            same = common & ~changed
            rows[name][SAME] = float(
                np.abs(prediction.array[same].astype(np.float64) - reference.ct.array[same]).mean()
            )
        if organs is not None:
            rows[name][ORGANS] = organ_error(prediction, reference.ct, np.where(common, organs, 0))
        if labels is not None and reference.labels is not None:
            cut = [prediction.with_array(np.where(common, a, 0)) for a in (labels, reference.labels)]
            found = region_metrics(cut[0], cut[1], region)
            rows[name] |= dict(zip(CHALLENGE_ORGANS, (found.dice, found.hd95), strict=True))
        for extractor in features:
            value = distance_in(extractor, prediction.array, reference.ct.array, common, device)
            rows[name][feature_key(extractor)] = value
    if TRUTH in references:
        rows[TRUTH] |= edge_shift(prediction, references[TRUTH].ct, common)
    if spread is not None:
        _add_spread(rows, prediction, spread.array[common], references, common)
    return rows


def is_score(key: str) -> bool:
    """Whether a quantity compares an image with one reference, so that it has a value in every column."""
    return key in (*METRICS, SAME, ORGANS, *CHALLENGE_ORGANS, LPIPS) or key.startswith(FEATURE_PREFIX)


def common_mask(references: dict[str, Reference], mask: np.ndarray) -> np.ndarray:
    """The body where every reference has data."""
    common = mask.copy()
    for reference in references.values():
        common &= reference.seen
    return common


def _add_spread(
    rows: dict[str, dict[str, float]],
    prediction: Volume,
    spread: np.ndarray,
    references: dict[str, Reference],
    common: np.ndarray,
) -> None:
    """Mean spread of the ensemble, and what it tells voxel by voxel."""
    sct = prediction.array[common].astype(np.float32)
    errors = {name: np.abs(sct - r.ct.array[common]) for name, r in references.items()}
    for name, error in errors.items():
        rows[name]["ensemble_spread"] = float(spread.mean())
        if TRUTH not in errors:
            continue
        told = error if name == TRUTH else np.abs(error - errors[TRUTH])
        if np.ptp(told) > 0 and np.ptp(spread) > 0:  # a constant has no ranks
            rows[name]["spread_rho"] = float(spearmanr(spread, told).statistic)


def bone_dice(a: Volume, b: Volume, mask: np.ndarray) -> float:
    """Dice of bone, by its HU in each image, in the mask; 1 where neither has any."""
    first, second = (v.array[mask] >= BONE_HU for v in (a, b))
    total = int(first.sum() + second.sum())
    return float(2 * (first & second).sum() / total) if total else 1.0


def organ_error(a: Volume, b: Volume, organs: np.ndarray) -> float:
    """Mean over organs of |mean of `a` - mean of `b`| in the organ, HU; NaN without an organ that is large enough.

    Args:
        a, b: HU, same grid.
        organs: Label ids, 0 for none.
    """
    labels = organs.ravel().astype(np.int64)
    count = np.bincount(labels)
    difference = a.array.astype(np.float64).ravel() - b.array.ravel()
    sums = np.bincount(labels, difference)
    kept = [k for k in range(1, len(count)) if count[k] >= SMALLEST_ORGAN]
    return float(np.mean([abs(sums[k] / count[k]) for k in kept])) if kept else float("nan")


def edge_profiles(images: dict[str, Volume], truth: Volume, mask: np.ndarray, axis: int) -> dict[str, Profiles]:
    """Mean HU across the surfaces of the truth's bones, apart for surfaces that face along an axis and against it.

    A blurred image has a flat profile on both sides; a shifted one has the profile of one side moved out and that of
    the other moved in.

    Args:
        images: On the truth's grid.
        truth: Its bones are the places.
        mask: The body (bool, z y x).
        axis: Of the arrays: 0 (z), 1 (y), 2 (x).

    Returns:
        Image → for surfaces along and against the axis the mean at every one of `PROFILE_STEPS` (None without voxels).
    """
    spacing = truth.geometry.spacing_xyz[::-1]
    bone = truth.array >= BONE_HU
    distance = edt.edt(~bone, anisotropy=spacing) - edt.edt(bone, anisotropy=spacing)
    steepness = np.gradient(gaussian_filter(distance, 1.0), *spacing)
    length = np.sqrt(sum(g**2 for g in steepness)) + 1e-6
    # the distance is to the nearest voxel of the other kind: 1 for both neighbours of the surface
    layers = np.rint(np.abs(distance) / spacing[2]).astype(int)
    step = len(PROFILE_STEPS) // 2 + np.where(bone, -layers, layers - 1)
    found: dict[str, Profiles] = {name: [] for name in images}
    for sign in (1, -1):
        chosen = mask & (sign * steepness[axis] / length > FACING) & (step >= 0) & (step < len(PROFILE_STEPS))
        count = np.bincount(step[chosen], minlength=len(PROFILE_STEPS))
        for name, image in images.items():
            total = np.bincount(step[chosen], image.array[chosen], len(PROFILE_STEPS))
            with np.errstate(invalid="ignore"):
                means = total / count
            found[name].append([round(float(v), 2) if np.isfinite(v) else None for v in means])
    return found


def sharpness(volume: Volume, mask: np.ndarray) -> float:
    """Mean gradient magnitude in the mask, HU/mm at a scale of one voxel in the plane; a blurred image has less."""
    spacing = volume.geometry.spacing_xyz[::-1]
    scale = [spacing[2] / s for s in spacing]
    values = np.clip(volume.array.astype(np.float32), *WINDOW)
    return float(gaussian_gradient_magnitude(values, scale)[mask].mean() / spacing[2])
