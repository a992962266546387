"""One prediction against every reference and against the truth: HU, sharpness, and the displacement that was learnt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_gradient_magnitude

from sctlab.measures.image import image_metrics
from sctlab.measures.ssim import ssim
from sctlab.registration.settings import Convention
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.files import read_transform
from sctlab.transforms.invert import invert
from sctlab_model.cases import Case, find_image
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import AIR_HU, Volume

TRUTH = "truth"
METRICS = ("mae", "psnr", "ms_ssim", "ssim", "mean_error", "rmse", "sharpness")
DISPLACEMENT = ("dx_mm", "dy_mm", "dz_mm", "spread_mm")
WINDOW = (-500.0, 700.0)  # HU; outside, air and metal would lead the registration


@dataclass(frozen=True)
class Reference:
    """A column: the CT on the source's grid, as one set of pairs has it.

    Args:
        ct: HU.
        seen: Where the CT has data (bool, z y x).
    """

    ct: Volume
    seen: np.ndarray


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
    prediction: Volume, spread: Volume | None, references: dict[str, Reference], mask: np.ndarray
) -> dict[str, dict[str, float]]:
    """Scores of one prediction, by reference.

    All references are scored over one mask, the body where each of them has data, so that columns can be compared.

    Args:
        prediction: HU, on the source's grid.
        spread: The ensemble's standard deviation (HU).
        references: With `truth` where it is known; its scores hold the displacement that was learnt.
        mask: The body (bool, z y x).
    """
    common = mask.copy()
    for reference in references.values():
        common &= reference.seen
    rows: dict[str, dict[str, float]] = {}
    for name, reference in references.items():
        row = image_metrics(prediction.array, reference.ct.array, common).as_dict()
        row["ssim"] = ssim(prediction.array, reference.ct.array, common)
        row["sharpness"] = sharpness(prediction, common) / sharpness(reference.ct, common)
        rows[name] = {k: float(row[k]) for k in METRICS}
        if spread is not None:
            rows[name]["ensemble_spread"] = float(spread.array[common].mean())
    if TRUTH in references:
        rows[TRUTH] |= displacement(prediction, references[TRUTH].ct, common)
    return rows


def sharpness(volume: Volume, mask: np.ndarray) -> float:
    """Mean gradient magnitude in the mask, HU/mm at a scale of one voxel in the plane; a blurred image has less."""
    spacing = volume.geometry.spacing_xyz[::-1]
    scale = [spacing[2] / s for s in spacing]
    values = np.clip(volume.array.astype(np.float32), *WINDOW)
    return float(gaussian_gradient_magnitude(values, scale)[mask].mean() / spacing[2])


def displacement(image: Volume, truth: Volume, mask: np.ndarray) -> dict[str, float]:
    """Where an image lies against the truth: image(x) ≈ truth(x + d(x)); mean of d over the body, and its spread.

    Measured by ITK's translation and symmetric-force demons (Vercauteren et al., 2009), which make no training pairs
    here. They see what both images show: a blurred edge moves the spread more than the mean, so the same measure on the
    references themselves, whose displacement was planted, says how far it can be believed.

    Args:
        image: HU, e.g. an sCT.
        truth: HU, same grid.
        mask: The body (bool).

    Returns:
        `dx_mm`, `dy_mm`, `dz_mm`: mean vector (LPS). `spread_mm`: RMS distance from that mean.
    """
    fixed, moving = _windowed(image), _windowed(truth)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.TranslationTransform(3), inPlace=False)
    translation = method.Execute(fixed, moving)
    shifted = sitk.Resample(moving, fixed, translation, sitk.sitkLinear, 0.0)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(30)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(2.0)
    field = sitk.GetArrayFromImage(demons.Execute(fixed, shifted))[mask]
    field = field + np.array(translation.GetParameters())
    mean = field.mean(0)
    spread = float(np.sqrt(((field - mean) ** 2).sum(1).mean()))
    return dict(zip(DISPLACEMENT, (*map(float, mean), spread), strict=True))


def _windowed(volume: Volume) -> sitk.Image:
    """Values in the window. Not masked: one mask in both images would hold the body's outline where it is."""
    return volume.with_array(np.clip(volume.array.astype(np.float32), *WINDOW)).to_sitk()
