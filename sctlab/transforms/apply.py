"""Applying a transform to images, labels and masks."""

from __future__ import annotations

import numpy as np

from sctlab.transforms.data import DisplacementField, Transform, flatten, is_linear
from sctlab.transforms.field import displacement_field
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume, resample

INTERPOLATIONS = ("safe", "cubic", "linear", "nearest")


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
