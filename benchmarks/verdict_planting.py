"""Registrations with a known error, sound and wrong ones, as the judge sees them: the first step of `verdict.py`.

Planted: sound results (the truth with a smooth error), shifts, turns, mirrored images, another patient, half a field of
view with the other half's place, smooth and local errors of many sizes; and what the engine makes of wrong starts, which
are failures that have been optimised. Each is kept as the judge's view of it, so that new signals need no new registrations.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from exclusion import residual
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sctlab.registration.engine.register import register
from sctlab.registration.engine.settings import Level, Preset
from sctlab.registration.judge.view import Looker, View, nearest_rigid
from sctlab.registration.pairs import Pair, PairFiles, load_pair, make_pair
from sctlab.registration.settings import Convention
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import (
    AffineTransform,
    DisplacementField,
    EulerTransform,
    Transform,
    compose,
)
from sctlab.transforms.field import displacement_field, grid_points
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import find_cohort
from sctlab_model.errors import ProductError
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

# A short registration: enough to optimise a failure, in seconds.
SHORT = Preset(
    name="short",
    mutual_information=0.5,
    knots_mm=16.0,
    levels=(
        Level(voxel_mm=8.0, iterations=25, rate_mm=1.0, points=6000),
        Level(voxel_mm=4.0, iterations=30, rate_mm=0.6, points=8000),
    ),
)
SPACING_MM = 4.0  # of real CTs: a row takes seconds
VISIBLE_MM, INSIDE_MM, PLACE_MM = 12.0, 12.0, 8.0
Made = tuple[str, Pair, Transform]  # what was planted, the images, the solution
Plant = Callable[[Pair, Transform, np.random.Generator], Made]


def bump(grid: Geometry, centre: np.ndarray, length_mm: float, width_mm: float, rng: np.random.Generator) -> Transform:
    """An error in one place: a Gaussian around `centre`."""
    direction = rng.normal(size=3)
    direction *= length_mm / np.linalg.norm(direction)
    weight = np.exp(-(((grid_points(grid) - centre) / width_mm) ** 2).sum(-1) / 2)
    return DisplacementField(grid, np.stack([weight * d for d in direction]))


def visible_places(edges: np.ndarray, counted: np.ndarray, spacing_zyx: np.ndarray) -> np.ndarray:
    """Voxels [n, 3 (z, y, x)] of tissue edges with many others around them, inside the body and the field of view.

    An error where both images are smooth changes no image: nobody can see it, and nothing is spoilt by it.
    """
    sigma = VISIBLE_MM / spacing_zyx
    density = gaussian_filter(edges.astype(np.float32), sigma)
    inner = distance_transform_edt(np.pad(counted, 1), sampling=spacing_zyx)[1:-1, 1:-1, 1:-1] > INSIDE_MM
    possible = edges & inner if (edges & inner).sum() > 50 else edges
    return np.argwhere(possible & (density >= np.median(density[possible])))


def worst_place_mm(error: np.ndarray, edges: np.ndarray, spacing_zyx: np.ndarray) -> float:
    """The largest mean error over the tissue edges of one place: a Gaussian window of 8 mm with enough edges in it."""
    sigma = PLACE_MM / spacing_zyx
    weight = gaussian_filter(edges.astype(np.float32), sigma)
    mean = gaussian_filter(np.where(edges, error, 0).astype(np.float32), sigma) / np.maximum(weight, 1e-6)
    counts = edges & (weight >= np.percentile(weight[edges], 25))
    return float(mean[counts].max())


def flipped(pair: Pair, axis: int) -> Pair:
    """The pair with its moving image mirrored along an axis of its array."""
    mirrored = pair.moving.with_array(np.ascontiguousarray(np.flip(pair.moving.array, axis)))
    return replace(pair, moving=mirrored, moving_labels=None)


def slices(volume: Volume, first: int, count: int) -> Volume:
    """A part of the slices."""
    grid = volume.geometry.cropped((0, 0, first), (*volume.geometry.size_xyz[:2], count))
    return Volume(np.ascontiguousarray(volume.array[first : first + count]), grid)


def _turned(degrees: float) -> Plant:
    def plant(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
        angles = np.radians(degrees) * np.eye(3)[rng.integers(3)]
        turn = EulerTransform(tuple(angles), centre_xyz=tuple(pair.fixed.geometry.centre_xyz))
        return f"turned by {degrees:g}°", pair, compose(turn, truth)

    return plant


def _mirrored(axis: int) -> Plant:
    def plant(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
        return f"mirrored {('head-feet', 'front-back', 'left-right')[axis]}", flipped(pair, axis), truth

    return plant


def _shifted(low: float, high: float) -> Plant:
    def plant(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
        direction = rng.normal(size=3) * (1, 1, 0.7)
        shift = rng.uniform(low, high) * direction / np.linalg.norm(direction)
        return f"shifted {low:g}-{high:g}", pair, compose(AffineTransform(np.eye(3), tuple(shift)), truth)

    return plant


def _scaled(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
    scale = AffineTransform(1.2 * np.eye(3), centre_xyz=tuple(pair.fixed.geometry.centre_xyz))
    return "scaled by 1.2", pair, compose(scale, truth)


def _half(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
    count = len(pair.moving.array) // 2
    upper = slices(pair.moving, len(pair.moving.array) - count, count)
    return "half the field of view away", replace(pair, moving=Volume(upper.array, slices(pair.moving, 0, count).geometry), moving_labels=None), truth  # fmt: skip


PLANTED: tuple[Plant, ...] = (_mirrored(2), _turned(45.0), _shifted(30.0, 60.0), _mirrored(0), _turned(90.0), _scaled,
                              _mirrored(1), _turned(180.0), _half, _shifted(60.0, 150.0))  # fmt: skip


def optimised(pair: Pair, start: Transform) -> tuple[Pair, Transform]:
    """What a short registration makes of a start."""
    initial = start if isinstance(start, EulerTransform) else EulerTransform((0.0, 0.0, 0.0))
    preset = SHORT.changed(discrete=None)
    result = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, preset=preset, initial=initial, device="cpu")
    return pair, result.transform


def _feet_first(pair: Pair, truth: Transform, rng: np.random.Generator) -> Made:
    """A header that says head first of a patient who lay feet first: turned by 180° about front-back."""
    return "feet first", flipped(flipped(pair, 0), 2), truth


IN_TURN: tuple[Plant, ...] = (*PLANTED, _feet_first)


def varied(
    pair: Pair, truth: Transform, places: np.ndarray, others: list[Pair], rng: np.random.Generator, number: int
) -> Iterator[Made]:
    """Sound registrations and failures of one case, of every kind that is told apart; some kinds in turn.

    Args:
        pair, truth: The case.
        places: Of `visible_places`.
        others: Other patients.
        rng: Of what is planted.
        number: Of the case.
    """
    grid = pair.fixed.geometry.resized((6.0, 6.0, 6.0))
    still = AffineTransform(np.eye(3))

    def smooth(low: float, high: float, widest: float = 60.0) -> Transform:
        return compose(residual(grid, rng.uniform(low, high), rng.uniform(30, widest), rng), truth)

    yield "sound", pair, smooth(0.3, 1.2)
    yield "sound", pair, smooth(1.2, 2.5)
    yield "sound, engine", *optimised(pair, still)
    if number % 3 == 0:
        part = slices(pair.moving, 0, round(0.65 * len(pair.moving.array)))
        yield "sound, part of the CT", replace(pair, moving=part, moving_labels=None), smooth(0.3, 2.0)
    yield "smooth 2.5-12", pair, smooth(2.5, 12.0, 90.0)
    for _ in range(2):
        place = pair.fixed.geometry.to_physical(places[rng.integers(len(places))][::-1])
        error = bump(grid, place, rng.uniform(4, 28), rng.uniform(18, 35), rng)
        yield "local 3-25", pair, compose(error, residual(grid, rng.uniform(0.3, 1.5), 40.0, rng), truth)
    if number % 2:
        yield "shifted 8-20", *_shifted(8.0, 20.0)(pair, truth, rng)[1:]
    else:
        angles = np.radians(rng.uniform(8, 25)) * np.eye(3)[rng.integers(3)]
        turn = EulerTransform(tuple(angles), centre_xyz=tuple(pair.fixed.geometry.centre_xyz))
        yield "turned 8-25", pair, compose(turn, truth)
    for k in range(3):
        yield IN_TURN[(3 * number + k) % len(IN_TURN)](pair, truth, rng)
    alike = [o for o in others if o.region == pair.region] or others
    other = (alike if number % 3 else others)[int(rng.integers(len(alike if number % 3 else others)))]
    across = AffineTransform(np.eye(3), tuple(other.moving.geometry.centre_xyz - pair.moving.geometry.centre_xyz))
    changed = replace(pair, moving=other.moving, moving_labels=None)
    name = "other patient" if other.region == pair.region else "other region"
    yield name, changed, compose(truth, across)
    fitted = (
        (f"{name}, fitted", changed, EulerTransform((0.0, 0.0, 0.0), across.translation_xyz)),
        ("mirrored left-right, fitted", flipped(pair, 2), still),
        ("mirrored head-feet, fitted", flipped(pair, 0), still),
        ("mirrored left-right, fitted", flipped(pair, 2), still),
        ("feet first, fitted", flipped(flipped(pair, 0), 2), still),
        ("mirrored front-back, fitted", flipped(pair, 1), still),
    )
    what, wrong, start = fitted[number % len(fitted)]
    yield what, *optimised(wrong, start)


def simulated(root: Path) -> Iterator[tuple[Pair, Transform, Pair | None]]:
    """Cases of a simulated cohort with their truth, and another patient of the same region."""
    cases = [c for c in find_cohort(root) if c.target is not None]
    for case in cases:
        mates = [c for c in cases if (c.task, c.region) == (case.task, case.region)]
        mate = mates[(mates.index(case) + 1) % len(mates)]
        pair = load_pair(PairFiles.of(case), Convention.CT_TO_SOURCE)
        other = load_pair(PairFiles.of(mate), Convention.CT_TO_SOURCE) if mate is not case else None
        yield pair, read_itk(case.folder / "truth" / "deformation.h5"), other


def real(data: Path, names: Sequence[str], seed: int) -> Iterator[tuple[Pair, Transform, Pair | None]]:
    """Real CTs with MR-like and CBCT-like images of another model and smoothed noise as truth."""
    import registration_pairs as real_cts

    pairs = []
    for name in names:
        ct = real_cts.load_ct(name, data)
        ct = resample(ct, ct.geometry.resized((SPACING_MM,) * 3), interpolation="linear", outside=AIR_HU)
        for modality in real_cts.MODALITIES:
            made = real_cts.make_pair(name, ct, modality, seed)
            grid = made.fixed.geometry
            pair = make_pair(
                made.fixed, made.moving, task=made.task, region=made.region, case_id=made.name, mask=made.fixed_mask
            )
            pairs.append((pair, DisplacementField(grid, made.truth.astype(np.float64))))
    for number, (pair, truth) in enumerate(pairs):
        yield pair, truth, pairs[(number + 2) % len(pairs)][0] if len(names) > 1 else None


@dataclass(frozen=True)
class Planted:
    """One registration with its truth, as the judge sees it.

    Args:
        case: Its name; the seed of what was planted belongs to it.
        task, kind: What the source is, what was planted.
        view: What the judge looks at.
        error_mm: Mean error over the body; None where no transform would be right.
        worst_mm: Of `worst_place_mm`.
        error: Error in mm at the view's voxels [z, y, x]; None as above.
        unbent: The view under the nearest rigid motion; None of views that were kept without, and where nothing is in common.
        share: Of the fixed body in which the moving image has data.
    """

    case: str
    task: str
    kind: str
    view: View
    error_mm: float | None
    worst_mm: float | None
    error: np.ndarray | None
    unbent: View | None = None
    share: float = 1.0

    def keep(self, path: Path) -> None:
        """Write it to a `.npz`."""
        grid = self.view.grid
        facts = {
            "case": self.case,
            "task": self.task,
            "kind": self.kind,
            "error_mm": self.error_mm,
            "worst_mm": self.worst_mm,
            "body_gap_mm": self.view.body_gap_mm,
            "share": self.share,
            "grid": [grid.size_xyz, grid.spacing_xyz, grid.origin_xyz, grid.direction],
        }
        arrays = {k: getattr(self.view, k) for k in ("fixed", "data", "mask", "region")}
        error = np.zeros(0) if self.error is None else self.error
        if self.unbent is not None:
            arrays |= {"unbent": self.unbent.moving.astype(np.float16), "unbent_data": self.unbent.data}
        np.savez_compressed(path, facts=json.dumps(facts), moving=self.view.moving.astype(np.float16),
                 error=error.astype(np.float16), **arrays)  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Planted:
        """What `keep` wrote."""
        with np.load(path) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {k: file[k] for k in ("fixed", "data", "mask", "region")}
            moving, error = file["moving"].astype(np.float32), file["error"].astype(np.float32)
            unbent = (file["unbent"], file["unbent_data"]) if "unbent" in file else None
        grid = Geometry(*(tuple(v) for v in facts.pop("grid")))
        view = View(**arrays, moving=moving, grid=grid, body_gap_mm=facts.pop("body_gap_mm"))
        bare = replace(view, moving=unbent[0].astype(np.float32), data=unbent[1]) if unbent else None
        return cls(**facts, view=view, error=error if error.size else None, unbent=bare)


def plant(source: Iterator[tuple[Pair, Transform, Pair | None]], seed: int, views: Path, suffix: str = "") -> None:
    """Keep every variant of every case in a folder; cases that are there are kept.

    Args:
        source: Of `simulated` or `real`.
        seed: Of what is planted.
        views: The folder.
        suffix: Behind the case's name: cohorts of other seeds have the same ids.
    """
    views.mkdir(parents=True, exist_ok=True)
    cases = [(pair, truth) for pair, truth, _ in source]
    # In an order of its own: an interrupted run has cases of every kind.
    for number, at in enumerate(np.random.default_rng(seed).permutation(len(cases))):
        pair, truth = cases[at]
        name = pair.id + suffix
        stem = name.replace("/", "_")
        done = views / f"{stem}.done"
        if done.is_file():
            continue
        others = [p for p, _ in cases if patient(p.id) != patient(pair.id)]
        rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
        grid = pair.fixed.geometry
        field = displacement_field(truth, grid)
        aligned = apply_to_image(pair.moving, field, grid, interpolation="linear", outside=pair.outside)
        counted = pair.fixed_mask.array & field_of_view(pair.moving.geometry, field, grid).array
        edges = tissue_edges(aligned, counted)
        spacing_zyx = np.array(grid.spacing_xyz[::-1])
        places = visible_places(edges, counted, spacing_zyx)
        looker = Looker(pair)
        count = 0
        for kind, changed, transform in varied(pair, truth, places, others, rng, number):
            if looker.pair.moving is not changed.moving:
                looker = Looker(changed)
            try:
                view = looker.look(transform)
                unbent = looker.look(nearest_rigid(transform, grid))
            except ProductError as error:
                print(f"{pair.id} {kind}: {error}")
                continue
            mean = worst = local = None
            if changed is pair or kind.startswith("sound"):
                error = np.sqrt(((displacement_field(transform, grid).vectors - field.vectors) ** 2).sum(0))
                mean, worst = float(error[counted].mean()), worst_place_mm(error, edges, spacing_zyx)
                local = resample(Volume(error.astype(np.float32), grid), view.grid, interpolation="linear").array
            data = field_of_view(changed.moving.geometry, transform, grid).array
            share = float(data[pair.fixed_mask.array > 0].mean())
            planted = Planted(name, str(pair.task), kind, view, mean, worst, local, unbent, share)
            planted.keep(views / f"{stem}_{count:02d}.npz")
            count += 1
        done.touch()
        print(f"{name}: {count} registrations", flush=True)


def patient(case: str) -> str:
    """Whose images a case's are: a real CT's name, or a simulated case."""
    return case.split("/")[0]
