"""What the references' registration does to the scores: the aligned truth of simulated cases, and the floor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.measures.image import image_metrics
from sctlab.transforms.applying import apply_to_image, field_of_view, read_transform
from sctlab.transforms.inversion import invert
from sctlab.transforms.transforms import Transform
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
    if not truth.geometry.same_grid(reference.geometry, tolerance_mm=0.1):
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
class RegistrationFloor:
    """The MAE that resampling alone leaves: a CT through a registration and back, compared with itself.

    Args:
        mae: HU, over voxels that stayed in view both ways.
        inverse_error_mm: Mean distance by which the inverse misses, which is part of the floor.
        covered: Fraction of the mask that stayed in view.
    """

    mae: float
    inverse_error_mm: float
    covered: float


def find_transform(folder: Path) -> Path | None:
    """The transform file of a registered pair."""
    return next((folder / n for n in TRANSFORM_NAMES if (folder / n).is_file()), None)


def registration_floor(ct: Volume, mask: np.ndarray, transform: Transform | Path, other: Geometry) -> RegistrationFloor:
    """Send a CT through the inverse of a transform onto another grid, and back through the transform.

    Args:
        ct: CT on the fixed grid of the transform (for `ct_to_source`, the registered one), HU.
        mask: Where it counts, same shape.
        transform: From points of the CT's grid to points of `other`, or its file.
        other: The moving image's grid.

    Returns:
        The floor: no prediction that learnt from such pairs can be expected below it.
    """
    if isinstance(transform, Path):
        transform = read_transform(transform).transform
    inverse, error = invert(transform, other)
    away = apply_to_image(ct, inverse, other, outside=AIR_HU)
    back = apply_to_image(away, transform, ct.geometry, outside=AIR_HU)
    seen = mask & field_of_view(other, transform, ct.geometry).array
    if not seen.any():
        return RegistrationFloor(float("nan"), error.mean_mm, 0.0)
    difference = np.abs(back.array[seen].astype(np.float32) - ct.array[seen].astype(np.float32))
    return RegistrationFloor(float(difference.mean(dtype=np.float64)), error.mean_mm, float(seen.sum() / mask.sum()))
