"""Calibrate what the judge says of one place: planted errors of 10 to 20 mm in visible anatomy, and sound registrations.

    sctlab simulate PATIENTS --task mri --cases 1 --spacing 4,4,4 --seed 5501
    sctlab simulate PATIENTS --task cbct --cases 1 --spacing 4,4,4 --seed 5502
    python benchmarks/verdict_places.py question PATIENTS --data ../shared/data --rows benchmarks/verdict_places.csv
    python benchmarks/verdict_places.py cross benchmarks/verdict_places.csv --out benchmarks/verdict_places.json
    python benchmarks/verdict_places.py fit benchmarks/verdict_places.csv      # into sctlab/registration/judge/calibration.json

`map` and `windows` are rank correlations with the true error over the body: of the map that is delivered, and of the windows'
that was delivered before.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from exclusion import residual
from scipy.stats import spearmanr
from verdict import OPTIMISED, anatomy
from verdict_map import full_map, smoothed_mm
from verdict_planting import bump, optimised, real, simulated, visible_places, worst_place_mm

from sctlab.registration.judge.calibrate import FINE_MM, fit_places
from sctlab.registration.judge.model import SHIPPED, JudgeModel
from sctlab.registration.judge.places import look_elsewhere
from sctlab.registration.judge.refit import better_places, lengths_mm, refit_signals
from sctlab.registration.judge.view import Looker
from sctlab.registration.judge.witnesses import witnesses
from sctlab.registration.pairs import Pair
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import AffineTransform, Transform, compose
from sctlab.transforms.field import displacement_field
from sctlab_model.io.atomic import write_json
from sctlab_model.volume import Volume, resample

CTS = ("head", "trunk", "upper-body")
SEEDS = {"simulated": 301, "real": 302}
FIELDS = ("case", "anatomy", "task", "kind", "error_mm", "worst_mm", "map", "windows", "signals")


def registrations(
    pair: Pair, truth: Transform, places: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, Transform]]:
    """Kind and solution; those with an error all over the body are left out, but for their random numbers."""
    grid = pair.fixed.geometry.resized((6.0, 6.0, 6.0))
    for low, high in ((0.3, 1.2), (1.2, 2.5), (5.0, 12.0)):
        width = (30, 60) if high < 5 else (60, 90)
        whole = residual(grid, rng.uniform(low, high), rng.uniform(*width), rng)
        if high < 5:
            yield "sound", compose(whole, truth)
    for low, high in ((10, 20), (10, 20), (10, 20)):
        place = pair.fixed.geometry.to_physical(places[rng.integers(len(places))][::-1])
        error = bump(grid, place, rng.uniform(low + 2, high + 2), rng.uniform(20, 35), rng)
        yield f"local {low}-{high}", compose(error, residual(grid, rng.uniform(0.3, 1.2), 40.0, rng), truth)
    yield "sound, engine", optimised(pair, AffineTransform(np.eye(3)))[1]


def question(options: argparse.Namespace) -> None:
    """What the judge sees of places, a row each."""
    chosen = [cls for cls in witnesses(OPTIMISED).values() if cls.local]
    sources = [(SEEDS["simulated"], simulated(options.cohort))]
    sources.append((SEEDS["real"], real(options.data, options.cts.split(","), SEEDS["real"])))
    with options.rows.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        table.writeheader()
        for seed, source in sources:
            for pair, truth, _ in source:
                rng = np.random.default_rng([seed, zlib.crc32(pair.id.encode())])
                grid = pair.fixed.geometry
                spacing_zyx = np.array(grid.spacing_xyz[::-1])
                field = displacement_field(truth, grid)
                aligned = apply_to_image(pair.moving, field, grid, interpolation="linear", outside=pair.outside)
                counted = pair.fixed_mask.array & field_of_view(pair.moving.geometry, field, grid).array
                edges = tissue_edges(aligned, counted)
                looker = Looker(pair)
                places = visible_places(edges, counted, spacing_zyx)
                for kind, solution in registrations(pair, truth, places, rng):
                    vectors = displacement_field(solution, grid).vectors
                    error = np.sqrt(((vectors - field.vectors) ** 2).sum(0))
                    view = looker.look(solution)
                    windows = look_elsewhere(view, [w(view.fixed, view.moving, view.spacing_mm) for w in chosen])
                    better = better_places(view)
                    true = resample(Volume(error.astype(np.float32), grid), view.grid, interpolation="linear").array
                    maps = lengths_mm(better, view), full_map(smoothed_mm(windows), view)
                    at = np.isfinite(maps[0]) & np.isfinite(maps[1])
                    row = {
                        "case": pair.id,
                        "anatomy": anatomy(pair.id),
                        "task": str(pair.task),
                        "kind": kind,
                        "error_mm": round(float(error[counted].mean()), 3),
                        "worst_mm": round(worst_place_mm(error, edges, spacing_zyx), 3),
                        "signals": json.dumps(windows.signals() | refit_signals(better, view)),
                    }
                    row |= {
                        n: round(float(spearmanr(m[at], true[at])[0]), 3)
                        for n, m in zip(("map", "windows"), maps, strict=True)
                    }
                    table.writerow(row)
                    file.flush()
                    print(pair.id, kind, flush=True)


def read(path: Path) -> list[dict]:
    """Rows of `question`."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(line) for line in csv.DictReader(file)]
    for row in rows:
        row |= {k: float(row[k]) for k in ("error_mm", "worst_mm", "map", "windows")}
        row["signals"] = json.loads(row["signals"])
    return rows


def cross(options: argparse.Namespace) -> None:
    """Each anatomy judged by a model of the others, its threshold too."""
    rows = read(options.rows)
    flagged: list[tuple[dict, bool]] = []
    for held_out in sorted({row["anatomy"] for row in rows}):
        model = fit_places(JudgeModel.shipped(), [row for row in rows if row["anatomy"] != held_out])
        calibration = next(iter(model.calibrations.values()))
        for row in rows:
            if row["anatomy"] == held_out:
                probability = calibration.local_probability(row["signals"])
                flagged.append((row, probability >= calibration.local_threshold))
    local = [f for row, f in flagged if row["kind"].startswith("local") and 10 <= row["worst_mm"] <= 20]
    sound = [f for row, f in flagged if row["kind"].startswith("sound") and row["worst_mm"] < FINE_MM]
    result: dict[str, object] = {
        "command": f"python benchmarks/verdict_places.py cross {options.rows.name}",
        "cases": len({row["case"] for row in rows}),
        "errors of 10-20 mm in one place": len(local),
        "recall": round(float(np.mean(local)), 3),
        "sound": len(sound),
        "sound ones flagged": round(float(np.mean(sound)), 3),
    }
    for name in ("map", "windows"):
        values = [row[name] for row in rows if row["kind"].startswith("local")]
        result[f"{name}: mean rank correlation inside registrations with one wrong place"] = round(
            float(np.mean(values)), 3
        )
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result, indent=1))


def fit(options: argparse.Namespace) -> None:
    """Replace the model of places in a calibration."""
    model = fit_places(JudgeModel.read(options.model), read(options.rows))
    model = model.model_copy(
        update={
            "command": f"{model.command.split(';')[0]}; python benchmarks/verdict_places.py fit {options.rows.name}"
        }
    )
    model.write(options.model)
    print(f"{options.model}: places from {options.rows}")


def main() -> None:
    """Question, cross-validate, fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("question")
    step.add_argument("cohort", type=Path)
    step.add_argument("--data", type=Path, required=True)
    step.add_argument("--cts", default=",".join(CTS))
    step.add_argument("--rows", type=Path, required=True)
    step.set_defaults(run=question)
    step = steps.add_parser("cross")
    step.add_argument("rows", type=Path)
    step.add_argument("--out", type=Path)
    step.set_defaults(run=cross)
    step = steps.add_parser("fit")
    step.add_argument("rows", type=Path)
    step.add_argument("--model", type=Path, default=SHIPPED)
    step.set_defaults(run=fit)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
