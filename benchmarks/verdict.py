"""Calibrate the judge of registrations on planted failures, and judge it on other cases, truths and failures.

    sctlab simulate CALIBRATION --task mri --cases 2 --spacing 4,4,4 --seed 113
    sctlab simulate OTHERS --task mri --cases 2 --spacing 4,4,4 --seed 951 --centre T
    python benchmarks/verdict.py collect CALIBRATION --rows cal_sim.jsonl --seed 23
    python benchmarks/verdict.py collect OTHERS --rows jud_sim.jsonl --seed 35
    python benchmarks/verdict.py collect --data ../shared/data --cts upper-body,thorax-crop --rows jud_real.jsonl --seed 34
    python benchmarks/verdict.py gather --calibration verdict_rows.csv cal_sim.jsonl --judged jud_*.jsonl \
        --out benchmarks/verdict_rows.csv               # earlier rows, judged ones too, calibrate now
    python benchmarks/verdict.py fit --out model.json
    python benchmarks/verdict.py judge --model model.json --out benchmarks/verdict.json        # once
    python benchmarks/verdict.py cross --all --out benchmarks/verdict_cross.json   # each anatomy by a model of the others
    python benchmarks/verdict.py fit --all --out sctlab/registration/judge/calibration.json    # what is shipped

216 calibration rows are of an earlier round: simulated MR and CBCT of seeds 111, 112 and 941, CTs head, abdomen and trunk.

Planted: sound results (the truth with a smooth error), shifts, turns, mirrored images, another patient, half a field of
view with the other half's place, smooth and local errors of many sizes; and what the engine makes of wrong starts, which
are failures that have been optimised.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sctlab.registration.engine.register import register
from sctlab.registration.engine.settings import Level, Preset
from sctlab.registration.judge.calibrate import fit_model
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.signals import collect_evidence
from sctlab.registration.pairs import Pair, PairFiles, load_pair, make_pair
from sctlab.registration.records import Judgement
from sctlab.registration.settings import Convention
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    DisplacementField,
    EulerTransform,
    Transform,
    compose,
)
from sctlab.transforms.field import displacement_field, grid_points
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import Task, find_cohort
from sctlab_model.errors import ProductError
from sctlab_model.io.atomic import write_json
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
UNUSABLE_MM = 8.0  # a mean error that no network should learn from
OPTIMISED = frozenset({"mutual information", "mind"})  # by the presets of every task and region
TABLE = Path(__file__).with_name("verdict_rows.csv")
GROSS = ("mirrored", "other patient", "turned 45+", "half", "shifted 30+")


def residual(grid: Geometry, mean_mm: float, knot_mm: float, rng: np.random.Generator) -> BSplineTransform:
    """A smooth random error with a mean length over the grid."""
    extent = np.array(grid.size_xyz) * np.array(grid.spacing_xyz)
    size = np.ceil(extent / knot_mm).astype(int) + 4
    start = grid.centre_xyz - grid.axes @ ((size - 1) * knot_mm / 2)
    knots = Geometry(tuple(size), (knot_mm,) * 3, tuple(start), grid.direction)
    transform = BSplineTransform(knots, rng.normal(size=(3, *knots.shape_zyx)))
    length = np.sqrt((displacement_field(transform, grid).vectors ** 2).sum(0)).mean()
    return replace(transform, coefficients=transform.coefficients * mean_mm / length)


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

    for mean_mm in (rng.uniform(0.3, 1.2), rng.uniform(0.3, 1.2), rng.uniform(1.2, 2.5)):
        yield "sound", pair, compose(residual(grid, mean_mm, rng.uniform(30, 60), rng), truth)
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
    flips = [("mirrored", 2)] if rng.random() < 0.7 else [("mirrored", int(rng.integers(0, 3)))]
    for name, axis in flips:
        mirrored = pair.moving.with_array(np.ascontiguousarray(np.flip(pair.moving.array, axis)))
        yield name, replace(pair, moving=mirrored, moving_labels=None), truth
        if axis == 2 and rng.random() < 0.5:
            yield name, *optimised(replace(pair, moving=mirrored, moving_labels=None), still)
    half = pair.moving.array.shape[0] // 2
    if half >= 8:
        part = pair.moving.geometry.cropped((0, 0, 0), (*pair.moving.geometry.size_xyz[:2], half))
        wrong = Volume(np.ascontiguousarray(pair.moving.array[-half:]), part)  # the upper half in the lower one's place
        yield "half", replace(pair, moving=wrong, moving_labels=None), truth
    yield "sound, engine", *optimised(pair, still)
    yield "turned 45+", *optimised(pair, turned(90.0, int(rng.integers(3))))
    if other is not None:
        across = AffineTransform(np.eye(3), tuple(other.moving.geometry.centre_xyz - pair.moving.geometry.centre_xyz))
        changed = replace(pair, moving=other.moving, moving_labels=None)
        yield "other patient", changed, compose(truth, across)
        centres = EulerTransform((0.0, 0.0, 0.0), across.translation_xyz)
        if rng.random() < 0.5:
            yield "other patient", *optimised(changed, centres)


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


def collect(options: argparse.Namespace) -> None:
    """Append the signals and the true error of every variant to a file; cases that are there are kept."""
    source = simulated(options.cohort) if options.cohort else real(options.data, options.cts.split(","), options.seed)
    done = {r["case"] for r in read_rows(options.rows)} if options.rows.is_file() else set()
    for pair, truth, other in source:
        name = f"{pair.id}@{options.seed}" if options.cohort else pair.id  # other cohorts have the same ids
        if name in done:
            continue
        rng = np.random.default_rng([options.seed, zlib.crc32(pair.id.encode())])
        grid = pair.fixed.geometry
        field = displacement_field(truth, grid)
        aligned = apply_to_image(pair.moving, field, grid, interpolation="linear", outside=pair.outside)
        counted = pair.fixed_mask.array & field_of_view(pair.moving.geometry, field, grid).array
        edges = tissue_edges(aligned, counted)
        spacing_zyx = np.array(grid.spacing_xyz[::-1])
        places = visible_places(edges, counted, spacing_zyx)
        rows = []
        for kind, changed, transform in variants(pair, truth, places, other, rng):
            try:
                evidence = collect_evidence(changed, transform, frozenset() if options.all else OPTIMISED)
            except ProductError as error:
                print(f"{pair.id} {kind}: {error}")
                continue
            error = np.sqrt(((displacement_field(transform, grid).vectors - field.vectors) ** 2).sum(0))
            known = kind not in ("mirrored", "other patient", "half")
            rows.append(
                {
                    "case": name,
                    "task": pair.task,
                    "kind": kind,
                    "signals": evidence.signals,
                    "error_mm": float(error[counted].mean()) if known else None,
                    "worst_mm": worst_place_mm(error, edges, spacing_zyx) if known else None,
                }
            )
        with options.rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{name}: {len(rows)} registrations", flush=True)


def read_rows(path: Path) -> list[dict]:
    """Rows that `collect` wrote, or all of a table of earlier ones."""
    if path.suffix == ".csv":
        return read_table(path)
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


FACTS = ("role", "case", "anatomy", "task", "kind", "error_mm", "worst_mm")


def gather(options: argparse.Namespace) -> None:
    """One table of what was collected: what the model is fitted on, and what it is judged on."""
    rows = []
    for role in ("calibration", "judged"):
        rows += [row | {"role": role} for path in getattr(options, role) for row in read_rows(path)]
    names = sorted({name for row in rows for name in row["signals"]})
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, (*FACTS, *names), lineterminator="\n")
        table.writeheader()
        for row in rows:
            values = {k: row.get(k) for k in FACTS} | row["signals"]
            values["anatomy"] = anatomy(row["case"])
            table.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in values.items()})
    print(f"{options.out}: {len(rows)} registrations")


def anatomy(case: str) -> str:
    """A real CT's name, or the region of a simulated cohort: what is left out together in cross-validation."""
    return case.split("/")[0] if "/" in case else f"simulated {case[1:3]}"


def read_table(path: Path, role: str | None = None) -> list[dict]:
    """Rows of one role (or of all) from the table that `gather` wrote."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if role in (None, line["role"]):
                row: dict = {k: line[k] for k in FACTS}
                row |= {k: float(line[k]) if line[k] else None for k in ("error_mm", "worst_mm")}
                row["signals"] = {k: float(v) for k, v in line.items() if k not in FACTS and v}
                rows.append(row)
    return rows


def fit(options: argparse.Namespace) -> None:
    """Fit the judge's models and keep their coefficients."""
    rows = read_table(options.table, None if options.all else "calibration")
    command = f"python benchmarks/verdict.py fit {options.table.name}{' --all' if options.all else ''} --out …"
    model = fit_model(rows, gross=GROSS, command=command)
    model.write(options.out)
    print(f"{options.out}: {len(rows)} registrations of {len({r['case'] for r in rows})} cases")


def scores(rows: list[dict], judged: list[Judgement]) -> dict[str, object]:
    """Recall, precision, correlation and coverage of judgements."""
    from scipy.stats import spearmanr

    gross = np.array([row["kind"] in GROSS for row in rows])
    sound = np.array([row["kind"].startswith("sound") for row in rows])
    error = np.array([np.nan if row["error_mm"] is None else row["error_mm"] for row in rows])
    failed = np.array([j.verdict == "failed" for j in judged])
    flagged = np.array([j.verdict != "trusted" for j in judged])
    bad = gross | (error > UNUSABLE_MM)
    known = np.isfinite(error)
    worst = np.array([np.nan if row["worst_mm"] is None else row["worst_mm"] for row in rows])
    local = np.array([row["kind"].startswith("local") for row in rows]) & (worst >= 10) & (worst <= 20)
    inside = np.array([j.interval_mm[0] <= e <= j.interval_mm[1] for j, e in zip(judged, error, strict=True)])
    predicted = np.array([j.error_mm for j in judged])
    kinds = np.array([row["kind"] for row in rows])
    return {
        "registrations": len(rows),
        "cases": len({row["case"] for row in rows}),
        "gross failures": int(gross.sum()),
        "recall of gross failures (failed)": round(float(failed[gross].mean()), 3),
        f"precision of failed (gross, or mean error above {UNUSABLE_MM:g} mm)": round(float(bad[failed].mean()), 3),
        "local errors of 10-20 mm in visible anatomy": int(local.sum()),
        "recall of local errors (not trusted)": round(float(flagged[local].mean()), 3) if local.any() else None,
        "sound": int(sound.sum()),
        "sound ones trusted": round(float((~flagged[sound]).mean()), 3),
        "sound ones failed": round(float(failed[sound].mean()), 3),
        "spearman of predicted and true error": round(float(spearmanr(predicted[known], error[known])[0]), 3),
        "coverage of 90 % intervals": round(float(inside[known].mean()), 3),
        "by kind": {
            str(kind): {
                "count": int((kinds == kind).sum()),
                "failed": round(float(failed[kinds == kind].mean()), 3),
                "not trusted": round(float(flagged[kinds == kind].mean()), 3),
            }
            for kind in sorted(set(kinds))
        },
    }


def judge(options: argparse.Namespace) -> None:
    """The shipped (or another) model on rows that nothing was fitted on."""
    model = JudgeModel.read(options.model) if options.model else JudgeModel.shipped()
    rows = read_table(options.table, "judged")
    which = f" --model {options.model.name}" if options.model else ""
    result: dict[str, object] = {"command": f"python benchmarks/verdict.py judge {options.table.name}{which}"}
    real_cts = [row for row in rows if "/" in row["case"]]
    groups = {
        "all": rows,
        "simulated": [row for row in rows if row not in real_cts],
        "real CTs": real_cts,
        "MR": [row for row in rows if row["task"] == Task.MRI],
        "CBCT": [row for row in rows if row["task"] == Task.CBCT],
    }
    for silent in model.sets():
        for group, some in groups.items():
            if some:
                judged = [model.judge(row["signals"], frozenset(silent)) for row in some]
                result[f"{group}; silent: {', '.join(silent) or 'none'}"] = scores(some, judged)
    keep(result, options.out)


def cross(options: argparse.Namespace) -> None:
    """Every anatomy of the calibration rows judged by a model that was fitted on the others, its thresholds too."""
    rows = read_table(options.table, None if options.all else "calibration")
    command = f"python benchmarks/verdict.py cross {options.table.name}{' --all' if options.all else ''}"
    result: dict[str, object] = {"command": command}
    collected: dict[str, tuple[list[dict], list[Judgement]]] = {}
    for held_out in sorted({row["anatomy"] for row in rows}):
        mine = [row for row in rows if row["anatomy"] == held_out]
        model = fit_model([row for row in rows if row["anatomy"] != held_out], gross=GROSS, command="")
        for silent in model.sets():
            known = collected.setdefault(", ".join(silent) or "none", ([], []))
            known[0].extend(mine)
            known[1].extend(model.judge(row["signals"], frozenset(silent)) for row in mine)
    for silent_names, (judged_rows, judged) in collected.items():
        result[f"silent: {silent_names}"] = scores(judged_rows, judged)
    keep(result, options.out)


def keep(result: dict[str, object], out: Path | None) -> None:
    """Write and print a result."""
    if out:
        write_json(out, result)
    print(json.dumps(result, indent=1))


def main() -> None:
    """Collect, fit, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("collect")
    step.add_argument("cohort", type=Path, nargs="?")
    step.add_argument("--data", type=Path)
    step.add_argument("--rows", type=Path, required=True)
    step.add_argument("--cts", default="abdomen,head,abdomen-2", help="names of registration_pairs.CASES")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--all", action="store_true", help="also the witnesses that the default presets optimise")
    step.set_defaults(run=collect)
    step = steps.add_parser("gather")
    step.add_argument("--calibration", type=Path, nargs="+", required=True)
    step.add_argument("--judged", type=Path, nargs="+", required=True)
    step.add_argument("--out", type=Path, default=TABLE)
    step.set_defaults(run=gather)
    step = steps.add_parser("fit")
    step.add_argument("table", type=Path, nargs="?", default=TABLE)
    step.add_argument("--out", type=Path, required=True)
    step.add_argument("--all", action="store_true", help="the rows that were judged, too: what is shipped")
    step.set_defaults(run=fit)
    for name, what in (("cross", cross), ("judge", judge)):
        step = steps.add_parser(name)
        step.add_argument("table", type=Path, nargs="?", default=TABLE)
        step.add_argument("--model", type=Path, help="of judge; the shipped one when left out")
        step.add_argument("--all", action="store_true", help="of cross: the rows that were judged, too")
        step.add_argument("--out", type=Path)
        step.set_defaults(run=what)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
