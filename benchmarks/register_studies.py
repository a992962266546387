"""What docs/registration.md says of the engine beside the benchmark's table: a study each, on pairs with known truth.

    python benchmarks/register_studies.py rigid|breathing|presets|size|spread [--data ../shared/data]
    python benchmarks/register_studies.py presets --cohort COHORT     # on a cohort of `sctlab simulate`

Pairs are of seeds that `register.py`'s table doesn't use (10, 11; breathing 20, 21). One line a pair, then means.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from registration_pairs import CASES, MODALITIES, Pair, errors, load_ct, make_pair, simulated_pairs
from scipy.stats import spearmanr

from sctlab.registration.engine.register import EngineResult, register
from sctlab.registration.engine.settings import Level, Preset
from sctlab.registration.presets import PRESETS, default_preset
from sctlab.transforms.data import EulerTransform
from sctlab_model.volume import Geometry, Volume, resample

SEEDS = (10, 11)
ERRORS = ("body_mm", "edges_mm", "p95_mm", "smallest_determinant")

# Ways to the presets: the first is what the engine began with.
_MIND = PRESETS["mind"]
_COARSE = (
    Level(voxel_mm=8.0, iterations=80, rate_mm=1.0),
    Level(voxel_mm=4.0, iterations=80, rate_mm=0.6),
    Level(voxel_mm=3.0, iterations=80, rate_mm=0.4),
)
VARIANTS: dict[str, Preset] = {
    "3 mm, knots 10 mm, bending 1": _MIND.changed(levels=_COARSE, knots_mm=10.0, bending=1.0),
    "2 mm, knots 12 mm, bending 2 (mind)": _MIND,
    "… and mutual information 0.3": _MIND.changed(mutual_information=0.3),
    "… and mutual information 0.5": _MIND.changed(mutual_information=0.5),
    "… and bending 4": _MIND.changed(mutual_information=0.5, bending=4.0),
}


def real_pairs(
    options: argparse.Namespace, cases: tuple[str, ...] = tuple(CASES), **keywords: object
) -> Iterator[Pair]:
    """Pairs of the CTs, both modalities."""
    for case in cases:
        ct = load_ct(case, Path(options.data))
        for modality in MODALITIES:
            for seed in keywords.get("seeds", SEEDS):
                yield make_pair(case, ct, modality, seed, breathing_mm=keywords.get("breathing_mm"))


def timed(pair: Pair, preset: Preset | tuple[Preset, ...], **keywords: object) -> tuple[EngineResult, dict[str, float]]:
    """A registration, its errors and its processor seconds."""
    started = time.process_time()
    found = register(pair.fixed, pair.moving, fixed_mask=pair.fixed_mask, preset=preset, **keywords)
    seconds = time.process_time() - started
    measured = errors(pair, found.displacement_mm(pair.fixed.geometry))
    return found, {k: measured[k] for k in ERRORS} | {"processor_s": seconds}


def own_preset(pair: Pair) -> Preset:
    """The preset that the command takes."""
    return PRESETS[default_preset(pair.task, pair.region)]


class Means:
    """Prints a line and keeps its numbers for the means at the end."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, float]]] = defaultdict(list)

    def add(self, pair: Pair, label: str, values: dict[str, float]) -> None:
        """A line now; a mean over all pairs of a modality later."""
        self.rows[f"{pair.task.source_name}: {label}"].append(values)
        print(f"{pair.name} | {label} | " + " ".join(f"{k} {v:.2f}" for k, v in values.items()), flush=True)

    def show(self) -> None:
        """Mean of every number, and the worst of those that have a bad side."""
        for label, rows in self.rows.items():
            mean = {k: np.mean([r[k] for r in rows]) for k in rows[0]}
            print(f"MEAN of {len(rows)} | {label} | " + " ".join(f"{k} {v:.2f}" for k, v in mean.items()))


def rigid(options: argparse.Namespace) -> None:
    """The rigid start against the best rigid motion, the CT as it is and twice turned by 8° and shifted by 40 mm."""
    means = Means()
    for pair in real_pairs(options):
        index = np.argwhere(pair.body)[::31]
        points = pair.fixed.geometry.to_physical(index[:, ::-1].astype(float))
        moved = points + pair.truth[:, index[:, 0], index[:, 1], index[:, 2]].T
        best = float(np.linalg.norm(best_rigid(points, moved) - moved, axis=1).mean())
        for turned in range(3):
            moving, target = pair.moving, moved
            if turned:
                moving, target = elsewhere(pair.moving, moved, np.random.default_rng(turned))
            started = time.process_time()
            found = register(pair.fixed, moving, fixed_mask=pair.fixed_mask, preset=PRESETS["rigid"])
            seconds = time.process_time() - started
            error = float(np.linalg.norm(found.rigid(points) - target, axis=1).mean())
            means.add(pair, f"turned {turned}", {"mm": error, "beyond_best_mm": error - best, "processor_s": seconds})
    means.show()
    print("largest beyond the best", max(r["beyond_best_mm"] for rows in means.rows.values() for r in rows))


def best_rigid(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Points [N, 3] under the rigid motion nearest to a known one (Kabsch, Acta Crystallographica A32, 1976)."""
    a, b = points - points.mean(0), moved - moved.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = np.diag([1, 1, np.linalg.det(vt.T @ u.T)])
    return a @ (vt.T @ turn @ u.T).T + moved.mean(0)


def elsewhere(moving: Volume, moved: np.ndarray, random: np.random.Generator) -> tuple[Volume, np.ndarray]:
    """The image turned by up to 8° and shifted by up to 40 mm an axis (its geometry alone), and where points go."""
    grid = moving.geometry
    motion = EulerTransform(
        tuple(np.radians(random.uniform(-8, 8, 3))), tuple(random.uniform(-40, 40, 3)), tuple(grid.centre_xyz)
    ).affine()
    origin = motion.matrix @ np.array(grid.origin_xyz) + motion.offset
    direction = tuple((motion.matrix @ grid.axes).ravel())
    turned = Volume(moving.array, Geometry(grid.size_xyz, grid.spacing_xyz, tuple(origin), direction), moving.name)
    return turned, moved @ motion.matrix.T + motion.offset


def breathing(options: argparse.Namespace) -> None:
    """30 mm of breathing, with and without the coarse search."""
    means = Means()
    for pair in real_pairs(options, ("abdomen", "thorax-crop", "lung-crop"), seeds=(20, 21), breathing_mm=30.0):
        preset = own_preset(pair)
        start, values = timed(pair, PRESETS["rigid"])
        means.add(pair, "rigid", values | {"largest_mm": float(np.sqrt((pair.truth**2).sum(0))[pair.body].max())})
        for label, chosen in (("with search", preset), ("without search", preset.changed(discrete=None))):
            means.add(pair, label, timed(pair, chosen, initial=start.rigid)[1])
    means.show()


def presets(options: argparse.Namespace) -> None:
    """The settings that were chosen between, from one rigid start."""
    means = Means()
    for pair in simulated_pairs(Path(options.cohort)) if options.cohort else real_pairs(options):
        start, values = timed(pair, PRESETS["rigid"])
        means.add(pair, "rigid", values)
        for label, preset in VARIANTS.items():
            means.add(pair, label, timed(pair, preset, initial=start.rigid)[1])
    means.show()


def size(options: argparse.Namespace) -> None:
    """One pair at SynthRAD's voxels: time and memory."""
    pair = make_pair("abdomen", load_ct("abdomen", Path(options.data)), "mr", 10)
    fine = [resample(v, v.geometry.resized((1.0, 1.0, 3.0)), interpolation="linear") for v in (pair.fixed, pair.moving)]
    mask = pair.fixed_mask.with_array(pair.fixed_mask.array.astype(np.uint8))
    mask = resample(mask, mask.geometry.resized((1.0, 1.0, 3.0)), interpolation="nearest")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.process_time()
    found = register(*fine, fixed_mask=mask, preset=own_preset(pair))
    seconds, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    values = errors(pair, found.displacement_mm(pair.fixed.geometry))
    Means().add(
        pair,
        "x".join(map(str, fine[0].geometry.size_xyz)),
        {k: values[k] for k in ERRORS} | {"processor_s": seconds, "peak_gb": peak, "of_them_before_gb": before},
    )


def spread(options: argparse.Namespace) -> None:
    """Whether the spread of several presets tells where the error is."""
    means = Means()
    for pair in real_pairs(options, ("abdomen", "head", "thorax-crop"), seeds=SEEDS[:1]):
        found, values = timed(pair, (own_preset(pair), PRESETS["mi"], PRESETS["mind"]))
        field = found.displacement_mm(pair.fixed.geometry)
        error = np.sqrt(((field - pair.truth) ** 2).sum(0))[pair.body]
        deviation = found.spread.array[pair.body]
        limits = np.quantile(deviation, [0, 0.25, 0.5, 0.75, 1])
        quarters = {
            f"quarter_{n + 1}_mm": float(error[(deviation >= limits[n]) & (deviation <= limits[n + 1])].mean())
            for n in range(4)
        }
        means.add(pair, "spread", values | {"spearman": float(spearmanr(deviation, error)[0])} | quarters)
    means.show()


def main() -> None:
    """Command line."""
    studies = {f.__name__: f for f in (rigid, breathing, presets, size, spread)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--data", default=str(Path(__file__).parent.parent.parent / "shared" / "data"))
    parser.add_argument("--cohort", help="simulated pairs instead of the CTs (presets)")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    studies[options.study](options)


if __name__ == "__main__":
    main()
