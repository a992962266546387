"""The report of a study: tables and figures again from what is on disk, as HTML, CSV, LaTeX, JSON and a paragraph."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sctlab.reporting import counted, data_address, number, render
from sctlab.study import analysis, questions
from sctlab.study.analysis import Estimate, Row
from sctlab.study.cells import StudyFiles
from sctlab.study.displacement import DISPLACEMENT, EDGE_SHIFT
from sctlab.study.folds import left_out
from sctlab.study.illustrations import illustrations
from sctlab.study.methods import methods_paragraph
from sctlab.study.names import digits_of, label_of
from sctlab.study.plan import PLAN, StudyPlan
from sctlab.study.real import real_rows
from sctlab.study.real_report import columns_of, real_picture, real_tables
from sctlab.study.run import FAILURES
from sctlab.study.scores import is_score
from sctlab.study.scoring import score_references
from sctlab.study.tables import build_tables, read_scores, tables_csv, tables_latex
from sctlab_model.cases import read_json
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path, write_json, write_text
from sctlab_model.settings import validate

RESULTS, SCORES, FIGURES = "results.json", "scores.csv", "figures"


def report_study(out: str | Path) -> Path:
    """Make the report of a study's folder again.

    Raises:
        InputError: The folder holds no study, or none of its cells is scored.
    """
    out = Path(out)
    if not (out / PLAN).is_file():
        raise InputError(out, found=f"no {PLAN}", expected="the folder of a study")
    return write_report(validate(StudyPlan, read_json(out / PLAN), out / PLAN), out)


def write_report(plan: StudyPlan, out: Path) -> Path:
    """Write scores.csv, all tables, results.json, methods.txt, figures/ and report.html; see docs/study.md for the files."""
    files = StudyFiles(plan, out)
    rows = read_rows(files)
    if not rows:
        raise InputError(out, found="no scored cell", expected="one", advice="run the study first")
    write_text(out / "cells.csv", _csv(("train", "evaluate", "region", "case", "seed", *_keys(rows)), map(_flat, rows)))
    mean_rows = analysis.over_seeds(rows)
    scored = [{k: r for k, r in _flat(row).items() if k != "seed"} for row in mean_rows]
    write_text(out / SCORES, _csv(("train", "evaluate", "region", "case", *analysis.scores_in(rows)), scored))
    first = rows[0]
    against = f"{first.train}/{first.evaluate}"
    tables = build_tables(*read_scores(out / SCORES), against)
    write_text(out / "tables.csv", tables_csv(tables))
    write_text(out / "tables.tex", tables_latex(tables))
    about = [_by_case_name(files, cohort, score_references(files, cohort)) for cohort in files.scored_cohorts]
    references = [row for found in about for row in found["rows"]]
    controls = [row for found in about for row in found["control"]]
    results: dict[str, Any] = {
        "against_truth": analysis.against_truth(rows),
        "bias": analysis.bias(rows),
        "dose_response": analysis.dose_response(
            rows,
            {files.train_name(c): c.pairs.plan for c in files.cells},
            {files.train_name(c): files.family(c) for c in files.cells},
        ),
        "rankings": analysis.rankings(rows, {files.train_name(c): c.cohort for c in files.cells}),
        "references": _reference_estimates(references),
        "control": _means(controls, ("mae",)),
        "as_good_as_registrations": questions.as_good_as_registrations(rows, controls),
        "exclusion": questions.exclusion_effect(rows, _exclusions(files)),
        "matching": questions.matching_reward(rows),
        "spread_by_voxel": analysis.spread_by_voxel(rows),
    }
    for name, values in results.items():
        if values:
            plain = [asdict(v) for v in values]
            write_text(out / f"{name}.csv", _csv(tuple(plain[0]), plain))
    if references:
        write_text(out / "reference_scores.csv", _csv(tuple(references[0]), references))
    real = real_rows(files)
    if real:
        write_text(out / "real.csv", _csv(columns_of(real), real))
    failed = read_json(out / FAILURES) if (out / FAILURES).is_file() else {}
    methods = methods_paragraph(plan, files, len({r.case for r in rows}))
    spread = analysis.spread_tells_bias(rows)
    write_text(out / "methods.txt", methods + "\n")
    write_json(
        out / RESULTS,
        {k: [asdict(v) for v in vs] for k, vs in results.items()}
        | {"real": real, "spread_tells_bias": spread, "failed": failed, "methods": methods},
    )
    drawn = illustrations(files, about, results["dose_response"])
    if (picture := real_picture(files)) is not None:
        drawn["real"] = picture
    for name, figure in drawn.items():
        with atomic_path(out / FIGURES / f"{name}.png") as part:
            part.write_bytes(figure)
    page = render(
        "study.html",
        title=plan.title,
        subtitle=", ".join(
            (counted(len(files.cells), "cell"), counted(plan.folds, "fold"), counted(len({r.case for r in rows}), "case"))
        ),
        failed=failed,
        methods=methods,
        matrices=[_matrix(rows, metric) for metric in analysis.scores_in(rows)],
        lists=[
            ("Against the truth, by training", _lines(results["against_truth"])),
            ("Bias: score against the reference minus score against the truth", _lines(results["bias"])),
            ("Reward of a training by its own reference: its MAE minus another training's, by that reference minus by the truth "
             "(below 0: the reference flatters it)", _lines(results["matching"])),
            ("The references themselves against the truth, by the same measures", _lines(results["references"])),
            ("Control: CT through registration A, then B, against the CT (MAE, HU)", _lines(results["control"])),
            ("Leaving pairs out: MAE against the truth minus that of all pairs (HU)", _lines(results["exclusion"])),
            ("Spread of the ensemble, voxel by voxel: Spearman's correlation with the absolute error (…/truth) and with "
             "the size of a reference's bias", _lines(results["spread_by_voxel"])),
        ],
        real=real_tables(real, plan),
        agreeing=results["as_good_as_registrations"],
        slopes=results["dose_response"],
        rankings=results["rankings"],
        spread=spread,
        figures={name: data_address(figure, "image/png") for name, figure in drawn.items()},
        number=number,
        label_of=label_of,
    )  # fmt: skip
    write_text(out / "report.html", page)
    return out / "report.html"


def read_rows(files: StudyFiles) -> list[Row]:
    """All scores of the cells that are there."""
    rows = []
    for cell in files.cells:
        path = files.scores_file(cell)
        if path.is_file():
            for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
                scores = {k: v for k, v in row.items() if k not in ("case", "region", "evaluate")}
                name = files.train_name(cell)
                case = files.case_name(cell.cohort, row["case"])
                rows.append(Row(name, row["evaluate"], row["region"], case, cell.seed, scores))
    return rows


def _by_case_name(files: StudyFiles, cohort: str, found: dict[str, Any]) -> dict[str, Any]:
    """What `score_references` says, its cases named as in `read_rows`."""

    def named(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"case": files.case_name(cohort, row["case"])} for row in rows]

    pictures = {
        name: {files.case_name(cohort, case): picture for case, picture in cases.items()}
        for name, cases in found["pictures"].items()
    }
    return {"rows": named(found["rows"]), "control": named(found["control"]), "pictures": pictures}


def _keys(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(k for row in rows for k in row.scores))


def _flat(row: Row) -> dict[str, Any]:
    own = {"train": row.train, "evaluate": row.evaluate, "region": row.region, "case": row.case, "seed": row.seed}
    return own | row.scores


def _csv(header: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def _reference_estimates(rows: Sequence[dict[str, Any]]) -> list[Estimate]:
    optional = [k for k in dict.fromkeys(k for row in rows for k in row) if is_score(k)]
    kept = [
        k for k in optional if k in ("mae", "mae_same", "sharpness", "bone_dice", "DICE", "HD95") or k.startswith("d_")
    ]
    return _means(rows, (*kept, *DISPLACEMENT, *EDGE_SHIFT))


def _means(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[Estimate]:
    """By name and quantity, over the rows that have it."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for key in keys:
            if key in row:
                groups.setdefault((str(row["train"]), key), []).append(float(row[key]))
    return [analysis.mean_of(name, key, values) for (name, key), values in groups.items()]


def _lines(estimates: Sequence[Estimate]) -> list[tuple[str, ...]]:
    return [
        (e.name, label_of(e.quantity), str(e.n), number(e.mean, 3), f"[{number(e.low, 3)}, {number(e.high, 3)}]")
        for e in estimates
    ]


def _matrix(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Means over cases, trainings down, references across."""
    columns = list(dict.fromkeys(r.evaluate for r in rows))
    trainings = list(dict.fromkeys(r.train for r in rows))
    cells: dict[tuple[str, str], list[float]] = {}
    for row in analysis.over_seeds(rows):
        if metric in row.scores:  # an organ that a case lost has no distance
            cells.setdefault((row.train, row.evaluate), []).append(row.scores[metric])
    lines = []
    for train in trainings:
        texts = [train]
        for column in columns:
            values = cells.get((train, column))
            texts.append(f"{number(sum(values) / len(values), digits_of(metric))} ({len(values)})" if values else "–")
        lines.append(texts)
    return {"metric": label_of(metric), "columns": columns, "rows": lines}


def _exclusions(files: StudyFiles) -> dict[str, tuple[str, int]]:
    """Training without some pairs → the one on most of them, and how many were left out (of the first seed's)."""
    most = "none" if "none" in files.plan.exclusions else files.plan.exclusions[0]
    whole = {(c.cohort, c.pairs, c.loss, c.supervision): c for c in files.cells if c.exclusion == most}
    found: dict[str, tuple[str, int]] = {}
    for cell in files.cells:
        base = whole.get((cell.cohort, cell.pairs, cell.loss, cell.supervision))
        if base is not None and cell.exclusion != most and files.scores_file(cell).is_file():
            count = len(left_out(files, cell))
            found.setdefault(files.train_name(cell), (files.train_name(base), count))
    return found
