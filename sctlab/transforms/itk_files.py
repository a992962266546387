"""ITK transform files (`.h5`, `.tfm`) and displacement fields, as SimpleITK and 3D Slicer read them."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    Composite,
    DisplacementField,
    EulerTransform,
    Sum,
    Transform,
    compose,
    flatten,
)
from sctlab.transforms.field import displacement_field
from sctlab_model.errors import InputError
from sctlab_model.io.grids import check_direction
from sctlab_model.io.writing import atomic_path
from sctlab_model.volume import Geometry

SUFFIXES = (".h5", ".hdf5", ".tfm")
# Parameters of each type (None: three a control point or voxel) and the fewest fixed parameters.
_PARAMETERS: dict[str, tuple[int | None, int]] = {
    "IdentityTransform": (0, 0), "TranslationTransform": (3, 0), "ScaleTransform": (3, 3), "VersorTransform": (3, 3),
    "Euler3DTransform": (6, 3), "VersorRigid3DTransform": (6, 3), "Similarity3DTransform": (7, 3),
    "ScaleVersor3DTransform": (9, 3), "AffineTransform": (12, 3), "MatrixOffsetTransformBase": (12, 3),
    "ScaleSkewVersor3DTransform": (15, 3), "BSplineTransform": (None, 18), "DisplacementFieldTransform": (None, 18),
}  # fmt: skip
_LINEAR_NAMES = ("AffineTransform", "VersorRigid3DTransform", "ScaleSkewVersor3DTransform", "Similarity3DTransform",
                 "VersorTransform", "ScaleVersor3DTransform", "ScaleTransform")  # fmt: skip


def write_itk(transform: Transform, path: str | Path, *, grid: Geometry | None = None) -> Path:
    """Write a composite transform; the format follows the suffix (`.h5` or `.tfm`).

    Args:
        transform: From fixed points to moving points.
        path: Where.
        grid: Needed for transforms that ITK lacks (a `Sum`), which are written as vectors on this grid.
    """
    import SimpleITK as sitk

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(path, found=f"unknown suffix '{path.suffix}'", expected="one of " + ", ".join(SUFFIXES))
    if any(isinstance(step, Sum) for step in flatten(transform)):
        if grid is None:
            raise InputError(path, found="transforms combined by Add", expected="a grid to write them as vectors")
        transform = displacement_field(transform, grid)
    # HDF5 refuses to write to the temporary file, which is locked as long as it is being made: it gets one elsewhere.
    with atomic_path(path) as temporary, TemporaryDirectory() as folder:
        written = Path(folder) / path.name
        try:
            sitk.WriteTransform(Composite(tuple(flatten(transform))).to_sitk(), str(written))
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
        shutil.copyfile(written, temporary)
    return path


def write_displacement(field: DisplacementField, path: str | Path) -> Path:
    """Write the vectors as an image with three float32 components (mm, LPS)."""
    import SimpleITK as sitk

    path = Path(path)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(sitk.Cast(field.to_sitk_image(), sitk.sitkVectorFloat32), str(temporary), True, 1)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
    return path


def read_displacement(path: str | Path) -> DisplacementField:
    """Read an image with three components as displacements in mm (LPS)."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a displacement field")
    try:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    except RuntimeError as error:
        raise InputError(
            path,
            found="can't be read as a displacement field",
            expected="an image with three components",
            advice="the file is damaged or of another type",
        ) from error
    return _from_vector_image(image, path)


def read_itk(path: str | Path) -> Transform:
    """Read a transform or composite that ITK, SimpleITK or 3D Slicer wrote.

    Raises:
        InputError: Missing, cut or malformed file, a 2D transform, an unknown type, NaN.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found="no such file", expected="an ITK transform (" + ", ".join(SUFFIXES) + ")")
    if path.suffix == ".tfm":
        _check_tfm(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")[:120]
        raise InputError(
            path,
            found=f"can't be read ({reason})",
            expected="an ITK transform file",
            advice="the transform file is cut or of another type",
        ) from error
    return from_sitk(transform, path)


def from_sitk(transform: object, where: str | Path) -> Transform:
    """A SimpleITK transform as plain data.

    Raises:
        InputError: Not 3D, an unknown type, or values that aren't finite.
    """
    import SimpleITK as sitk

    transform = transform.Downcast()
    name = transform.GetName()
    if transform.GetDimension() != 3:
        raise InputError(where, found=f"a {transform.GetDimension()}D transform", expected="a 3D transform")
    if name == "DisplacementFieldTransform":
        return _from_vector_image(sitk.DisplacementFieldTransform(transform).GetDisplacementField(), where)
    if name == "CompositeTransform":
        # ITK applies the transform that was added last first.
        steps = [from_sitk(transform.GetNthTransform(i), where) for i in range(transform.GetNumberOfTransforms())]
        return compose(*reversed(steps))
    # Only now: the parameters of the two above are every number of a field, each of them a Python object.
    if not np.isfinite(transform.GetParameters()).all() or not np.isfinite(transform.GetFixedParameters()).all():
        raise InputError(
            where, found=f"NaN or infinite values in a {name}", expected="finite values", advice="the file is damaged"
        )
    if transform.GetTransformEnum() == sitk.sitkIdentity:
        return AffineTransform(np.eye(3))
    if name == "TranslationTransform":
        return AffineTransform(np.eye(3), transform.GetOffset())
    if name == "Euler3DTransform":
        angles = (transform.GetAngleX(), transform.GetAngleY(), transform.GetAngleZ())
        return EulerTransform(angles, transform.GetTranslation(), transform.GetCenter(), transform.GetComputeZYX())
    if name in _LINEAR_NAMES:
        matrix = np.array(transform.GetMatrix()).reshape(3, 3)
        offset = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        return AffineTransform(matrix, tuple(offset))
    if name == "BSplineTransform":
        fixed = transform.GetFixedParameters()
        grid = Geometry(tuple(int(n) for n in fixed[:3]), tuple(fixed[6:9]), tuple(fixed[3:6]), tuple(fixed[9:18]))
        check_direction(grid.axes, str(where))
        coefficients = np.array(transform.GetParameters()).reshape(3, *grid.shape_zyx)
        return BSplineTransform(grid, coefficients, transform.GetOrder())
    raise InputError(
        where, found=f"a {name}", expected="affine, Euler, B-spline, displacement field or a composite of them"
    )


def _from_vector_image(image: object, where: str | Path) -> DisplacementField:
    import SimpleITK as sitk

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(
            where,
            found=f"{image.GetDimension()} dimensions, {image.GetNumberOfComponentsPerPixel()} components",
            expected="3 dimensions, 3 components (mm)",
        )
    grid = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    check_direction(grid.axes, str(where))
    vectors = np.array(np.moveaxis(sitk.GetArrayViewFromImage(image), -1, 0), order="C")
    if not np.isfinite(vectors).all():
        raise InputError(
            where, found="NaN or infinite displacements", expected="finite values", advice="the file is damaged"
        )
    return DisplacementField(grid, vectors)


def _check_tfm(path: Path) -> None:
    """Refuse a malformed text transform before ITK sees it: a NaN in one corrupts memory in ITK's reader.

    The format: `Transform: <type>_double_3_3`, `Parameters: …`, `FixedParameters: …`, repeated.
    """
    with path.open(encoding="utf-8", errors="replace") as handle:
        if not handle.readline(64).startswith("#Insight Transform File"):
            raise InputError(path, found="no '#Insight Transform File' line", expected="an ITK text transform (.tfm)")
        name, numbers, announced = "", {}, False
        for line in handle:
            if not line.endswith("\n"):
                raise InputError(
                    path,
                    found=f"it ends with '{line[:30]}'",
                    expected="a complete last line",
                    advice="the transform file is cut",
                )
            key, _, rest = line.partition(":")
            if key == "Transform":
                _check_counts(path, name, numbers)
                name, numbers, announced = rest.strip(), {}, False
            elif key in ("Parameters", "FixedParameters"):
                try:
                    numbers[key] = np.array(rest.split(), dtype=np.float64)
                except ValueError as error:
                    raise InputError(
                        path, found=f"{key} that aren't numbers", expected="numbers", advice="the file is damaged"
                    ) from error
            elif line.startswith("#"):
                announced = line.startswith("#Transform")
            elif line.strip():
                raise InputError(
                    path,
                    found=f"a line '{line[:30].strip()}'",
                    expected="Transform, Parameters or FixedParameters",
                    advice="the transform file is cut or of another type",
                )
    if announced or not name:
        raise InputError(
            path,
            found="an announced transform that doesn't come",
            expected="an ITK text transform",
            advice="the transform file is cut",
        )
    _check_counts(path, name, numbers)


def _check_counts(path: Path, name: str, numbers: dict[str, np.ndarray]) -> None:
    """Whether a transform has as many parameters as its type takes, all of them finite."""
    kind = name.split("_")[0]
    if not name or kind == "CompositeTransform":
        return
    if "_2_2" in name:
        raise InputError(path, found=f"a 2D transform ({name[:60]})", expected="a 3D transform")
    if kind not in _PARAMETERS:
        raise InputError(
            path,
            found=f"a transform {name[:60]}",
            expected=" or ".join(_PARAMETERS),
            advice="convert it to one of these",
        )
    parameters, fixed = (numbers.get(key, np.zeros(0)) for key in ("Parameters", "FixedParameters"))
    if not np.isfinite(parameters).all() or not np.isfinite(fixed).all():
        raise InputError(
            path, found=f"NaN or infinite values in a {kind}", expected="finite values", advice="the file is damaged"
        )
    expected, least_fixed = _PARAMETERS[kind]
    if expected is None:
        size = fixed[:3]
        expected = 3 * int(np.prod(size)) if len(size) == 3 and (size >= 1).all() and (size < 1 << 16).all() else -1
    if len(parameters) != expected or len(fixed) < least_fixed:
        raise InputError(
            path,
            found=f"{len(parameters)} parameters and {len(fixed)} fixed ones of a {kind}",
            expected=f"{expected} and {least_fixed}",
            advice="the transform file is cut or damaged",
        )


__all__ = ["SUFFIXES", "from_sitk", "read_displacement", "read_itk", "write_displacement", "write_itk"]
