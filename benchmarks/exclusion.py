"""Choose and judge the exclusion rule on simulated cohorts with planted failures.

Every simulated case gives sound registrations (its truth with a smooth residual error, as large as the methods
leave) and failures (what a reader would throw out). The limits are chosen on half of the cases and judged on the
other half, on many random cohorts with the share of failures that the published study excluded by hand (101 of 578
and 50 of 955 pairs, 10 % together; here 15 %).

    sctlab simulate COHORT --task mri  --cases 4 --spacing 4,4,4 --seed 11
    sctlab simulate COHORT --task cbct --cases 4 --spacing 4,4,4 --seed 12
    python benchmarks/exclusion.py COHORT --out benchmarks/exclusion.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from sctlab.registration.exclusion import DEFAULT_RULE, Rule, judge, signals
from sctlab.registration.pairs import Pair, PairFiles, load_pair
from sctlab.registration.quality import measure, measure_grid
from sctlab.registration.settings import Convention
from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    EulerTransform,
    Transform,
    compose,
)
from sctlab.transforms.field import grid_points
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import Region, find_cohort
from sctlab_model.errors import ProductError
from sctlab_model.io.atomic import write_json
from sctlab_model.volume import Geometry

SOUND_MM = (0.7, 1.5, 2.5)  # mean error of a sound registration
FAILURE_SHARE = 0.15
COHORTS = 200


def residual(grid: Geometry, mean_mm: float, knot_mm: float, rng: np.random.Generator) -> BSplineTransform:
    """A smooth random error with a mean length over the grid."""
    extent = np.array(grid.size_xyz) * np.array(grid.spacing_xyz)
    size = np.ceil(extent / knot_mm).astype(int) + 4
    start = grid.centre_xyz - grid.axes @ ((size - 1) * knot_mm / 2)
    knots = Geometry(tuple(size), (knot_mm,) * 3, tuple(start), grid.direction)
    transform = BSplineTransform(knots, rng.normal(size=(3, *knots.shape_zyx)))
    length = np.sqrt((transform.displacement(grid) ** 2).sum(0)).mean()
    return replace(transform, coefficients=transform.coefficients * mean_mm / length)


def bump(grid: Geometry, centre: np.ndarray, length_mm: float, rng: np.random.Generator) -> DisplacementField:
    """An error in one place: a Gaussian of 30 mm around `centre`."""
    direction = rng.normal(size=3)
    direction *= length_mm / np.linalg.norm(direction)
    weight = np.exp(-(((grid_points(grid) - centre) / 30.0) ** 2).sum(-1) / 2)
    return DisplacementField(grid, np.stack([weight * d for d in direction]))


def variants(
    pair: Pair, truth: Transform, other: Pair | None, rng: np.random.Generator
) -> Iterator[tuple[str, Pair, Transform]]:
    """Sound registrations and failures of one case: name, pair, transform."""
    grid = measure_grid(pair)
    centre = tuple(grid.centre_xyz)
    body = np.argwhere(pair.fixed_mask.array)[:, ::-1]
    inside = pair.fixed.geometry.to_physical(body[rng.integers(len(body))])
    for mean_mm in SOUND_MM:
        yield f"sound {mean_mm} mm", pair, compose(residual(grid, mean_mm, 40.0, rng), truth)
    direction = rng.normal(size=3)
    shift = AffineTransform(np.eye(3), tuple(12 * direction / np.linalg.norm(direction)))
    yield "shifted 12 mm", pair, compose(shift, truth)
    angles = rng.normal(size=3)
    yield (
        "rotated 8 degrees",
        pair,
        compose(EulerTransform(tuple(np.radians(8) * angles / np.linalg.norm(angles)), centre_xyz=centre), truth),
    )
    yield "poor, 7 mm", pair, compose(residual(grid, 7.0, 60.0, rng), truth)
    yield "one place, 20 mm", pair, compose(bump(grid, inside, 20.0, rng), truth)
    yield "folded", pair, compose(residual(grid, 7.0, 16.0, rng), truth)
    yield "left as it was", pair, AffineTransform(np.eye(3))
    mirrored = pair.moving.with_array(np.ascontiguousarray(pair.moving.array[:, :, ::-1]))
    yield "mirrored CT", replace(pair, moving=mirrored, moving_labels=None), truth
    if other is not None:
        to_other = other.moving.geometry.centre_xyz - pair.moving.geometry.centre_xyz
        yield (
            "another patient's CT",
            replace(pair, moving=other.moving, moving_labels=None),
            compose(truth, AffineTransform(np.eye(3), tuple(to_other))),
        )


def collect(root: Path, seed: int, region: Region | None = None) -> list[dict]:
    """Signals of every variant of every case."""
    cases = [c for c in find_cohort(root, region=region) if c.target is not None]
    rows = []
    for case in cases:
        started = time.perf_counter()
        group = f"{case.task.folder} {case.region}"
        mates = [c for c in cases if (c.task, c.region) == (case.task, case.region)]
        pair = load_pair(PairFiles.of(case), Convention.CT_TO_SOURCE)
        mate = mates[(mates.index(case) + 1) % len(mates)]
        other = load_pair(PairFiles.of(mate), Convention.CT_TO_SOURCE) if mate is not case else None
        truth = read_itk(case.folder / "truth" / "deformation.h5")
        rng = np.random.default_rng([seed, zlib.crc32(case.id.encode())])
        for name, changed, transform in variants(pair, truth, other, rng):
            try:
                found = signals(measure(replace(changed, fixed_labels=None), transform))
            except ProductError as error:
                print(f"{case.id} {name}: {error}")
                continue
            half = mates.index(case) % 2
            rows.append(
                {
                    "case": case.id,
                    "group": group,
                    "half": half,
                    "kind": name,
                    "bad": not name.startswith("sound"),
                    "signals": found,
                }
            )
        print(f"{group} {case.id}: {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def score(rows: list[dict], rule: Rule, rng: np.random.Generator, cohorts: int) -> dict[str, float]:
    """Precision and recall over random cohorts."""
    sound, bad = ([r for r in rows if r["bad"] is b] for b in (False, True))
    precision, recall, caught = [], [], {}
    for _ in range(cohorts):
        count = max(1, round(len(sound) * FAILURE_SHARE / (1 - FAILURE_SHARE)))
        chosen = [*sound, *(bad[i] for i in rng.choice(len(bad), min(count, len(bad)), replace=False))]
        judged = judge([(r["case"], r["group"], r["signals"]) for r in chosen], rule)
        hits = [(r, j.exclude) for r, j in zip(chosen, judged, strict=True)]
        excluded = sum(e for _, e in hits)
        right = sum(e for r, e in hits if r["bad"])
        precision.append(right / excluded if excluded else 1.0)
        recall.append(right / count)
        for r, e in hits:
            caught.setdefault(r["kind"], []).append(e)
    return {
        "precision": float(np.mean(precision)),
        "precision_p5": float(np.percentile(precision, 5)),
        "recall": float(np.mean(recall)),
        "recall_p5": float(np.percentile(recall, 5)),
        "excluded by kind": {k: round(float(np.mean(v)), 3) for k, v in sorted(caught.items())},
    }


def separation(rows: list[dict]) -> dict[str, float]:
    """How well each signal alone tells bad from sound within its group: area under the ROC curve, group mean."""
    found = {}
    for name in sorted({n for r in rows for n in r["signals"]}):
        areas = []
        for group in sorted({r["group"] for r in rows}):
            values = [
                [r["signals"][name] for r in rows if r["group"] == group and r["bad"] is b and name in r["signals"]]
                for b in (False, True)
            ]
            if all(values):
                sound, bad = np.array(values[0]), np.array(values[1])
                areas.append((bad[:, None] > sound).mean() + 0.5 * (bad[:, None] == sound).mean())
        found[name] = round(float(np.mean(areas)), 3)
    return found


def choose(rows: list[dict], seed: int) -> tuple[Rule, float]:
    """The rule with the best F1 on the calibration half."""
    names = (
        "feature distance",
        "edges lost",
        "information lost",
        "bodies apart",
        "deformation p95 (mm)",
        "volume change",
    )
    best, best_score = DEFAULT_RULE, -1.0
    for count in (1, 2):
        for chosen in itertools.combinations(names, count):
            for z, ratio, place in itertools.product((3.5, 3.0, 2.5), (1.0, 0.995, 0.99), (9.0, 1.2, 1.0, 0.8)):
                limits = {"feature distance ratio": ratio, "feature loss in one place": place}
                rule = Rule(dict(DEFAULT_RULE.limits) | limits, z, chosen)
                found = score(rows, rule, np.random.default_rng(seed), 10)
                f1 = 2 * found["precision"] * found["recall"] / max(found["precision"] + found["recall"], 1e-9)
                if f1 > best_score + 1e-3:
                    best, best_score = rule, f1
    return best, best_score


def main() -> None:
    """Measure, choose on one half, judge on the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/exclusion.json"))
    parser.add_argument("--rows", type=Path, help="Keep the signals here, and start from them if the file is there.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.rows and options.rows.is_file():
        rows = json.loads(options.rows.read_text())
    else:
        rows = collect(options.cohort, options.seed)
        if options.rows:
            write_json(options.rows, rows)
    halves = [[r for r in rows if r["half"] == h] for h in (0, 1)]
    chosen, _ = choose(halves[0], options.seed)
    result = {
        "command": "python benchmarks/exclusion.py COHORT, on the cohort of its first lines",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "cases": len({(r["group"], r["case"]) for r in rows}),
        "registrations": {"sound": sum(not r["bad"] for r in rows), "failures": sum(r["bad"] for r in rows)},
        "separation by one signal (ROC area)": separation(rows),
        "rule chosen on half the cases": {"limits": dict(chosen.limits), "outlier_z": chosen.outlier_z,
                                          "outlier_signals": list(chosen.outlier_signals)},
        "calibration half": score(halves[0], chosen, np.random.default_rng(options.seed), COHORTS),
        "other half": score(halves[1], chosen, np.random.default_rng(options.seed + 1), COHORTS),
        "other half by task": {
            task: score([r for r in halves[1] if r["group"].startswith(task)], chosen,
                        np.random.default_rng(options.seed + 2), COHORTS)
            for task in sorted({r["group"].split()[0] for r in rows})
        },
        "default rule, other half": score(halves[1], DEFAULT_RULE, np.random.default_rng(options.seed + 1), COHORTS),
    }  # fmt: skip
    write_json(options.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
