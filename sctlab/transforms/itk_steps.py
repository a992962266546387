"""What ITK's transform files hold: steps of a type with parameters and fixed parameters, checked before anything uses them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    EulerTransform,
    Transform,
    compose,
)
from sctlab_model.errors import InputError
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS, check_direction, check_size, check_spacing
from sctlab_model.volume import Geometry, triple

COMPOSITE = "CompositeTransform"
MAX_STEPS = 64
# Parameters of each type (None: three a control point or voxel) and the numbers of fixed parameters that occur.
_PARAMETERS: dict[str, tuple[int | None, tuple[int, ...]]] = {
    "IdentityTransform": (0, (0, 3)), "TranslationTransform": (3, (0,)), "ScaleTransform": (3, (3,)),
    "VersorTransform": (3, (3,)), "Euler3DTransform": (6, (3, 4)), "VersorRigid3DTransform": (6, (3,)),
    "Similarity3DTransform": (7, (3,)), "ScaleVersor3DTransform": (9, (3,)), "AffineTransform": (12, (3,)),
    "MatrixOffsetTransformBase": (12, (3,)), "ScaleSkewVersor3DTransform": (15, (3,)),
    "BSplineTransform": (None, (18,)), "DisplacementFieldTransform": (None, (18,)),
}  # fmt: skip
_NAME = re.compile(r"(?P<kind>[A-Za-z0-9]{1,60})_(?:double|float)_(?P<dimension>\d_\d)(?:_(?P<order>\d))?")
_SMALLEST_DETERMINANT = 1e-9


@dataclass(frozen=True, eq=False)
class ItkStep:
    """One transform of a file.

    Args:
        name: Type as ITK writes it, such as `AffineTransform_double_3_3`; a B-spline's may end with its order.
        parameters: In ITK's order, float64.
        fixed: Fixed parameters: a centre, or a grid as size, origin, spacing and direction.
    """

    name: str
    parameters: np.ndarray
    fixed: np.ndarray


def to_steps(steps: Sequence[Transform]) -> list[ItkStep]:
    """What a file holds for these transforms, of which the one at the front is applied first.

    ITK applies the step that stands last in the file first.
    """
    composite = ItkStep(f"{COMPOSITE}_double_3_3", np.zeros(0), np.zeros(0))
    return [composite, *(_to_step(step) for step in reversed(steps))]


def _to_step(step: Transform) -> ItkStep:
    if isinstance(step, AffineTransform):
        parameters = np.concatenate([step.matrix.ravel(), step.translation_xyz])
        return ItkStep("AffineTransform_double_3_3", parameters, np.array(step.centre_xyz, dtype=np.float64))
    if isinstance(step, EulerTransform):
        parameters = np.concatenate([step.angles_xyz, step.translation_xyz])
        return ItkStep("Euler3DTransform_double_3_3", parameters, np.array([*step.centre_xyz, float(step.zyx)]))
    if isinstance(step, BSplineTransform):
        name = "BSplineTransform_double_3_3" + (f"_{step.order}" if step.order != 3 else "")
        return ItkStep(name, np.asarray(step.coefficients, dtype=np.float64).ravel(), _grid_numbers(step.grid))
    if isinstance(step, DisplacementField):
        vectors = np.moveaxis(step.vectors, 0, -1).astype(np.float64).ravel()
        return ItkStep("DisplacementFieldTransform_double_3_3", vectors, _grid_numbers(step.grid))
    raise TypeError(f"a {type(step).__name__} has no place in an ITK file")


def _grid_numbers(grid: Geometry) -> np.ndarray:
    return np.array([*grid.size_xyz, *grid.origin_xyz, *grid.spacing_xyz, *grid.direction], dtype=np.float64)


def from_steps(steps: Sequence[ItkStep], where: str | Path) -> Transform:
    """The transform of a file's steps.

    Raises:
        InputError: No step, several that are no composite, a 2D or unknown type, wrong numbers of parameters, NaN.
    """
    if not 1 <= len(steps) <= MAX_STEPS + 1:
        raise InputError(
            where, found=f"{len(steps)} transforms", expected=f"1 to {MAX_STEPS}", advice="the file is cut or damaged"
        )
    if _kind(steps[0], where) == COMPOSITE:
        if steps[0].parameters.size or steps[0].fixed.size:
            raise InputError(
                where, found="a composite with parameters", expected="none", advice="the transform file is damaged"
            )
        steps = steps[1:]
    elif len(steps) > 1:
        raise InputError(
            where,
            found=f"{len(steps)} transforms that are no composite",
            expected="one transform, or a composite first",
            advice="nothing says in what order they apply",
        )
    return compose(*reversed([_from_step(step, where) for step in steps]))


def _kind(step: ItkStep, where: str | Path) -> str:
    match = _NAME.fullmatch(step.name)
    if match is None or match["kind"] not in (*_PARAMETERS, COMPOSITE):
        raise InputError(
            where,
            found=f"a transform {_printable(step.name)}",
            expected=" or ".join(_PARAMETERS),
            advice="convert it to one of these",
        )
    if match["dimension"] != "3_3":
        dimension = match["dimension"][0]
        raise InputError(where, found=f"a {dimension}D transform ({step.name})", expected="a 3D transform")
    if match["order"] is not None and match["kind"] != "BSplineTransform":
        raise InputError(where, found=f"a transform {step.name}", expected="an order of B-splines only")
    return match["kind"]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:60])


def _from_step(step: ItkStep, where: str | Path) -> Transform:
    kind = _kind(step, where)
    if kind == COMPOSITE:
        raise InputError(where, found="a composite within a composite", expected="one list of transforms")
    if not np.isfinite(step.parameters).all() or not np.isfinite(step.fixed).all():
        raise InputError(
            where, found=f"NaN or infinite values in a {kind}", expected="finite values", advice="the file is damaged"
        )
    count, fixed_counts = _PARAMETERS[kind]
    grid = None
    if count is None and len(step.fixed) in fixed_counts:
        grid = _grid(step.fixed, kind, where)
        count = 3 * int(np.prod(grid.size_xyz))
    if len(step.parameters) != count or len(step.fixed) not in fixed_counts:
        raise InputError(
            where,
            found=f"{len(step.parameters)} parameters and {len(step.fixed)} fixed ones of a {kind}",
            expected=f"{'three a voxel' if count is None else count} and {' or '.join(map(str, fixed_counts))}",
            advice="the transform file is cut or damaged",
        )
    if grid is not None:
        return _spline(step, grid, where) if kind == "BSplineTransform" else _field(step, grid)
    if kind == "IdentityTransform":
        return AffineTransform(np.eye(3))
    if kind == "TranslationTransform":
        return AffineTransform(np.eye(3), tuple(step.parameters.tolist()))
    centre = tuple(step.fixed[:3].tolist())
    if kind == "Euler3DTransform":
        angles, shift = tuple(step.parameters[:3].tolist()), tuple(step.parameters[3:].tolist())
        return EulerTransform(angles, shift, centre, len(step.fixed) == 4 and bool(step.fixed[3]))
    if kind in ("AffineTransform", "MatrixOffsetTransformBase"):
        transform = AffineTransform(step.parameters[:9].reshape(3, 3), tuple(step.parameters[9:].tolist()), centre)
    else:
        transform = _by_simpleitk(kind, step)
    if not abs(np.linalg.det(transform.matrix)) > _SMALLEST_DETERMINANT:
        raise InputError(where, found=f"a {kind} that maps space onto a plane", expected="one that can be inverted")
    return transform


def _by_simpleitk(kind: str, step: ItkStep) -> AffineTransform:
    """The matrix of a type that ITK parametrises by versors, scales or skews; its numbers are checked already."""
    import SimpleITK as sitk

    transform = getattr(sitk, kind)(3) if kind == "ScaleTransform" else getattr(sitk, kind)()
    transform.SetFixedParameters(step.fixed.tolist())
    transform.SetParameters(step.parameters.tolist())
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    return AffineTransform(matrix, tuple(transform.TransformPoint((0.0, 0.0, 0.0))))


def _grid(fixed: np.ndarray, kind: str, where: str | Path) -> Geometry:
    sizes = fixed[:3]
    if not ((sizes == np.rint(sizes)) & (sizes >= 1) & (sizes < 1 << 16)).all():
        raise InputError(
            where,
            found=f"a {kind} on a grid of {' x '.join(f'{n:g}' for n in sizes)}",
            expected="three whole numbers",
            advice="the file is damaged",
        )
    size = tuple(int(n) for n in sizes)
    check_size(size, str(where), DEFAULT_MAX_VOXELS)
    check_spacing(tuple(fixed[6:9].tolist()), str(where))
    grid = Geometry(triple(size), triple(fixed[6:9]), triple(fixed[3:6]), tuple(fixed[9:18]))
    check_direction(grid.axes, str(where))
    return grid


def _spline(step: ItkStep, grid: Geometry, where: str | Path) -> BSplineTransform:
    match = _NAME.fullmatch(step.name)
    assert match is not None
    order = int(match["order"] or 3)
    if order not in (1, 2, 3) or min(grid.size_xyz) < order + 1:
        raise InputError(
            where,
            found=f"a spline of order {order} on {grid.size_xyz} control points",
            expected="order 1 to 3, with more control points than that",
        )
    return BSplineTransform(grid, step.parameters.reshape(3, *grid.shape_zyx), order)


def _field(step: ItkStep, grid: Geometry) -> DisplacementField:
    vectors = np.moveaxis(step.parameters.reshape(*grid.shape_zyx, 3), -1, 0)
    return DisplacementField(grid, np.ascontiguousarray(vectors))
