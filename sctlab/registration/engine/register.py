"""The registration engine: rigid start, coarse search, multi-resolution cubic B-spline; on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.deformable import Deformed, deform
from sctlab.registration.engine.folding import FoldingReport, measure, repair
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import extent_zyx
from sctlab.registration.engine.rigid import MaskedImage, register_rigid
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.sliding_result import SlidingReport, compose_field, settle
from sctlab.transforms.data import BSplineTransform, Composite, DisplacementField, EulerTransform, Transform, compose
from sctlab.transforms.field import displacement_field
from sctlab_model.device import choose_device, describe_device
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.volume import Geometry, Volume, triple

Progress = Callable[[str, float], None]
LEAST = 0.05  # determinant below which a place is repaired


@dataclass(frozen=True)
class EngineResult:
    """The result: points of the fixed image to points of the moving image, first the spline, then the rigid part.

    Args:
        rigid: The rigid part.
        spline: The deformation in the fixed image's space, vectors at its voxels where organs slide; None for a rigid
            registration.
        presets: Names of the presets that made it.
        device: What it ran on.
        seed: Of every random choice.
        folding: Jacobian determinant over the body; None for a rigid registration.
        sliding: What happens at the surface along which organs slide; None without one.
        spread: Standard deviation of the presets' displacements at the fixed voxels in mm; None for one preset.
        metrics: Values at start and end, a stage each.
        seconds: Time of each stage.
    """

    rigid: EulerTransform
    spline: BSplineTransform | DisplacementField | None
    presets: tuple[str, ...]
    device: str
    seed: int
    folding: FoldingReport | None = None
    sliding: SlidingReport | None = None
    spread: Volume | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def transform(self) -> Composite:
        """The whole transform."""
        steps: tuple[Transform, ...] = (self.rigid,) if self.spline is None else (self.spline, self.rigid)
        return compose(*steps)

    def displacement_mm(self, grid: Geometry) -> np.ndarray:
        """T(x) − x at the voxels of `grid`, float32 [3 (x, y, z), z, y, x] in mm."""
        return displacement_field(self.transform, grid).vectors.astype(np.float32)

    def record(self) -> dict[str, object]:
        """What `quality.json` and reports keep."""
        return {
            "presets": list(self.presets),
            "device": self.device,
            "seed": self.seed,
            "folding": None if self.folding is None else vars(self.folding),
            "sliding": None if self.sliding is None else vars(self.sliding),
            "spread_mm": None if self.spread is None else float(self.spread.array.mean()),
            "metrics": self.metrics,
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
        }


def register(
    fixed: Volume,
    moving: Volume,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    bone: Volume | None = None,
    cavity: Volume | None = None,
    cavity_is_fixed: bool = False,
    preset: Preset | Sequence[Preset] = Preset(name="mind"),
    initial: EulerTransform | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> EngineResult:
    """Register `moving` to `fixed`.

    Args:
        fixed, moving: Images on any grids in one patient space.
        fixed_mask: Where similarity counts, on any grid in the fixed image's space (the body; all when left out).
        moving_mask: Where the moving image can be believed, likewise in its own space.
        bone: Bone in the moving image, for presets with a rigidity weight.
        cavity: What slides along its wall (the thoracic and abdominal cavity, > 0) in the moving image, for presets with
            `sliding`; without it their field is smooth.
        cavity_is_fixed: The cavity is the fixed image's.
        preset: What to do; of several with as many levels each the fields are averaged and their spread measured.
        initial: A rigid start that is already known: the search for one is skipped.
        device: `auto`, `cpu` or `cuda[:N]`.
        seed: The same seed gives the same result on the same machine.
        progress: Called with the stage's name and the share done, 0 to 1.

    Raises:
        InputError: Images or masks that can't be registered (see `check_images`), a cavity beside its image, an unknown
            device.
        RegistrationError: No usable transform: images that don't overlap, a field that folds and can't be repaired.
    """
    chosen = (preset,) if isinstance(preset, Preset) else tuple(preset)
    target = choose_device(device)
    check_images(fixed, moving, fixed_mask, moving_mask)
    if cavity is not None and cavity.array.any():  # an empty one lets nothing slide
        side = fixed if cavity_is_fixed else moving
        _check_place(cavity, side.geometry, cavity.name or "cavity")
    report = progress or (lambda stage, share: None)
    images = Images.prepare(fixed, moving, fixed_mask, moving_mask, bone, target, cavity, not cavity_is_fixed)
    seconds: dict[str, float] = {}
    metrics: dict[str, float] = {}

    started = time.perf_counter()
    report("rigid", 0.0)
    if initial is None:
        rigid, quality = register_rigid(
            MaskedImage(images.fixed, images.fixed_mask, fixed.geometry),
            MaskedImage(images.moving, images.moving_mask, moving.geometry),
            chosen[0].rigid,
            seed=seed,
        )
        metrics |= {f"rigid_{k}": v for k, v in quality.items()}
    else:
        rigid = initial
    seconds["rigid"] = time.perf_counter() - started
    result = EngineResult(
        rigid, None, tuple(p.name for p in chosen), describe_device(target), seed, metrics=metrics, seconds=seconds
    )
    if not chosen[0].levels:  # and so none has any
        return result

    knots = min(p.knots_mm for p in chosen)  # one grid of control points, so that fields can be averaged
    every = []
    for number, settings in enumerate(chosen):
        started = time.perf_counter()
        name = settings.name
        deformed = deform(
            images,
            rigid,
            settings.changed(knots_mm=knots),
            seed=seed,
            progress=partial(_report_share, report, number, len(chosen)),
        )
        every.append(deformed)
        seconds[name] = time.perf_counter() - started
        metrics |= {f"{name}_{k}": v for k, v in deformed.values.items()}
    report("deformable", 1.0)
    return _finish(result, every, images, fixed)


def check_images(fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
    """Refuse what can't be registered, in one sentence.

    Raises:
        InputError: Fewer than 4 voxels along an axis, NaN or infinite voxels, a constant image, an empty mask, a
            mask beside its image.
    """
    for role, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        where = image.name or f"{role} image"
        if min(image.geometry.size_xyz) < 4:
            raise InputError(
                where,
                found="x".join(map(str, image.geometry.size_xyz)) + " voxels",
                expected="at least 4 along each axis",
            )
        values = image.array
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(where, found="NaN or infinite voxels", expected="finite values")
        if values.min() == values.max():
            raise InputError(
                where, found=f"a constant image (all voxels are {values.flat[0]})", expected="an image with contrast"
            )
        if mask is None:
            continue
        where = mask.name or f"{role} mask"
        if not mask.array.any():
            raise InputError(where, found="an empty mask", expected="a mask with voxels")
        _check_place(mask, image.geometry, where)


def _check_place(mask: Volume, geometry: Geometry, where: str) -> None:
    if _inside_share(mask, geometry) == 0:
        raise InputError(
            where,
            found="a mask that lies outside its image",
            expected="a mask in the image's space",
            advice="its origin or direction belongs to another frame of reference",
        )


def _inside_share(mask: Volume, geometry: Geometry) -> float:
    """Share of a mask's voxels (a sample of them) that lie within a grid."""
    index = np.argwhere(mask.array)
    index = index[:: max(1, len(index) // 20000)]
    where = geometry.to_index(mask.geometry.to_physical(index[:, ::-1]))
    return float(np.all((where > -0.5) & (where < np.array(geometry.size_xyz) - 0.5), axis=1).mean())


def _finish(result: EngineResult, every: Sequence[Deformed], images: Images, fixed: Volume) -> EngineResult:
    """Average the presets' splines, guard against folding, and put the result into physical space.

    Args:
        result: The rigid part and what is recorded.
        every: What each preset found, on one grid of control points.
        images, fixed: The masks, and the fixed image.

    Raises:
        RegistrationError: A field that folds and can't be repaired.
    """
    started = time.perf_counter()
    grid, surface, domains = every[0].grid, every[0].surface, every[0].domains
    stacked = torch.stack([d.coefficients for d in every])
    coefficients = stacked.mean(0)
    voxels = tuple(_at_most_mm(fixed.geometry, axis, grid.spacing_zyx[axis] / 4) for axis in range(3))
    own = tuple(
        np.arange(n) * s for n, s in zip(fixed.geometry.shape_zyx, fixed.geometry.spacing_xyz[::-1], strict=True)
    )
    inner, body = images.mask_at(voxels), images.fixed_mask[0, 0] > 0.5
    sliding: SlidingReport | None = None
    spline: BSplineTransform | DisplacementField
    if surface is not None and domains is not None:
        coefficients, folding = settle(
            coefficients, grid, surface, domains, coarse=voxels, coarse_body=inner, own=own, body=body, least=LEAST
        )
        spline, sliding = compose_field(coefficients, grid, surface, domains, own, body, fixed.geometry)
        folding = replace(
            folding,
            smallest=min(folding.smallest, sliding.smallest),
            folded_percent=max(folding.folded_percent, sliding.folded_percent),
        )
    else:
        coefficients, repaired = repair(coefficients, grid, voxels, inner, least=LEAST)
        final = measure(coefficients, grid, own, body)
        folding = replace(final, smallest=min(final.smallest, repaired.smallest), repaired=repaired.repaired)
        spline = _physical(coefficients, grid, fixed.geometry)
    if folding.smallest <= 0:
        raise RegistrationError(
            fixed.name or "registration",
            found=f"a field that folds in {folding.folded_percent:.2f} % of the body and can't be repaired",
            expected="a Jacobian determinant above 0",
            advice="use a preset with more bending energy or wider knots",
        )
    spread = None
    if len(every) > 1:
        spread = _spread(stacked, grid, own, fixed.geometry)
    result.seconds["guard"] = time.perf_counter() - started
    return replace(result, spline=spline, folding=folding, sliding=sliding, spread=spread)


def _at_most_mm(geometry: Geometry, axis: int, pitch: float) -> np.ndarray:
    """Positions along an axis of the fixed image, no further apart than `pitch` mm and no finer than its voxels."""
    extent = extent_zyx(geometry)[axis]
    own = geometry.spacing_xyz[2 - axis]
    return np.linspace(0, extent, max(2, int(np.ceil(extent / max(own, pitch))) + 1))


def _report_share(report: Callable[[str, float], None], number: int, count: int, share: float) -> None:
    report("deformable", (number + share) / count)


def _spread(every: torch.Tensor, grid: ControlGrid, own: tuple[np.ndarray, ...], geometry: Geometry) -> Volume:
    """Root mean squared distance of the presets' displacements from their mean, voxel by voxel, in mm."""
    from sctlab.registration.engine.bspline import evaluate

    bases = triple(grid.basis(a, own[a]).to(every) for a in range(3))
    deviation = every - every.mean(0)
    total = torch.stack([evaluate(d, bases).square().sum(0) for d in deviation]).sum(0)
    return Volume((total / len(every)).sqrt().cpu().numpy(), geometry, "spread_mm")


def _physical(coefficients: torch.Tensor, grid: ControlGrid, fixed: Geometry) -> BSplineTransform:
    """The spline with control points and coefficients in patient space (x, y, z; LPS)."""
    origin = np.array(fixed.origin_xyz) + fixed.axes @ np.array(grid.start_zyx[::-1])
    control = Geometry(grid.size_zyx[::-1], grid.spacing_zyx[::-1], tuple(origin), fixed.direction)
    along_axes = coefficients.flip(0).double().cpu().numpy()  # rows z, y, x → x, y, z
    return BSplineTransform(control, np.einsum("ij,jzyx->izyx", fixed.axes, along_axes))
