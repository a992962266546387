"""Planted failures of many kinds on pairs that nothing was calibrated on, judged as `sctlab register` judges them.

    sctlab simulate FRESH --task mri --cases 1 --spacing 4,4,4 --seed 9101 --centre F
    sctlab simulate FRESH --task mri --cases 1 --spacing 4,4,4 --seed 9103 --centre G --regions HN \
        --from ../shared/data/head_labels/training_seg_02.nii.gz
    sctlab simulate FRESH --task cbct --cases 1 --spacing 4,4,4 --seed 9102 --centre F --regions HN,TH
    python benchmarks/verdict_fresh.py judge FRESH --data ../shared/data --rows benchmarks/verdict_fresh.csv
    python benchmarks/verdict_fresh.py report benchmarks/verdict_fresh.csv --out benchmarks/verdict_fresh.json

A neck in fat-suppressed T2 with another one as other patient, judged alone (`verdict_necks.csv`; only the first one's rows are kept):

    sctlab simulate TWO --task mri --cases 1 --spacing 4,4,4 --seed 9103 --centre G --regions HN \
        --from ../shared/data/head_labels/training_seg_02.nii.gz
    sctlab simulate TWO --task mri --cases 1 --spacing 4,4,4 --seed 6132 --centre M --regions HN
    python benchmarks/verdict_fresh.py judge TWO --rows benchmarks/verdict_necks.csv

Errors of every size, as they are planted for the calibration, on more pairs (`verdict_fresh_wide.csv`):

    sctlab simulate WIDE --task mri --cases 2 --spacing 4,4,4 --seed 9401 --centre F --regions AB,TH
    sctlab simulate WIDE --task mri --cases 1 --spacing 4,4,4 --seed 9404 --centre J --regions HN
    sctlab simulate WIDE --task mri --cases 1 --spacing 4,4,4 --seed 9403 --centre G --regions HN --body-variation 1 \
        --from ../shared/data/head_labels/training_seg_02.nii.gz
    sctlab simulate WIDE --task cbct --cases 1 --spacing 4,4,4 --seed 9402 --centre F
    python benchmarks/verdict_fresh.py judge WIDE --data ../shared/data --seed 808 --all-sizes \
        --rows benchmarks/verdict_fresh_wide.csv

Without `--all-sizes` each case gets two sound registrations, two with an error in one place, one with half the CT (right), three of the planted failures
in turn and two that a short registration optimised. `upper-leg` (two CTs) and the simulated patients are new to the calibration;
`abdomen-2` was judged as a slab before; the deformations are new everywhere.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from exclusion import residual
from scipy.stats import binomtest, spearmanr
from verdict_odd import OPTIMISED
from verdict_planting import (
    PLANTED,
    Made,
    bump,
    flipped,
    optimised,
    real,
    simulated,
    slices,
    varied,
    visible_places,
    worst_place_mm,
)

from sctlab.registration.judge.exchanged import said_exchanged
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.parts import different_parts
from sctlab.registration.judge.verdict import MOST_WITHOUT_DATA, SURE, UNUSABLE_MM, judge_registration, thin_evidence
from sctlab.registration.pairs import Pair
from sctlab.registration.records import QualityRecord, Verdict
from sctlab.registration.truth import tissue_edges
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import AffineTransform, EulerTransform, Transform, compose
from sctlab.transforms.field import displacement_field
from sctlab_model.errors import ProductError
from sctlab_model.io.atomic import write_json
from sctlab_model.volume import Volume, resample

SEED = 707
# Kinds that begin so; all others are gross failures.
NOT_GROSS = ("sound", "local", "smooth", "shifted 8-", "turned 8-")
CTS = ("upper-leg", "upper-leg-2", "abdomen-2")
SLAB_MM = 40.0
THIN = "abdomen-2"  # 40 mm: beyond what the calibration holds
OPTIMISED_WITNESSES = frozenset({"information", "self-similarity"})
FIELDS = ("pair", "kind", "gross", "error_mm", "worst_mm", "verdict", "failure_probability", "predicted_mm", "low_mm", "high_mm",
          "map_spearman", "reasons", "signals")  # fmt: skip


def registrations(
    pair: Pair, truth: Transform, places: np.ndarray, others: list[Pair], rng: np.random.Generator, number: int
) -> Iterator[Made]:
    """Kind, images and solution of every registration of a case; names of gross failures don't begin with sound or local."""
    grid = pair.fixed.geometry.resized((6.0, 6.0, 6.0))
    right = compose(residual(grid, rng.uniform(0.3, 2.0), rng.uniform(30, 60), rng), truth)
    yield "sound", pair, right
    yield "sound, engine", *optimised(pair, AffineTransform(np.eye(3)))
    if number % 2:
        part = slices(pair.moving, 0, round(0.6 * len(pair.moving.array)))
        yield "sound, part of the CT", replace(pair, moving=part, moving_labels=None), right
    for _ in range(2):
        place = pair.fixed.geometry.to_physical(places[rng.integers(len(places))][::-1])
        error = bump(grid, place, rng.uniform(12, 22), rng.uniform(20, 35), rng)
        yield "local 10-20", pair, compose(error, residual(grid, rng.uniform(0.3, 1.2), 40.0, rng), truth)
    for k in range(3):
        yield PLANTED[(3 * number + k) % len(PLANTED)](pair, truth, rng)
    other = others[int(rng.integers(len(others)))]
    across = AffineTransform(np.eye(3), tuple(other.moving.geometry.centre_xyz - pair.moving.geometry.centre_xyz))
    changed = replace(pair, moving=other.moving, moving_labels=None)
    same = "other patient" if other.region == pair.region else "wrong region"
    if number % 2:
        yield same, changed, compose(truth, across)
    else:
        yield f"{same}, fitted", *optimised(changed, EulerTransform((0.0, 0.0, 0.0), across.translation_xyz))
    yield "mirrored left-right, fitted", *optimised(flipped(pair, 2), AffineTransform(np.eye(3)))


def slab(pair: Pair) -> Pair:
    """The middle 40 mm of both images."""

    def middle(volume: Volume) -> Volume:
        count = round(SLAB_MM / volume.geometry.spacing_xyz[2])
        return slices(volume, (len(volume.array) - count) // 2, count)

    return replace(pair, id=f"{pair.id}, 40 mm", fixed=middle(pair.fixed), moving=middle(pair.moving), fixed_mask=middle(pair.fixed_mask), moving_labels=None)  # fmt: skip


def of_slab(pair: Pair, truth: Transform, rng: np.random.Generator) -> Iterator[Made]:
    """A sound one, and its slices in reverse order, as they are and fitted."""
    thin = slab(pair)
    yield "sound", thin, truth
    yield "mirrored head-feet", flipped(thin, 0), truth
    yield "mirrored head-feet, fitted", *optimised(flipped(thin, 0), AffineTransform(np.eye(3)))


def judged(pair: Pair, transform: Transform, error: np.ndarray | None) -> dict[str, object]:
    """What `sctlab register` would say: the judge and the anatomy network's look at sides and parts."""
    grid = pair.fixed.geometry
    data = field_of_view(pair.moving.geometry, transform, grid).array
    zero = {k: 0.0 for k in ("mean", "median", "p95", "max")}
    state = {"nmi": 1.0, "feature_distance": 0.0, "edges": 0.0}
    jacobian = {"minimum": 1.0, "p1": 1.0, "p99": 1.0, "maximum": 1.0, "log_std": 0.0, "folds": 0.0}
    share = float(data[pair.fixed_mask.array > 0].mean())
    quality = QualityRecord.model_validate(
        {
            "similarity": {"before": state, "after": state},
            "overlap": {"field_of_view": share, "before": {}, "after": {}},
            "field": {"displacement_mm": zero, "deformation_mm": zero, "jacobian": jacobian},
        }
    )
    said, shown = judge_registration(pair, transform, quality, OPTIMISED)
    different = different_parts(pair, transform)
    found: dict[str, object] = {
        "verdict": str(Verdict.FAILED if different else said.verdict),
        "failure_probability": said.failure_probability,
        "predicted_mm": said.error_mm,
        "low_mm": said.interval_mm[0],
        "high_mm": said.interval_mm[1],
        "reasons": "; ".join([different, *said.reasons] if different else said.reasons),
        "signals": json.dumps(said.signals),
    }
    if shown is not None and error is not None:
        true = resample(Volume(error.astype(np.float32), grid), shown.geometry, interpolation="linear").array
        inside = shown.array >= 0
        if inside.sum() > 100:
            found["map_spearman"] = round(float(spearmanr(shown.array[inside], true[inside])[0]), 3)
    return found


def judge(options: argparse.Namespace) -> None:
    """Judge every registration of every case; rows that are there are kept."""
    sources = [*real(options.data, options.cts.split(","), options.seed)] if options.data else []
    sources += simulated(options.cohort)
    new = not options.rows.is_file()
    done = set() if new else {line["pair"] for line in csv.DictReader(options.rows.open(encoding="utf-8"))}
    with options.rows.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            table.writeheader()

        def keep(
            name: str, kind: str, pair: Pair, solution: Transform, truth: Transform, edges: np.ndarray | None
        ) -> None:
            row: dict[str, object] = {"pair": name, "kind": kind, "gross": not kind.startswith(NOT_GROSS)}
            error = None
            if edges is not None and pair.id == name and kind.startswith((*NOT_GROSS, "turned", "shifted", "scaled")):
                grid = pair.fixed.geometry
                fields = [displacement_field(t, grid).vectors for t in (solution, truth)]
                error = np.sqrt(((fields[0] - fields[1]) ** 2).sum(0))
                row["error_mm"] = round(float(error[pair.fixed_mask.array > 0].mean()), 2)
                row["worst_mm"] = round(worst_place_mm(error, edges, np.array(grid.spacing_xyz[::-1])), 2)
            try:
                row |= judged(pair, solution, error)
            except ProductError as refused:
                row |= {"verdict": "refused", "reasons": str(refused)}
            table.writerow(row)
            file.flush()
            print(name, kind, row["verdict"], row.get("failure_probability"), flush=True)

        for number, (pair, truth, _) in enumerate(sources):
            if pair.id in done:
                continue
            rng = np.random.default_rng([options.seed, zlib.crc32(pair.id.encode())])
            grid = pair.fixed.geometry
            aligned = apply_to_image(pair.moving, truth, grid, interpolation="linear", outside=pair.outside)
            counted = (pair.fixed_mask.array > 0) & field_of_view(pair.moving.geometry, truth, grid).array
            edges = tissue_edges(aligned, counted)
            places = visible_places(edges, counted, np.array(grid.spacing_xyz[::-1]))
            others = [p for p, *_ in sources if p.id.split("/")[0] != pair.id.split("/")[0]]
            of_case = varied if options.all_sizes else registrations
            for kind, changed, solution in of_case(pair, truth, places, others, rng, number):
                keep(pair.id, kind, changed, solution, truth, edges)
            if not options.all_sizes and pair.id.startswith("abdomen-2"):
                for kind, changed, solution in of_slab(pair, truth, rng):
                    keep(f"{pair.id}, 40 mm", kind, changed, solution, truth, None)


def again(row: dict[str, str], model: JudgeModel) -> dict[str, str]:
    """A row judged once more from its signals, by the rules of `judge_registration` that these rows meet."""
    if not row["signals"]:
        return row
    signals = json.loads(row["signals"])
    said = model.judge(signals, OPTIMISED_WITNESSES)
    missing = signals["without data"] > MOST_WITHOUT_DATA
    failed = said.verdict is Verdict.FAILED
    if failed and (missing or row["pair"].startswith(THIN)) and said.failure_probability < SURE:
        failed = False
    failed &= not thin_evidence(signals)
    failed |= bool(said_exchanged(signals)) or "anatomy network" in row["reasons"]
    limited = missing or said.error_mm > UNUSABLE_MM or "stays as it is" in row["reasons"]
    doubtful = limited or said.verdict is not Verdict.TRUSTED
    low, high = said.interval_mm
    return row | {
        "verdict": str(Verdict.FAILED if failed else Verdict.DOUBTFUL if doubtful else Verdict.TRUSTED),
        "failure_probability": str(said.failure_probability),
        "predicted_mm": str(said.error_mm),
        "low_mm": str(low),
        "high_mm": str(high),
    }


def report(options: argparse.Namespace) -> None:
    """Recall, precision, correlation and coverage with 95 % intervals."""
    rows = list(csv.DictReader(options.rows.open(encoding="utf-8")))
    if options.model:
        rows = [again(row, JudgeModel.read(options.model)) for row in rows]
    # A CT of 40 mm is its own slab: what was judged twice is counted once.
    rows = list({row["signals"] or str(row): row for row in rows}.values())

    def share(chosen: list[dict[str, str]], what: Callable[[dict[str, str]], bool]) -> dict[str, object]:
        hits = sum(map(what, chosen))
        if not chosen:
            return {"of": 0}
        low, high = binomtest(hits, len(chosen)).proportion_ci(method="wilson")
        return {"of": len(chosen), "share": round(hits / len(chosen), 3), "95 %": [round(low, 3), round(high, 3)]}

    def failed(row: dict[str, str]) -> bool:
        return row["verdict"] in ("failed", "refused")

    gross = [row for row in rows if row["gross"] == "True"]
    sound = [row for row in rows if row["kind"].startswith("sound")]
    local = [row for row in rows if row["kind"].startswith("local") and 10 <= float(row["worst_mm"]) <= 20]
    known = [row for row in rows if row["error_mm"] and row["predicted_mm"]]
    error, predicted = (np.array([float(row[k]) for row in known]) for k in ("error_mm", "predicted_mm"))
    maps = [float(row["map_spearman"]) for row in rows if row["map_spearman"] and row["kind"].startswith("local")]
    result = {
        "command": f"python benchmarks/verdict_fresh.py report {options.rows.name}"
        + (f" --model {options.model.name}" if options.model else ""),
        "pairs": len({row["pair"] for row in rows}),
        "gross failures that are failed": share(gross, failed),
        "gross failures that are not trusted": share(gross, lambda row: row["verdict"] != "trusted"),
        "failed ones that are wrong (gross, or a mean error above 8 mm)": share(
            [row for row in rows if failed(row)], lambda row: row["gross"] == "True" or float(row["error_mm"] or 0) > 8
        ),
        "sound ones that are failed": share(sound, failed),
        "sound ones that are trusted": share(sound, lambda row: row["verdict"] == "trusted"),
        "errors of 10-20 mm in one place that are not trusted": share(local, lambda row: row["verdict"] != "trusted"),
        "spearman of predicted and true error": round(float(spearmanr(predicted, error)[0]), 3),
        "intervals that hold the error": share(
            known, lambda row: float(row["low_mm"]) <= float(row["error_mm"]) <= float(row["high_mm"])
        ),
        "map, mean spearman inside registrations with an error in one place": round(float(np.mean(maps)), 3),
        "by kind": {
            kind: share([row for row in rows if row["kind"] == kind], failed)
            for kind in sorted({r["kind"] for r in rows})
        },
    }
    if options.out:
        write_json(options.out, result)
    print(json.dumps(result, indent=1))


def main() -> None:
    """Judge, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("judge")
    step.add_argument("cohort", type=Path)
    step.add_argument("--data", type=Path, help="where the real CTs are; the cohort alone when left out")
    step.add_argument("--cts", default=",".join(CTS))
    step.add_argument("--rows", type=Path, required=True)
    step.add_argument("--seed", type=int, default=SEED, help="of the real CTs' truths and of all that is planted")
    step.add_argument(
        "--all-sizes", action="store_true", help="plant as for the calibration, errors of every size among them"
    )
    step.set_defaults(run=judge)
    step = steps.add_parser("report")
    step.add_argument("rows", type=Path)
    step.add_argument("--model", type=Path, help="judge the rows once more by their signals and this calibration")
    step.add_argument("--out", type=Path)
    step.set_defaults(run=report)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
