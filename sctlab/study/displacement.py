"""Where an image lies against the truth: mean displacement, its spread, a coarse map of it, and the shift of edges."""

from __future__ import annotations

import edt
import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_gradient_magnitude

from sctlab_model.volume import Volume

DISPLACEMENT = ("dx_mm", "dy_mm", "dz_mm", "spread_mm")
EDGE_SHIFT = ("edge_dx_mm", "edge_dy_mm", "edge_dz_mm")
INPUT_SHIFT = ("input_dx_mm", "input_dy_mm", "input_dz_mm")
WINDOW = (-500.0, 700.0)  # HU; outside, air and metal would lead the registration
INNER_MM = 10.0  # below the skin: the mask that a prediction is cut to holds the outline where it is
BRIGHTEST = 99.5  # percent of an MR's body: a few bright vessels would take most bins of the histogram
MUTUAL_BINS = 32
FARTHEST_MM = 20.0  # an optimum beyond is of another structure: an sCT lies on its source, but for a learnt shift
FEWEST_VOXELS = 4  # along every axis: ITK's derivatives need them
MAP_YX = (10, 14)  # cells of the coarse map over the body's box


def measurable(image: Volume) -> bool:
    """Whether an image is thick enough for its displacement to be measured."""
    return min(image.array.shape) >= FEWEST_VOXELS


def displacement_field(image: Volume, truth: Volume, mask: np.ndarray) -> np.ndarray:
    """d in image(x) ≈ truth(x + d(x)), [voxels of the mask, 3 (x, y, z)] in mm, LPS.

    Measured by ITK's translation and symmetric-force demons (Vercauteren et al., 2009), which make no training pairs
    here. They see what both images show: a blurred edge moves the spread more than the mean, so the same measure on the
    references themselves, whose displacement was planted, says how far it can be believed.

    Args:
        image: HU, e.g. an sCT; `measurable`.
        truth: HU, same grid.
        mask: The body (bool, z y x).
    """
    fixed, moving = _windowed(image), _windowed(truth)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    translation = _translation(method, fixed, moving)
    shifted = sitk.Resample(moving, fixed, translation, sitk.sitkLinear, 0.0)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(30)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(2.0)
    field: np.ndarray = sitk.GetArrayFromImage(demons.Execute(fixed, shifted))[mask]
    return field + np.array(translation.GetParameters())


def displacement(image: Volume, truth: Volume, mask: np.ndarray) -> dict[str, float]:
    """`displacement_field` in four numbers; see `summary`."""
    return summary(displacement_field(image, truth, mask))


def summary(field: np.ndarray) -> dict[str, float]:
    """Numbers of a field [n, 3].

    Returns:
        `dx_mm`, `dy_mm`, `dz_mm`: mean vector (LPS), the systematic part. `spread_mm`: RMS distance from it, the variable one.
    """
    mean = field.mean(0)
    spread = float(np.sqrt(((field - mean) ** 2).sum(1).mean()))
    return dict(zip(DISPLACEMENT, (*map(float, mean), spread), strict=True))


def coarse_map(field: np.ndarray, mask: np.ndarray) -> list[list[list[float] | None]]:
    """Mean displacement in `MAP_YX` cells of the body's box, over all slices: bodies of any size can be averaged.

    Args:
        field: [voxels of the mask, 3], mm.
        mask: Bool, z y x.

    Returns:
        Rows (y) of cells (x), each a vector (x, y, z), or None where less than 1 % of the body's share lies.
    """
    places = np.argwhere(mask)[:, 1:]
    low, high = places.min(0), places.max(0) + 1
    cell = ((places - low) * MAP_YX // (high - low)) @ (MAP_YX[1], 1)
    total = MAP_YX[0] * MAP_YX[1]
    count = np.bincount(cell, minlength=total)
    sums = np.stack([np.bincount(cell, field[:, k], total) for k in range(3)], axis=1)
    enough = count > 0.01 * len(places) / total
    flat = [[round(float(v), 3) for v in sums[i] / count[i]] if enough[i] else None for i in range(total)]
    return [flat[i * MAP_YX[1] : (i + 1) * MAP_YX[1]] for i in range(MAP_YX[0])]


def edge_shift(image: Volume, truth: Volume, mask: np.ndarray) -> dict[str, float]:
    """The shift of the edges as a whole: ITK's translation of gradient magnitudes by their correlation, which does not
    mind that one image's edges are weaker.

    Only edges more than `INNER_MM` below the skin count. Same sign and unit as `displacement`.

    Args:
        image, truth: HU, same grid.
        mask: The body (bool, z y x).

    Returns:
        `edge_dx_mm`, `edge_dy_mm`, `edge_dz_mm`; NaN where the body is too thin to have an inside, or the image
        to be `measurable`.
    """
    inner = _inner(mask, truth)
    if inner is None or not measurable(image):
        return dict.fromkeys(EDGE_SHIFT, float("nan"))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(inner)
    found = _translation(method, _edges(image), _edges(truth)).GetParameters()
    return dict(zip(EDGE_SHIFT, map(float, found), strict=True))


def shift_to_source(image: Volume, source: Volume, mask: np.ndarray) -> dict[str, float]:
    """The translation between an sCT and what it was made of, which is none: ITK's, by Mattes' mutual information (IEEE Trans Med
    Imaging 22:120, 2003), as their values mean different things.

    Only what lies more than `INNER_MM` below the skin counts: the outline of an sCT is its mask's. Same sign as `edge_shift`.

    Args:
        image: HU.
        source: MR or CBCT, same grid; what is brighter than `BRIGHTEST` percent of the body counts as that bright.
        mask: The body (bool, z y x).

    Returns:
        `input_dx_mm`, `input_dy_mm`, `input_dz_mm`; NaN where `edge_shift` has none, or the optimum is more than
        `FARTHEST_MM` away.
    """
    inner = _inner(mask, source)
    if inner is None or not measurable(image):
        return dict.fromkeys(INPUT_SHIFT, float("nan"))
    values = source.array.astype(np.float32)
    capped = np.clip(values, values[mask].min(), np.percentile(values[mask], BRIGHTEST))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(MUTUAL_BINS)
    method.SetMetricFixedMask(inner)
    found = np.array(_translation(method, _windowed(image), source.with_array(capped).to_sitk()).GetParameters())
    if np.linalg.norm(found) > FARTHEST_MM:
        found[:] = np.nan
    return dict(zip(INPUT_SHIFT, map(float, found), strict=True))


def _inner(mask: np.ndarray, grid: Volume) -> sitk.Image | None:
    """The body without what lies near its skin; None where nothing is left."""
    inner = edt.edt(mask, anisotropy=grid.geometry.spacing_xyz[::-1]) > INNER_MM
    return grid.with_array(inner.astype(np.uint8)).to_sitk() if inner.any() else None


def _translation(method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """The translation d, fixed(x) ≈ moving(x + d), that a metric finds from none."""
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(sitk.TranslationTransform(3), inPlace=False)
    return method.Execute(fixed, moving)


def _edges(volume: Volume) -> sitk.Image:
    spacing = volume.geometry.spacing_xyz[::-1]
    values = np.clip(volume.array.astype(np.float32), *WINDOW)
    return volume.with_array(gaussian_gradient_magnitude(values, [spacing[2] / s for s in spacing])).to_sitk()


def _windowed(volume: Volume) -> sitk.Image:
    """Values in the window. Not masked: one mask in both images would hold the body's outline where it is."""
    return volume.with_array(np.clip(volume.array.astype(np.float32), *WINDOW)).to_sitk()
