"""Registrations with a known error, sound and wrong ones, as the judge sees them: the first step of `verdict.py`.

Planted: sound results (the truth with a smooth error), shifts, turns, mirrored images, another patient, half a field of
view with the other half's place, smooth and local errors of many sizes; and what the engine makes of wrong starts, which
are failures that have been optimised. Each is kept as the judge's view of it, so that new signals need no new registrations.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from exclusion import residual
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sctlab.registration.engine.register import register
from sctlab.registration.engine.settings import Level, Preset
from sctlab.registration.judge.view import Looker, View
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


def variants(
    pair: Pair, truth: Transform, places: np.ndarray, other: Pair | None, rng: np.random.Generator
) -> Iterator[tuple[str, Pair, Transform]]:
    """Name, pair and transform of sound registrations and failures of one case."""
    grid = pair.fixed.geometry.resized((6.0, 6.0, 6.0))
    centre = tuple(pair.fixed.geometry.centre_xyz)
    still = AffineTransform(np.eye(3))

    def shifted(mm: float) -> Transform:
        direction = rng.normal(size=3) * (1, 1, 0.5)
        return AffineTransform(np.eye(3), tuple(mm * direction / np.linalg.norm(direction)))

    def turned(degrees: float, axis: int | None = None) -> EulerTransform:
        vector = rng.normal(size=3) if axis is None else np.eye(3)[axis]
        return EulerTransform(tuple(np.radians(degrees) * vector / np.linalg.norm(vector)), centre_xyz=centre)

    for low, high in ((0.3, 1.2), (1.2, 2.5)):
        yield "sound", pair, compose(residual(grid, rng.uniform(low, high), rng.uniform(30, 60), rng), truth)
    yield "smooth 5-12", pair, compose(residual(grid, rng.uniform(5, 12), rng.uniform(60, 90), rng), truth)
    yield "shifted 8-20", pair, compose(shifted(rng.uniform(8, 20)), truth)
    yield "shifted 30+", pair, compose(shifted(rng.uniform(30, 80)), truth)
    yield "turned 8-25", pair, compose(turned(rng.uniform(8, 25)), truth)
    yield "turned 45+", pair, compose(turned(float(rng.choice([45, 90, 120, 180])), int(rng.integers(3))), truth)
    for low, high in ((10, 20), (10, 20), (20, 30)):
        place = pair.fixed.geometry.to_physical(places[rng.integers(len(places))][::-1])
        # The window's mean is below the peak, so the peak starts above the smallest error that counts.
        error = bump(grid, place, rng.uniform(low + 2, high + 2), rng.uniform(20, 35), rng)
        yield f"local {low}-{high}", pair, compose(error, residual(grid, rng.uniform(0.3, 1.2), 40.0, rng), truth)
    mirrored = flipped(pair, 2 if rng.random() < 0.7 else int(rng.integers(0, 3)))
    yield "mirrored", mirrored, truth
    half = pair.moving.array.shape[0] // 2
    if half >= 8:
        part = pair.moving.geometry.cropped((0, 0, 0), (*pair.moving.geometry.size_xyz[:2], half))
        wrong = Volume(np.ascontiguousarray(pair.moving.array[-half:]), part)  # the upper half in the lower one's place
        yield "half", replace(pair, moving=wrong, moving_labels=None), truth
    yield "sound, engine", *optimised(pair, still)
    failures = [("mirrored", flipped(pair, 2), still), ("turned 45+", pair, turned(90.0, int(rng.integers(3))))]
    if other is not None:
        across = AffineTransform(np.eye(3), tuple(other.moving.geometry.centre_xyz - pair.moving.geometry.centre_xyz))
        changed = replace(pair, moving=other.moving, moving_labels=None)
        yield "other patient", changed, compose(truth, across)
        failures.append(("other patient", changed, EulerTransform((0.0, 0.0, 0.0), across.translation_xyz)))
    name, wrong_pair, start = failures[rng.integers(len(failures))]
    yield name, *optimised(wrong_pair, start)


def flipped(pair: Pair, axis: int) -> Pair:
    """The pair with its moving image mirrored along an axis of its array."""
    mirrored = pair.moving.with_array(np.ascontiguousarray(np.flip(pair.moving.array, axis)))
    return replace(pair, moving=mirrored, moving_labels=None)


def optimised(pair: Pair, start: Transform) -> tuple[Pair, Transform]:
    """What a short registration makes of a start."""
    initial = start if isinstance(start, EulerTransform) else EulerTransform((0.0, 0.0, 0.0))
    preset = SHORT.changed(discrete=None)
    result = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, preset=preset, initial=initial, device="cpu")
    return pair, result.transform


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
    """

    case: str
    task: str
    kind: str
    view: View
    error_mm: float | None
    worst_mm: float | None
    error: np.ndarray | None

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
            "grid": [grid.size_xyz, grid.spacing_xyz, grid.origin_xyz, grid.direction],
        }
        arrays = {k: getattr(self.view, k) for k in ("fixed", "data", "mask", "region")}
        error = np.zeros(0) if self.error is None else self.error
        np.savez(path, facts=json.dumps(facts), moving=self.view.moving.astype(np.float16),
                 error=error.astype(np.float16), **arrays)  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Planted:
        """What `keep` wrote."""
        with np.load(path) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {k: file[k] for k in ("fixed", "data", "mask", "region")}
            moving, error = file["moving"].astype(np.float32), file["error"].astype(np.float32)
        grid = Geometry(*(tuple(v) for v in facts.pop("grid")))
        view = View(**arrays, moving=moving, grid=grid, body_gap_mm=facts.pop("body_gap_mm"))
        return cls(**facts, view=view, error=error if error.size else None)


def plant(source: Iterator[tuple[Pair, Transform, Pair | None]], seed: int, views: Path, suffix: str = "") -> None:
    """Keep every variant of every case in a folder; cases that are there are kept.

    Args:
        source: Of `simulated` or `real`.
        seed: Of what is planted.
        views: The folder.
        suffix: Behind the case's name: cohorts of other seeds have the same ids.
    """
    views.mkdir(parents=True, exist_ok=True)
    for pair, truth, other in source:
        name = pair.id + suffix
        stem = name.replace("/", "_")
        done = views / f"{stem}.done"
        if done.is_file():
            continue
        rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
        grid = pair.fixed.geometry
        field = displacement_field(truth, grid)
        aligned = apply_to_image(pair.moving, field, grid, interpolation="linear", outside=pair.outside)
        counted = pair.fixed_mask.array & field_of_view(pair.moving.geometry, field, grid).array
        edges = tissue_edges(aligned, counted)
        spacing_zyx = np.array(grid.spacing_xyz[::-1])
        places = visible_places(edges, counted, spacing_zyx)
        lookers: list[Looker] = []
        count = 0
        for kind, changed, transform in variants(pair, truth, places, other, rng):
            looker = next((k for k in lookers if k.pair.moving is changed.moving), None)
            if looker is None:
                looker = Looker(changed)
                lookers.append(looker)
            try:
                view = looker.look(transform)
            except ProductError as error:
                print(f"{pair.id} {kind}: {error}")
                continue
            mean = worst = local = None
            if kind not in ("mirrored", "other patient", "half"):
                error = np.sqrt(((displacement_field(transform, grid).vectors - field.vectors) ** 2).sum(0))
                mean, worst = float(error[counted].mean()), worst_place_mm(error, edges, spacing_zyx)
                local = resample(Volume(error.astype(np.float32), grid), view.grid, interpolation="linear").array
            Planted(name, str(pair.task), kind, view, mean, worst, local).keep(views / f"{stem}_{count:02d}.npz")
            count += 1
        done.touch()
        print(f"{name}: {count} registrations", flush=True)
