"""Calibrate the judge of registrations on planted failures, and judge it on other cases, truths and failures.

    sctlab simulate PATIENTS --task mri --regions AB --cases 3 --spacing 4,4,4 --seed 6101 --centre K
    sctlab simulate PATIENTS --task mri --regions HN --cases 2 --spacing 4,4,4 --seed 6131 --centre L
    sctlab simulate NECKS --task mri --regions HN --cases 1 --spacing 4,4,4 --seed 6108 --centre N \
        --from ../shared/data/head_labels/training_seg_01.nii.gz
    sctlab simulate NECKS --task mri --regions HN --cases 1 --spacing 4,4,4 --seed 6132 --centre M
    python benchmarks/verdict.py plant PATIENTS --views views --seed 62
    python benchmarks/verdict.py plant NECKS --views views --seed 63
    python benchmarks/verdict.py plant --data ../shared/data --cts head,trunk,abdomen,upper-body,thorax-crop,lung-crop \
        --views views --seed 61
    python benchmarks/verdict.py question views --rows added.jsonl
    python benchmarks/verdict.py gather --calibration added.jsonl --out benchmarks/verdict_rows_added.csv
    python benchmarks/verdict.py cross --all --about benchmarks/verdict_rows_added.csv --out benchmarks/verdict_added.json
    python benchmarks/verdict.py cross --all --about benchmarks/verdict_rows_wide.csv --out benchmarks/verdict_wide.json
    python benchmarks/verdict.py cross --all --out benchmarks/verdict_cross.json   # each anatomy by a model of the others
    python benchmarks/verdict.py fit --all --out sctlab/registration/judge/calibration.json    # what is shipped, but for its
    python benchmarks/verdict_places.py fit benchmarks/verdict_places.csv                      # model of one place

`verdict_rows.csv` and `verdict_rows_later.csv`, what is shipped, were planted in other turns by revision a6d671c; the first lines of this file
there hold their commands. They lack the signals of `judge/refit.py` and `judge/exchanged.py`, which the added rows have.
`verdict_rows_wide.csv` was planted and asked as the added rows, real CTs with seed 81, W (`--task mri --cases 4 --seed 8101`, `--task cbct --cases 3 --seed 8102`)
with 82; it, too, has only some of what was planted. `verdict_planting.py` says what is planted.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from pathlib import Path

import numpy as np
from verdict_planting import Planted, plant, real, simulated

from sctlab.registration.judge.calibrate import fit_model
from sctlab.registration.judge.exchanged import said_exchanged
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.signals import question
from sctlab.registration.judge.verdict import thin_evidence
from sctlab.registration.records import Judgement, Verdict
from sctlab_model.cases import Task
from sctlab_model.io.atomic import write_json

UNUSABLE_MM = 8.0  # a mean error that no network should learn from
OPTIMISED = frozenset({"mutual information", "mind"})  # by the presets of every task and region
TABLE = Path(__file__).with_name("verdict_rows.csv")
# Kinds that begin so are gross failures.
GROSS = ("mirrored", "other", "turned 45+", "turned by", "half", "shifted 30", "shifted 60", "scaled", "feet first")


def plant_views(options: argparse.Namespace) -> None:
    """Keep the judge's views of every variant of every case; cases that are there are kept."""
    if options.cohort:
        plant(simulated(options.cohort), options.seed, options.views, suffix=f"@{options.seed}")
    else:
        plant(real(options.data, options.cts.split(","), options.seed), options.seed, options.views)


def question_views(options: argparse.Namespace) -> None:
    """Append the signals of every view to a file; views that are there are kept.

    Their order is one of checksums: a run that is stopped has some of every case.
    """
    done = {row["view"] for row in read_rows(options.rows)} if options.rows.is_file() else set()
    for path in sorted(options.views.glob("*.npz"), key=lambda path: zlib.crc32(path.stem[::-1].encode())):
        if path.stem in done:
            continue
        planted = Planted.read(path)
        evidence = question(planted.view, frozenset() if options.all else OPTIMISED, planted.unbent)
        facts = {k: getattr(planted, k) for k in ("case", "task", "kind", "error_mm", "worst_mm", "share")}
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"view": path.stem, **facts, "signals": evidence.signals}) + "\n")
        print(path.stem, flush=True)


def read_rows(path: Path) -> list[dict]:
    """Rows that `question` wrote, or all of a table of earlier ones."""
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

    gross = np.array([row["kind"].startswith(GROSS) for row in rows])
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
    """Every anatomy judged by a model that was fitted on the others, its thresholds too; of another table's rows those alone."""
    rows = read_table(options.table, None if options.all else "calibration")
    about = read_table(options.about) if options.about else rows
    flags = (" --all" if options.all else "") + (f" --about {options.about.name}" if options.about else "")
    result: dict[str, object] = {"command": f"python benchmarks/verdict.py cross {options.table.name}{flags}"}
    collected: dict[str, tuple[list[dict], list[Judgement]]] = {}
    for held_out in sorted({row["anatomy"] for row in about}):
        mine = [row for row in about if row["anatomy"] == held_out]
        model = fit_model([row for row in rows if row["anatomy"] != held_out], gross=GROSS, command="")
        for silent in model.sets():
            known = collected.setdefault(", ".join(silent) or "none", ([], []))
            known[0].extend(mine)
            known[1].extend(ruled(model.judge(row["signals"], frozenset(silent)), row["signals"]) for row in mine)
    for silent_names, (judged_rows, judged) in collected.items():
        result[f"silent: {silent_names}"] = scores(judged_rows, judged)
    keep(result, options.out)


def ruled(judgement: Judgement, signals: dict[str, float]) -> Judgement:
    """With the rules that hold beside the model: thin evidence, and exchanged ends where the rows were asked for them."""
    verdict = judgement.verdict
    if verdict is Verdict.FAILED and thin_evidence(signals):
        verdict = Verdict.DOUBTFUL
    return judgement.model_copy(update={"verdict": Verdict.FAILED if said_exchanged(signals) else verdict})


def keep(result: dict[str, object], out: Path | None) -> None:
    """Write and print a result."""
    if out:
        write_json(out, result)
    print(json.dumps(result, indent=1))


def main() -> None:
    """Plant, question, fit, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("plant")
    step.add_argument("cohort", type=Path, nargs="?")
    step.add_argument("--data", type=Path)
    step.add_argument("--views", type=Path, required=True)
    step.add_argument("--cts", default="head,trunk,abdomen", help="names of registration_pairs.CASES")
    step.add_argument("--seed", type=int, default=0)
    step.set_defaults(run=plant_views)
    step = steps.add_parser("question")
    step.add_argument("views", type=Path)
    step.add_argument("--rows", type=Path, required=True)
    step.add_argument("--all", action="store_true", help="also the witnesses that the default presets optimise")
    step.set_defaults(run=question_views)
    step = steps.add_parser("gather")
    step.add_argument("--calibration", type=Path, nargs="+", required=True)
    step.add_argument("--judged", type=Path, nargs="*", default=[])
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
        step.add_argument("--about", type=Path, help="of cross: other rows, which alone are judged")
        step.add_argument("--out", type=Path)
        step.set_defaults(run=what)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
