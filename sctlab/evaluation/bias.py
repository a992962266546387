"""What the references' registration does to the scores: the aligned truth of simulated cases, and what carrying costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sctlab.evaluation.provenance import reference_registration
from sctlab.measures.image import image_metrics
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import Transform
from sctlab.transforms.files import read_transform
from sctlab.transforms.invert import invert
from sctlab_model.cases import find_image
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume

TRANSFORM_NAMES = ("transform.h5", "transform.tfm", "transform.txt", "displacement.nii.gz", "displacement.mha")


@dataclass(frozen=True)
class TruthBias:
    """Scores against the aligned truth beside those against the registered reference.

    Args:
        mae, psnr, ms_ssim: Against the truth, over the whole mask.
        mae_registered, mae_aligned: Against the registered reference and against the truth, both without the
            voxels whose content changed between the two scans (no registration can be right there).
        bias_hu: `mae_registered - mae_aligned`: what the reference's registration adds to (or takes from) the MAE.
        reference_error_hu: MAE between registered reference and truth on the same voxels.
        reference_offset_hu: Signed mean of registered minus truth there.
        excluded: Fraction of the mask that was left out as changed.
    """

    mae: float
    psnr: float
    ms_ssim: float
    mae_registered: float
    mae_aligned: float
    bias_hu: float
    reference_error_hu: float
    reference_offset_hu: float
    excluded: float


def truth_bias(
    prediction: Volume, reference: Volume, mask: np.ndarray, truth_folder: Path, *, device: str = "cpu"
) -> TruthBias | str | None:
    """Compare with `truth/ct_aligned` of a simulated case.

    Returns:
        None without a truth, or a sentence where the truth can't be used (it lies on the source's grid, and
        predictions of `source_to_ct` pairs lie on the CT's).
    """
    path = find_image(truth_folder, "ct_aligned")
    if path is None:
        return None
    truth = read_volume(path)
    if not truth.geometry.same_grid(reference.geometry):
        return "the simulation's truth lies on the source's grid, the reference on another: no bias was computed"
    whole = image_metrics(prediction.array, truth.array, mask, device=device)
    changed_path = find_image(truth_folder, "content_changed")
    kept = mask & ~read_mask(changed_path).array if changed_path is not None else mask
    if not kept.any():
        return "all of the mask is content that changed between the scans: no bias was computed"
    p, r, t = (v.array[kept].astype(np.float64) for v in (prediction, reference, truth))
    registered, aligned = float(np.abs(p - r).mean()), float(np.abs(p - t).mean())
    return TruthBias(
        mae=whole.mae,
        psnr=whole.psnr,
        ms_ssim=whole.ms_ssim,
        mae_registered=registered,
        mae_aligned=aligned,
        bias_hu=registered - aligned,
        reference_error_hu=float(np.abs(r - t).mean()),
        reference_offset_hu=float((r - t).mean()),
        excluded=1 - float(kept.sum() / mask.sum()),
    )


@dataclass(frozen=True)
class CarriedError:
    """The MAE that carrying alone leaves: a CT through registrations and back onto its own grid, against itself.

    Args:
        mae: HU, over voxels that stayed in view both ways.
        inverse_error_mm: Mean distance by which a numerical inverse misses, part of the MAE; 0 where none was needed.
        covered: Fraction of the mask that stayed in view.
    """

    mae: float
    inverse_error_mm: float
    covered: float


def find_transform(folder: Path) -> Path | None:
    """The transform file of a registered pair."""
    return next((folder / n for n in TRANSFORM_NAMES if (folder / n).is_file()), None)


def round_trip(ct: Volume, mask: np.ndarray, transform: Transform | Path, other: Geometry) -> CarriedError:
    """The round trip of one registration: a CT through the inverse of a transform onto another grid, and back.

    Only interpolation and what the inverse misses remain: no prediction that learnt from such pairs can be expected below.

    Args:
        ct: CT on the fixed grid of the transform (for `ct_to_source`, the registered one), HU.
        mask: Where it counts, same shape.
        transform: From points of the CT's grid to points of `other`, or its file.
        other: The moving image's grid.
    """
    if isinstance(transform, Path):
        transform = read_transform(transform).transform
    inverse, error = invert(transform, other)
    return _carried(ct, mask, inverse, transform, other, error.mean_mm)


def control(ct: Volume, mask: np.ndarray, away: Transform, back: Transform, other: Geometry) -> CarriedError:
    """The control of two registrations: a CT carried onto another grid by one, back by the other, against itself.

    What the two registrations disagree about, with no synthesis in it: the study's "floor" carries the CT by elastix and
    then by the IMPACT field. It is another quantity than the round trip of one registration, and larger.

    Args:
        ct: CT, HU.
        mask: Where it counts, on the CT's grid.
        away: From points of `other` to points of the CT's grid.
        back: From points of the CT's grid to points of `other`.
        other: The grid between.
    """
    return _carried(ct, _in_view(ct, mask, away, back, other), away, back, other, 0.0)


def control_of_pairs(ct: Volume, mask: np.ndarray, folder: Path, partner: Path) -> CarriedError | str:
    """The control of a registered case and the same case registered otherwise.

    The CT goes away through the partner's registration and comes back through its own. Where both registrations have one
    convention, the partner's transform is inverted numerically.

    Args:
        ct: The case's own CT, on the fixed grid of its registration.
        folder, partner: Case folders of `sctlab register`.

    Returns:
        The error, or a sentence where it can't be measured.
    """
    files = find_transform(folder), find_transform(partner)
    if files[0] is None or files[1] is None:
        return f"no transform in {folder if files[0] is None else partner}: no control"
    own, other = (read_transform(f).transform for f in files if f is not None)
    conventions = {reference_registration(f, f / "ct.mha").convention for f in (folder, partner)}
    error = 0.0
    if len(conventions) == 1:
        other, missed = invert(other, ct.geometry)
        error = missed.mean_mm
    result = control(ct, mask, other, own, ct.geometry)
    return replace(result, inverse_error_mm=error)


def _in_view(ct: Volume, mask: np.ndarray, away: Transform, back: Transform, other: Geometry) -> np.ndarray:
    """The mask without what came from beyond the CT's own field of view: air there is no error of a registration."""
    origin = field_of_view(ct.geometry, away, other)
    return mask & (apply_to_labels(origin.with_array(origin.array.astype(np.uint8)), back, ct.geometry).array > 0)


def _carried(
    ct: Volume, mask: np.ndarray, away: Transform, back: Transform, other: Geometry, inverse_error_mm: float
) -> CarriedError:
    moved = apply_to_image(ct, away, other, outside=AIR_HU)
    returned = apply_to_image(moved, back, ct.geometry, outside=AIR_HU)
    seen = mask & field_of_view(other, back, ct.geometry).array
    if not seen.any():
        return CarriedError(float("nan"), inverse_error_mm, 0.0)
    difference = np.abs(returned.array[seen].astype(np.float32) - ct.array[seen].astype(np.float32))
    return CarriedError(float(difference.mean(dtype=np.float64)), inverse_error_mm, float(seen.sum() / mask.sum()))
