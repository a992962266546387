"""Signals of one registration: how sharp an optimum the solution is, and where in the body another place fits better.

They need no group, no start and no truth. Everything happens on one coarse isotropic grid, where a shift of the solution
is a shift of an array.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from sctlab.registration.judge.witnesses import Witness, witnesses
from sctlab.registration.pairs import Pair
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import Transform
from sctlab.transforms.field import displacement_field
from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import Geometry, Volume, resample, triple

FINEST_MM = 5.0
MOST_VOXELS = 150_000  # keeps the judge within seconds; the grid gets coarser instead
MARGIN_MM = 8.0  # around the body: the skin counts
SHIFT_MM, TURN_DEGREES = 20.0, 10.0
WINDOW_MM = 16.0  # standard deviation of the windows in which a better place is looked for
STEP_MM = 5.0
# Places that the search looks at, in steps: none, and along the 26 directions of a cube, as far as about 20 mm.
PLACES = (
    (0, 0, 0),
    *(
        tuple(far * d for d in direction)
        for direction in itertools.product((-1, 0, 1), repeat=3)
        if any(direction)
        for far in range(1, {1: 4, 2: 3, 3: 2}[sum(map(abs, direction))] + 1)
    ),
)
LEAST_VOXELS = 200
WORST_PERCENTILE = 99.5
CLEAR_GAIN = 1.4  # deviations of the agreement over the places
UNKNOWN_MM = -1.0  # of the map, where nothing tells


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say of one registration.

    Args:
        signals: By name, each larger when worse. `<witness> shift`, `turn` and `mirror` are the agreement of the
            perturbed solution as a share of the solution's own (1: no optimum); `<witness> elsewhere mm` is how far
            away windows fit better; `body gap mm` the mean distance between both bodies' surfaces.
        residual_mm: How far away each window of the body fits better, on a coarse grid; `UNKNOWN_MM` where nothing tells.
        left_out: Witnesses that stayed silent because the engine optimised them.
    """

    signals: dict[str, float]
    residual_mm: Volume | None = None
    left_out: tuple[str, ...] = field(default=())


def collect_evidence(pair: Pair, transform: Transform, optimised: frozenset[str] = frozenset()) -> Evidence:
    """Question every witness that may speak.

    Args:
        pair: The images.
        transform: From fixed points to moving points.
        optimised: Metrics that the registration optimised (`mutual information`, `mind`).

    Raises:
        InputError: Next to nothing of the body has data in both images.
    """
    grid = judge_grid(pair)
    spacing = grid.spacing_xyz[0]
    mapping = displacement_field(transform, grid)
    fixed = _display(
        resample(anti_aliased(pair.fixed, spacing), grid, interpolation="linear", outside=_low(pair.fixed))
    )
    moving = _display(
        apply_to_image(anti_aliased(pair.moving, spacing), mapping, grid, interpolation="linear", outside=pair.outside)
    )
    data = field_of_view(pair.moving.geometry, mapping, grid).array & _within(pair.fixed.geometry, grid)
    mask = resample(pair.fixed_mask, grid, interpolation="nearest").array > 0
    region = ndimage.distance_transform_edt(~mask) * spacing <= MARGIN_MM
    if (region & data).sum() < LEAST_VOXELS:
        raise InputError(
            pair.id, found="next to nothing of the body has data in both images", expected="images that overlap"
        )
    chosen = witnesses(optimised)
    speaking = {name: cls(fixed, moving, spacing) for name, cls in chosen.items()}
    signals: dict[str, float] = {"without data": 1 - float(data[mask].mean())}
    perturbed = _perturbed(moving, region, data, grid)
    maps = []
    for name, witness in speaking.items():
        signals |= {f"{name} {k}": v for k, v in _sharpness(witness, region, data, spacing).items()}
        own = witness.score((0, 0, 0), region & data)
        signals[f"{name} lost"] = 1 - own
        others = _against_perturbed(type(witness), fixed, perturbed, own, spacing)
        signals |= {f"{name} {k}": v for k, v in others.items()}
        signals[f"{name} slid"] = _slid(witness, region, data, grid)
        if witness.local:
            maps.append(_better_places(witness, region, data, spacing))
    residual, gain = _joined(maps, region & data, spacing)
    inside = np.isfinite(residual)
    values = residual[inside] if inside.any() else np.zeros(1)
    gains = gain[inside] if inside.any() else np.zeros(1)
    signals["elsewhere mean mm"] = float(values.mean())
    signals["elsewhere p95 mm"] = float(np.percentile(values, 95))
    signals["elsewhere gain"] = float(gains.mean())
    # An error in one place moves no percentile of the body: the one place where another fits best counts.
    signals["elsewhere worst gain"] = float(np.percentile(gains, WORST_PERCENTILE))
    signals["elsewhere worst mm"] = float(np.percentile(values * (gains > 0.5), WORST_PERCENTILE))
    signals["elsewhere contrast"] = signals["elsewhere worst gain"] - float(np.median(gains))
    signals["elsewhere cluster mm"] = _cluster(residual, gain, spacing)
    signals |= _bodies(pair, mapping, grid, data)
    silent = tuple(sorted(set(witnesses()) - set(chosen)))
    shown = np.where(np.isfinite(residual), residual, UNKNOWN_MM).astype(np.float32)
    return Evidence(signals, Volume(shown, grid), silent)


def judge_grid(pair: Pair) -> Geometry:
    """An isotropic grid over the fixed body with room for the perturbations around it."""
    index = np.argwhere(pair.fixed_mask.array > 0)
    geometry = pair.fixed.geometry
    own = np.array(geometry.spacing_xyz)
    low, high = index.min(0)[::-1] * own - MARGIN_MM, index.max(0)[::-1] * own + MARGIN_MM
    spacing = max(FINEST_MM, float((np.prod(high - low) / MOST_VOXELS) ** (1 / 3)))
    size = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 5)
    origin = np.array(geometry.origin_xyz) + geometry.axes @ ((low + high - (size - 1) * spacing) / 2)
    return Geometry(tuple(size), (spacing,) * 3, tuple(origin), geometry.direction)


def _sharpness(witness: Witness, region: np.ndarray, data: np.ndarray, spacing: float) -> dict[str, float]:
    """Agreement of the solution shifted by 20 mm as a share of its own: the mean and the largest of the six."""
    count = max(1, round(SHIFT_MM / spacing))
    ratios = []
    for axis, sign in itertools.product(range(3), (-1, 1)):
        shift = triple(sign * count if a == axis else 0 for a in range(3))
        common = region & data & _moved(data, shift)
        if common.sum() < LEAST_VOXELS:
            continue
        own = witness.score((0, 0, 0), common)
        ratios.append(witness.score(shift, common) / max(own, 1e-3))
    ratios = ratios or [1.0]
    return {"shift": float(np.clip(np.mean(ratios), 0, 2)), "worst shift": float(np.clip(max(ratios), 0, 2))}


@dataclass(frozen=True)
class _Perturbed:
    """The moving image under a solution that was turned or mirrored, and where it has data."""

    moving: np.ndarray
    common: np.ndarray


def _perturbed(
    moving: np.ndarray, region: np.ndarray, data: np.ndarray, grid: Geometry
) -> tuple[list[_Perturbed], list[_Perturbed]]:
    """The solution turned by 10° about each axis; and mirrored left to right, at five places along that axis."""
    centre = np.array(ndimage.center_of_mass(region & data))
    angle = np.radians(TURN_DEGREES)
    turns, mirrors = [], []
    for axis in range(3):
        a, b = (k for k in range(3) if k != axis)
        matrix = np.eye(3)
        matrix[a, a] = matrix[b, b] = np.cos(angle)
        matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
        turns.append(_mapped(moving, region, data, matrix, centre - matrix @ centre))
    left_right = _left_right(grid)
    flip = np.diag([-1.0 if a == left_right else 1.0 for a in range(3)])
    along = np.array([1.0 if a == left_right else 0.0 for a in range(3)]) * 8.0 / grid.spacing_xyz[0]
    for steps in (-2, -1, 0, 1, 2):
        mirrors.append(_mapped(moving, region, data, flip, centre - flip @ centre + steps * along))
    return turns, mirrors


def _mapped(
    moving: np.ndarray, region: np.ndarray, data: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> _Perturbed:
    turned = ndimage.affine_transform(moving, matrix, offset, order=1, mode="nearest")
    covered = ndimage.affine_transform(data.astype(np.float32), matrix, offset, order=1, mode="constant") > 0.5
    return _Perturbed(turned, region & data & covered)


def _against_perturbed(
    witness: type[Witness],
    fixed: np.ndarray,
    perturbed: tuple[list[_Perturbed], list[_Perturbed]],
    own: float,
    spacing: float,
) -> dict[str, float]:
    """Agreement of the turned solutions (mean) and of the mirrored ones (the best), as shares of the solution's own."""

    def score(other: _Perturbed) -> float:
        if other.common.sum() < LEAST_VOXELS:
            return 0.0
        return witness(fixed, other.moving, spacing).score((0, 0, 0), other.common)

    turns, mirrors = ([score(other) for other in group] for group in perturbed)
    return {
        "turn": float(np.clip(np.mean(turns) / max(own, 1e-3), 0, 2)),
        "mirror": float(np.clip(max(mirrors) / max(own, 1e-3), 0, 2)),
    }


def _slid(witness: Witness, region: np.ndarray, data: np.ndarray, grid: Geometry) -> float:
    """The best agreement of the solution slid to the places that the mirrored one is tried at, as a share of its own:
    what a mirrored image has to beat before it is more than a better place."""
    axis = _left_right(grid)
    ratios = []
    for steps in (-2, -1, 1, 2):
        count = round(steps * 8.0 / grid.spacing_xyz[0])
        shift = (count if axis == 0 else 0, count if axis == 1 else 0, count if axis == 2 else 0)
        common = region & data & _moved(data, shift)
        if common.sum() >= LEAST_VOXELS:
            ratios.append(witness.score(shift, common) / max(witness.score((0, 0, 0), common), 1e-3))
    return float(np.clip(max(ratios, default=1.0), 0, 2))


def _left_right(grid: Geometry) -> int:
    """The array's axis along the patient's left-right."""
    return 2 - int(np.argmax(np.abs(grid.axes[0])))


def _better_places(
    witness: Witness, region: np.ndarray, data: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Agreement in windows for every shift of the search, [shifts, z, y, x] at half the resolution, and its weight."""
    sigma = WINDOW_MM / spacing
    step = max(1, round(STEP_MM / spacing))
    thin = (slice(None, None, 2),) * 3
    scores, weights = [], []
    for place in PLACES:
        shift = (place[0] * step, place[1] * step, place[2] * step)
        agreement, weight = witness.maps(shift)
        counts = region & data & _moved(data, shift)
        weight = np.where(counts, weight, 0).astype(np.float32)
        smooth = ndimage.gaussian_filter(weight, sigma, mode="constant", truncate=2)[thin]
        local = ndimage.gaussian_filter(np.where(counts, agreement, 0).astype(np.float32), sigma, truncate=2)[thin]
        scores.append(local / np.maximum(smooth, 1e-6))
        weights.append(smooth)
    return np.stack(scores), np.stack(weights)


def _joined(
    maps: list[tuple[np.ndarray, np.ndarray]], region: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm to the place where each window fits best by all witnesses together, on the full grid; and the
    gain there, as multiples of the agreement's own spread over the places."""
    shifts = np.array(PLACES, dtype=np.float64)
    length = np.linalg.norm(shifts, axis=1) * max(1, round(STEP_MM / spacing)) * spacing
    total: np.ndarray | None = None
    enough = np.ones(1, bool)
    for scores, weights in maps:
        spread = scores.std(0, keepdims=True)
        own = weights[0]
        enough = enough & (own > 0.02) & (spread[0] > 1e-4)
        standard = (scores - scores.mean(0, keepdims=True)) / np.maximum(spread, 1e-4)
        # A shift whose window lost most of its data has no say.
        standard = np.where(weights > 0.5 * own[None], standard, -9.0)
        total = standard if total is None else total + standard
    if total is None:
        return np.full(region.shape, np.nan), np.zeros(region.shape)
    total = total / len(maps)
    # Where places can't be told apart the solution's own is the best guess.
    total = total - 0.02 * length[:, None, None, None]
    best = total.argmax(0)
    gain = np.take_along_axis(total, best[None], 0)[0] - total[0]
    found = np.where(enough, length[best], np.nan)
    thin = region[::2, ::2, ::2]
    found = np.where(thin, found, np.nan)
    return np.where(region, _doubled(found, region.shape), np.nan), _doubled(gain, region.shape)


def _cluster(residual: np.ndarray, gain: np.ndarray, spacing: float) -> float:
    """The edge in mm of a cube as large as the largest connected place that fits clearly better elsewhere."""
    with np.errstate(invalid="ignore"):
        better = (residual > 0) & (gain > CLEAR_GAIN)
    labels, count = ndimage.label(better)
    return float(np.bincount(labels.ravel())[1:].max() ** (1 / 3) * spacing) if count else 0.0


def _doubled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every voxel twice along every axis, cut to a shape."""
    return np.repeat(np.repeat(np.repeat(values, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in shape)]


def _bodies(pair: Pair, mapping: Transform, grid: Geometry, data: np.ndarray) -> dict[str, float]:
    """How far apart the surfaces of both bodies are in mm; nothing where a body isn't found or is the whole image."""
    kinds = [Task.MRI if name == "mr" else Task.CBCT for name in (pair.fixed_name, pair.moving_name)]
    try:
        fixed = body_mask(pair.fixed, kinds[0])
        moving = body_mask(pair.moving, kinds[1])
    except InputError:
        return {}
    if fixed.array.all() or moving.array.all():
        return {}
    a = resample(fixed, grid, interpolation="nearest").array > 0
    b = apply_to_labels(moving, mapping, grid).array > 0
    a, b = a & data, b & data
    surface = np.count_nonzero(a & ~ndimage.binary_erosion(a, border_value=1)) or 1
    gap = np.count_nonzero(a ^ b) / surface * grid.spacing_xyz[0]
    return {"body gap mm": float(min(gap, 100.0))}


def _moved(data: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """Where the shifted moving image has data; what a roll brings in from the other face has none."""
    moved = np.roll(data, tuple(-s for s in shift), axis=(0, 1, 2))
    for axis, s in enumerate(shift):
        if s:
            index = [slice(None)] * 3
            index[axis] = slice(-s, None) if s > 0 else slice(None, -s)
            moved[tuple(index)] = False
    return moved


def _display(volume: Volume) -> np.ndarray:
    """Values clipped to where tissues differ: HU to −300…500, others to their 99th percentile."""
    values = volume.array.astype(np.float32)
    if values.min() < -300:
        return np.clip(values, -300, 500) / 400
    high = float(np.percentile(values[values > values.min()], 99)) if (values > values.min()).any() else 1.0
    return np.clip(values, 0, high) / max(high, 1e-6) * 2


def _low(volume: Volume) -> float:
    return float(np.percentile(volume.array, 1))


def _within(geometry: Geometry, grid: Geometry) -> np.ndarray:
    """Where a grid's voxels lie inside an image."""
    ones = Volume(np.ones(geometry.shape_zyx, np.uint8), geometry)
    return resample(ones, grid, interpolation="nearest").array > 0
