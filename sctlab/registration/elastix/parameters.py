"""What elastix is told: the SynthRAD organisers' settings per task and region, read for an image's voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab_model.cases import Region, Task
from sctlab_model.volume import Volume, triple

ENOUGH_SAMPLES = 3000
LEAST_LEVEL_VOXELS = 6  # along every axis of a pyramid's image; 48 slices still have the organisers' factor of 8
NOMINAL_MM = (1.0, 1.0, 3.0)  # SynthRAD's voxels, for which the organisers chose their settings

# What was changed for `tuned`, each on pairs with a known deformation (table in docs/registration.md).
TUNED_HU = (-300.0, 500.0)
TUNED_MARGIN_MM = 9.0
TUNED = {
    "NumberOfHistogramBins": ["32"],
    "Metric1Weight": ["500"],  # bending energy
    "ImageSampler": ["RandomCoordinate"],
    "NumberOfSpatialSamples": ["4096"],
    "NewSamplesEveryIteration": ["true"],
    "UseRandomSampleRegion": ["false"],  # with it, and this bending, elastix diverges: it fixes the step length then
    "MaximumNumberOfIterations": ["250", "250", "250"],
}


@dataclass(frozen=True)
class BaselineSettings:
    """A row of the organisers' table: what differs between task and region.

    Args:
        grid_mm: Final spacing of the control points.
        bins: Histogram bins of mutual information.
        bending: Weight of the bending energy.
        rigidity: Weight of the rigidity penalty; 0 leaves it out.
        smoothing_pyramid: The pyramid smooths without downsampling.
        pyramid: Pyramid factors, a level each.
        iterations: A level each.
        sample_grid: Grid sampler's spacing in voxels, a level each; None is the RandomCoordinate sampler.
        erode_mask: Shrink the mask on coarse levels.
    """

    grid_mm: float
    bins: int
    bending: float
    rigidity: float
    smoothing_pyramid: bool
    pyramid: tuple[int, ...]
    iterations: tuple[int, ...]
    sample_grid: tuple[int, ...] | None
    erode_mask: bool


def baseline_settings(task: Task, region: Region) -> BaselineSettings:
    """The organisers' settings for a task and region."""
    if task is Task.CBCT:
        grid_mm = 15.0 if region is Region.HN else 10.0
        return BaselineSettings(grid_mm, 100, 10, 0.5, False, (4, 2, 1), (500, 200, 100), (4, 2, 2), True)
    if region is Region.AB:
        return BaselineSettings(15.0, 60, 50, 0, True, (8, 4, 1), (2000, 2000, 1000), None, False)
    grid_mm = 15.0 if region is Region.HN else 10.0
    return BaselineSettings(grid_mm, 100, 50, 2, False, (4, 2, 1), (500, 300, 200), (4, 2, 1), False)


@dataclass(frozen=True)
class Sampling:
    """How the table's voxel counts read for an image.

    The table's pyramid factors and sampling steps are voxels of 1 x 1 x 3 mm. Taken literally at 3 mm, the rigid
    stage's coarsest level would sample a 24 mm image at every fourth voxel: some 36 points, on which the rigid stage
    goes astray and the B-spline folds. Larger voxels therefore get proportionally smaller pyramid factors, and the
    step shrinks where it would leave fewer samples than in a SynthRAD image (3000 are always enough: the
    organisers' number for random samplers). No level has fewer than 6 voxels along an axis: the third of 20 slices, not the
    eighth. At SynthRAD's voxels and image sizes the numbers are the organisers'.

    Args:
        spacing_xyz: The fixed image's voxels, mm.
        size_xyz: Its voxel counts.
        body: The fixed mask's share of the image.
        box_mm: Size of the fixed mask's bounding box; elastix refuses sample regions that are larger.
    """

    spacing_xyz: tuple[float, float, float] = NOMINAL_MM
    size_xyz: tuple[int, int, int] = (465, 367, 91)
    body: float = 0.5
    box_mm: tuple[float, float, float] = (465.0, 367.0, 273.0)

    @classmethod
    def of(cls, mask: Volume) -> Sampling:
        """For a fixed image with this mask."""
        inside = mask.array > 0
        spans = [np.ptp(np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))) for axis in (2, 1, 0)]
        box = tuple(float(n * s) for n, s in zip(spans, mask.geometry.spacing_xyz, strict=True))
        return cls(mask.geometry.spacing_xyz, mask.geometry.size_xyz, float(inside.mean()), triple(box))

    @property
    def region_mm(self) -> list[str]:
        """The organisers' 100 mm sample region, or what fits into the mask."""
        return [f"{min(100.0, 0.9 * length):g}" for length in self.box_mm]

    def pyramid(self, levels: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Factors along x, y, z, a level each.

        Example:
            >>> Sampling(spacing_xyz=(3.0, 3.0, 3.0)).pyramid((8, 1))
            [(3, 3, 8), (1, 1, 1)]
            >>> Sampling(spacing_xyz=(3.0, 3.0, 3.0), size_xyz=(120, 96, 20)).pyramid((8, 4, 1))
            [(3, 3, 3), (1, 1, 3), (1, 1, 1)]
        """
        scale = [min(1.0, nominal / s) for nominal, s in zip(NOMINAL_MM, self.spacing_xyz, strict=True)]
        most = [max(1, n // LEAST_LEVEL_VOXELS) for n in self.size_xyz]
        return [triple(min(m, max(1, round(level * s))) for s, m in zip(scale, most, strict=True)) for level in levels]

    def steps(self, levels: tuple[int, ...], pyramid: tuple[int, ...]) -> list[int]:
        """The grid sampler's step on each level of a pyramid."""
        found = []
        for step, factors, level in zip(levels, self.pyramid(pyramid), pyramid, strict=True):
            enough = min(ENOUGH_SAMPLES, Sampling()._samples(step, (level,) * 3))
            while step > 1 and self._samples(step, factors) < enough:
                step -= 1
            found.append(step)
        return found

    def _samples(self, step: int, factors: tuple[int, int, int]) -> float:
        return self.body * float(np.prod([n / f / step for n, f in zip(self.size_xyz, factors, strict=True)]))


def rigid_parameters(seed: int, sampling: Sampling) -> dict[str, list[str]]:
    """elastix parameters of the rigid stage for an image."""
    pyramid = (8, 4, 2, 1)
    return {
        **_common_parameters(seed, sampling.spacing_xyz),
        "Registration": ["MultiResolutionRegistration"],
        "Transform": ["EulerTransform"],
        "Metric": ["AdvancedMattesMutualInformation"],
        "NumberOfHistogramBins": ["32"],
        "NumberOfResolutions": ["4"],
        "FixedImagePyramid": ["FixedRecursiveImagePyramid"],
        "MovingImagePyramid": ["MovingRecursiveImagePyramid"],
        "ImagePyramidSchedule": _words(sampling.pyramid(pyramid)),
        "MaximumNumberOfIterations": ["1000", "1000", "500", "500"],
        "NumberOfSpatialSamples": ["3000"],
        "ImageSampler": ["Grid"],
        "SampleGridSpacing": _isotropic(sampling.steps((4, 4, 4, 2), pyramid)),
        "Scales": ["10000"],
        "AutomaticTransformInitialization": ["true"],
        "AutomaticTransformInitializationMethod": ["CenterOfGravity"],
        "RequiredRatioOfValidSamples": ["0.045"],
    }


def bspline_parameters(
    settings: BaselineSettings,
    seed: int,
    sampling: Sampling,
    rigidity_image: Path | None = None,
    rigidity_on_fixed: bool = False,
) -> dict[str, list[str]]:
    """elastix parameters of the B-spline stage.

    Args:
        settings: The organisers' row.
        seed: Of the random sampler.
        sampling: How the table's voxel counts read for the fixed image.
        rigidity_image: 1 on bone, 0 elsewhere; None leaves the rigidity penalty out.
        rigidity_on_fixed: The image belongs to the fixed image (the CT is fixed).
    """
    metrics = [("AdvancedMattesMutualInformation", 1.0), ("TransformBendingEnergyPenalty", settings.bending)]
    extra: dict[str, list[str]] = {}
    if rigidity_image is not None:
        metrics.append(("TransformRigidityPenalty", settings.rigidity))
        used, unused = ("Fixed", "Moving") if rigidity_on_fixed else ("Moving", "Fixed")
        extra |= {
            f"Use{used}RigidityImage": ["true"],
            f"{used}RigidityImageName": [str(rigidity_image)],
            f"Use{unused}RigidityImage": ["false"],
        }
    if settings.sample_grid is None:
        extra |= {
            "ImageSampler": ["RandomCoordinate"],
            "NumberOfSpatialSamples": ["4096"],
            "NewSamplesEveryIteration": ["true"],
            "UseRandomSampleRegion": ["true"],
            "SampleRegionSize": sampling.region_mm * len(settings.pyramid),  # elastix reads three a level
        }
    else:
        extra |= {
            "ImageSampler": ["Grid"],
            "SampleGridSpacing": _isotropic(sampling.steps(settings.sample_grid, settings.pyramid)),
        }
    pyramid = "Smoothing" if settings.smoothing_pyramid else "Recursive"
    return {
        **_common_parameters(seed, sampling.spacing_xyz),
        "Registration": ["MultiMetricMultiResolutionRegistration"],
        "Transform": ["BSplineTransform"],
        "BSplineTransformSplineOrder": ["3"],
        "FinalGridSpacingInPhysicalUnits": [str(settings.grid_mm)] * 3,
        "GridSpacingSchedule": _isotropic((4, 2, 1)),
        "Metric": [name for name, _ in metrics],
        **{f"Metric{i}Weight": [str(weight)] for i, (_, weight) in enumerate(metrics)},
        "NumberOfHistogramBins": [str(settings.bins)],
        "NumberOfResolutions": [str(len(settings.pyramid))],
        "FixedImagePyramid": [f"Fixed{pyramid}ImagePyramid"],
        "MovingImagePyramid": [f"Moving{pyramid}ImagePyramid"],
        "ImagePyramidSchedule": _words(sampling.pyramid(settings.pyramid)),
        "MaximumNumberOfIterations": [str(n) for n in settings.iterations],
        "MaximumNumberOfSamplingAttempts": ["5"],
        "RequiredRatioOfValidSamples": ["0.05"],
        "ErodeMask": [str(settings.erode_mask).lower()],
        **extra,
    }


def _words(levels: list[tuple[int, int, int]]) -> list[str]:
    return [str(factor) for level in levels for factor in level]


def _isotropic(levels: Sequence[int]) -> list[str]:
    return [str(level) for level in levels for _ in range(3)]


def _common_parameters(seed: int, spacing_xyz: tuple[float, float, float]) -> dict[str, list[str]]:
    # elastix's own default is the mean voxel size, which is this at SynthRAD's voxels; larger steps at larger
    # voxels are another optimiser.
    step_mm = min(sum(NOMINAL_MM), sum(spacing_xyz)) / 3
    return {
        "MaximumStepLength": [f"{step_mm:.6g}"],
        "FixedInternalImagePixelType": ["float"],
        "MovingInternalImagePixelType": ["float"],
        "UseDirectionCosines": ["true"],
        "Optimizer": ["AdaptiveStochasticGradientDescent"],
        "Interpolator": ["BSplineInterpolator"],
        "BSplineInterpolationOrder": ["3"],
        "ResampleInterpolator": ["FinalBSplineInterpolator"],
        "FinalBSplineInterpolationOrder": ["3"],
        "Resampler": ["DefaultResampler"],
        "HowToCombineTransforms": ["Compose"],
        "AutomaticParameterEstimation": ["true"],
        "ASGDParameterEstimationMethod": ["Original"],
        "DefaultPixelValue": ["-1000"],
        "WriteResultImage": ["false"],
        "RandomSeed": [str(seed)],
    }
