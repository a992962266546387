"""Applying a transform to images, labels and masks, and reading one from any file that holds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sctlab.transforms.elastix_files import ElastixTransform, read_elastix
from sctlab.transforms.itk_files import SUFFIXES as ITK_SUFFIXES
from sctlab.transforms.itk_files import read_displacement, read_itk
from sctlab.transforms.transforms import DisplacementField, Transform, displacement_field, flatten, is_linear
from sctlab_model.errors import InputError
from sctlab_model.io.writing import SUFFIXES as IMAGE_SUFFIXES
from sctlab_model.io.writing import split_suffix
from sctlab_model.volume import Geometry, Volume, resample

INTERPOLATIONS = ("safe", "cubic", "linear", "nearest")


def read_transform(path: str | Path) -> ElastixTransform:
    """Read a transform from an elastix text file (`.txt`), an ITK file (`.h5`, `.tfm`) or a displacement image.

    Returns the transform with the grid and outside value that the file states (elastix only).

    Raises:
        InputError: See the readers of each format; an unknown suffix.
    """
    path = Path(path)
    if path.suffix == ".txt":
        return read_elastix(path)
    if path.suffix in ITK_SUFFIXES:
        return ElastixTransform(read_itk(path))
    if split_suffix(path)[1] in IMAGE_SUFFIXES:
        return ElastixTransform(read_displacement(path))
    known = ", ".join((".txt", *ITK_SUFFIXES, *IMAGE_SUFFIXES))
    raise InputError(path, found=f"unknown suffix '{path.suffix}'", expected=f"a transform file: {known}")


def apply_to_image(
    image: Volume, transform: Transform, grid: Geometry, *, interpolation: str = "safe", outside: float = 0.0
) -> Volume:
    """The image at `transform(x)` for every voxel x of `grid`.

    Args:
        image: The moving image (array z, y, x).
        transform: From points of `grid` to points of `image`.
        grid: The fixed image's grid.
        interpolation: `cubic` is elastix's and ITK's cubic B-spline, which overshoots beside metal and air;
            `safe` holds that value within the extremes of the 3x3x3 voxels around the point, so no value appears
            that the neighbourhood doesn't have; `linear`; `nearest`.
        outside: For points outside the image.

    Returns:
        Integer images keep their type (rounded to the nearest value), others become float32.

    Raises:
        InputError: Unknown interpolation.
    """
    if interpolation not in INTERPOLATIONS:
        raise InputError("interpolation", found=f"'{interpolation}'", expected=" or ".join(INTERPOLATIONS))
    kind = image.array.dtype
    mapping = _ready(transform, grid)
    if interpolation == "nearest":
        return resample(image, grid, interpolation="nearest", outside=outside, transform=mapping)
    source = image.with_array(image.array.astype(np.float32))
    spline = "linear" if interpolation == "linear" or min(image.array.shape) < 4 else "bspline"
    result = resample(source, grid, interpolation=spline, outside=outside, transform=mapping).array
    if interpolation == "safe":
        from scipy.ndimage import maximum_filter, minimum_filter

        for extreme, limit in ((minimum_filter, np.maximum), (maximum_filter, np.minimum)):
            around = image.with_array(extreme(source.array, size=3, mode="nearest"))
            bound = resample(around, grid, interpolation="nearest", outside=outside, transform=mapping)
            limit(result, bound.array, out=result)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        result = np.clip(np.rint(result), info.min, info.max).astype(kind)
    return Volume(result, grid, image.name)


def apply_to_labels(labels: Volume, transform: Transform, grid: Geometry) -> Volume:
    """Labels or a mask by nearest neighbour, 0 outside; the element type is kept."""
    return resample(labels, grid, interpolation="nearest", outside=0, transform=_ready(transform, grid))


def field_of_view(moving: Geometry, transform: Transform, grid: Geometry) -> Volume:
    """Boolean volume on `grid`: where the moving image has data (a voxel reaches to its face, as in ITK)."""
    full = Volume(np.ones(moving.shape_zyx, dtype=np.uint8), moving)
    covered = apply_to_labels(full, transform, grid)
    return covered.with_array(covered.array > 0)


def prepared(transform: Transform, grid: Geometry) -> Transform:
    """The transform in a form that is cheap to apply several times on one grid.

    A non-linear one becomes the vectors at the grid's voxels, which is exact there.
    """
    if is_linear(transform):
        return transform
    return displacement_field(transform, grid)


def _ready(transform: Transform, grid: Geometry) -> object:
    """SimpleITK transform for resampling on `grid`."""
    steps = tuple(flatten(transform))
    if is_linear(transform) or (len(steps) == 1 and isinstance(steps[0], DisplacementField)):
        return transform.to_sitk()
    return displacement_field(transform, grid).to_sitk()
