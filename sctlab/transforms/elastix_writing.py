"""Writing elastix TransformParameters text files, which transformix takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    EulerTransform,
    Transform,
    flatten,
)
from sctlab.transforms.elastix_reading import NO_INITIAL
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text
from sctlab_model.volume import Geometry, triple

MAX_FIELD_VOXELS = 4_000_000


def write_elastix(
    transform: Transform, folder: str | Path, grid: Geometry, *, default_value: float = 0.0, pixel_type: str = "short"
) -> list[Path]:
    """Write `TransformParameters.0.txt`, `.1.txt`, …: a file a step, each naming the one before; the last one is
    given to transformix, which is started in this folder because the names are relative.

    Args:
        transform: Affine, Euler and B-spline steps; a displacement field becomes a B-spline of order 1.
        folder: Where the files go.
        grid: The fixed image's grid, on which transformix resamples.
        default_value: For voxels outside the moving image.
        pixel_type: transformix's result type.

    Raises:
        InputError: A step that elastix has no text file for (a `Sum`), or a field with too many voxels.
    """
    steps = tuple(_as_spline(s) if isinstance(s, DisplacementField) else s for s in flatten(transform))
    steps = steps or (AffineTransform(np.eye(3)),)
    initial: str = NO_INITIAL
    paths = []
    bodies = [_step_lines(step) for step in steps]  # all steps are checked before the first file appears
    for number, body in enumerate(bodies):
        path = Path(folder) / f"TransformParameters.{number}.txt"
        lines = [*body, *_common_lines(initial, grid, default_value, pixel_type)]
        write_text(path, "".join(f"({line})\n" for line in lines))
        initial = path.name
        paths.append(path)
    return paths


def fits_elastix(transform: Transform) -> bool:
    """Whether text files can hold the transform: a displacement field of a few million voxels at most."""
    return all(
        step.vectors[0].size <= MAX_FIELD_VOXELS for step in flatten(transform) if isinstance(step, DisplacementField)
    )


def _text(values: npt.ArrayLike) -> str:
    return " ".join(repr(float(v)) for v in np.ravel(values))


def _as_spline(field: DisplacementField) -> BSplineTransform:
    """A field as a B-spline of order 1, which interpolates linearly too; a border voxel keeps its outer half."""
    if not fits_elastix(field):
        raise InputError(
            "transform",
            found=f"a displacement field of {field.vectors[0].size} voxels",
            expected=f"at most {MAX_FIELD_VOXELS}",
            advice="a text file of it would be gigabytes: write an ITK transform",
        )
    grid = field.grid.cropped((-1, -1, -1), triple(n + 2 for n in field.grid.size_xyz))
    return BSplineTransform(grid, np.pad(field.vectors, ((0, 0), (1, 1), (1, 1), (1, 1)), mode="edge"), 1)


def _step_lines(step: Transform) -> list[str]:
    if isinstance(step, EulerTransform):
        parameters: npt.ArrayLike = [*step.angles_xyz, *step.translation_xyz]
        own = [f"CenterOfRotationPoint {_text(step.centre_xyz)}", f'ComputeZYX "{str(step.zyx).lower()}"']
        kind = "EulerTransform"
    elif isinstance(step, AffineTransform):
        parameters = [*step.matrix.ravel(), *step.translation_xyz]
        own = [f"CenterOfRotationPoint {_text(step.centre_xyz)}"]
        kind = "AffineTransform"
    elif isinstance(step, BSplineTransform):
        grid = step.grid
        parameters = step.coefficients
        own = [
            f"GridSize {' '.join(map(str, grid.size_xyz))}",
            "GridIndex 0 0 0",
            f"GridSpacing {_text(grid.spacing_xyz)}",
            f"GridOrigin {_text(grid.origin_xyz)}",
            f"GridDirection {_text(grid.axes.T)}",
            f"BSplineTransformSplineOrder {step.order}",
            'UseCyclicTransform "false"',
        ]
        kind = "RecursiveBSplineTransform" if step.recursive else "BSplineTransform"
    else:
        raise InputError(
            "transform",
            found=f"a {type(step).__name__}",
            expected="Euler, affine and B-spline steps",
            advice="elastix has no text file for it: write an ITK transform",
        )
    return [
        f'Transform "{kind}"',
        f"NumberOfParameters {np.size(parameters)}",
        f"TransformParameters {_text(parameters)}",
        *own,
    ]


def _common_lines(initial: str, grid: Geometry, default_value: float, pixel_type: str) -> list[str]:
    return [
        # The older of the two spellings of this key: every elastix reads it.
        f'InitialTransformParametersFileName "{initial}"',
        'HowToCombineTransforms "Compose"',
        "FixedImageDimension 3",
        "MovingImageDimension 3",
        'FixedInternalImagePixelType "float"',
        'MovingInternalImagePixelType "float"',
        f"Size {' '.join(map(str, grid.size_xyz))}",
        "Index 0 0 0",
        f"Spacing {_text(grid.spacing_xyz)}",
        f"Origin {_text(grid.origin_xyz)}",
        f"Direction {_text(grid.axes.T)}",
        'UseDirectionCosines "true"',
        'ResampleInterpolator "FinalBSplineInterpolator"',
        "FinalBSplineInterpolationOrder 3",
        'Resampler "DefaultResampler"',
        f"DefaultPixelValue {float(default_value)!r}",
        'ResultImageFormat "mha"',
        f'ResultImagePixelType "{pixel_type}"',
        'CompressResultImage "true"',
    ]
