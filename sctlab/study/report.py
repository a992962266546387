"""The report of a study: tables and figures again from what is on disk, as HTML, CSV, LaTeX, JSON and a paragraph."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sctlab.reporting import number, render
from sctlab.study import analysis
from sctlab.study.analysis import Estimate, Row
from sctlab.study.cells import StudyFiles
from sctlab.study.figures import dose_figure, slices_figure
from sctlab.study.methods import methods_paragraph
from sctlab.study.plan import StudyPlan
from sctlab.study.run import FAILURES, PLAN, control_rows, prediction_files, reference_rows, references_of, study_cases
from sctlab.study.scores import METRICS, TRUTH
from sctlab.study.tables import build_tables, read_scores, tables_csv, tables_latex
from sctlab_model.cases import read_json
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json, write_text
from sctlab_model.settings import validate

RESULTS, SCORES = "results.json", "scores.csv"


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
    """Write scores.csv, all tables, results.json, methods.txt and report.html; see docs/study.md for the files."""
    files = StudyFiles(plan, out)
    rows = read_rows(files)
    if not rows:
        raise InputError(out, found="no scored cell", expected="one", advice="run the study first")
    write_text(out / "cells.csv", _csv(("train", "evaluate", "region", "case", "seed", *_keys(rows)), map(_flat, rows)))
    mean_rows = analysis.over_seeds(rows)
    scored = [{k: r for k, r in _flat(row).items() if k != "seed"} for row in mean_rows]
    write_text(out / SCORES, _csv(("train", "evaluate", "region", "case", *METRICS), scored))
    first = rows[0]
    against = f"{first.train}/{first.evaluate}"
    tables = build_tables(*read_scores(out / SCORES), against)
    write_text(out / "tables.csv", tables_csv(tables))
    write_text(out / "tables.tex", tables_latex(tables))
    references = [row for cohort in plan.cohorts for row in reference_rows(files, cohort)]
    controls = [row for cohort in plan.cohorts for row in control_rows(files, cohort)]
    results: dict[str, Any] = {
        "against_truth": analysis.against_truth(rows),
        "bias": analysis.bias(rows),
        "dose_response": analysis.dose_response(rows, {files.train_name(c): c.pairs.plan for c in files.cells}),
        "rankings": analysis.rankings(rows),
        "references": _reference_estimates(references),
        "control": _means(controls, ("mae",)),
    }
    for name, values in results.items():
        if values:
            plain = [asdict(v) for v in values]
            write_text(out / f"{name}.csv", _csv(tuple(plain[0]), plain))
    if references:
        write_text(out / "reference_scores.csv", _csv(tuple(references[0]), references))
    failed = read_json(out / FAILURES) if (out / FAILURES).is_file() else {}
    methods = methods_paragraph(plan, files, len({r.case for r in rows}))
    spread = analysis.spread_tells_bias(rows)
    write_text(out / "methods.txt", methods + "\n")
    write_json(
        out / RESULTS,
        {k: [asdict(v) for v in vs] for k, vs in results.items()}
        | {"spread_tells_bias": spread, "failed": failed, "methods": methods},
    )
    page = render(
        "study.html",
        title=plan.title,
        subtitle=f"{len(files.cells)} cells, {plan.folds} folds, {len({r.case for r in rows})} cases",
        failed=failed,
        methods=methods,
        matrices=[_matrix(rows, metric) for metric in METRICS],
        lists=[
            ("Against the truth, by training", _lines(results["against_truth"])),
            ("Bias: score against the reference minus score against the truth", _lines(results["bias"])),
            ("The references themselves against the truth, by the same measures", _lines(results["references"])),
            ("Control: CT through registration A, then B, against the CT (MAE, HU)", _lines(results["control"])),
        ],
        slopes=results["dose_response"],
        rankings=results["rankings"],
        spread=spread,
        dose=dose_figure(results["dose_response"]),
        picture=_picture(files),
        number=number,
    )
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
                rows.append(Row(name, row["evaluate"], row["region"], row["case"], cell.seed, scores))
    return rows


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
    return _means(rows, ("mae", "sharpness", "dx_mm", "dy_mm", "dz_mm", "spread_mm"))


def _means(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[Estimate]:
    names = dict.fromkeys(str(r["train"]) for r in rows)
    return [analysis.mean_of(n, k, [float(r[k]) for r in rows if r["train"] == n]) for n in names for k in keys]


def _lines(estimates: Sequence[Estimate]) -> list[tuple[str, ...]]:
    return [
        (e.name, e.quantity, str(e.n), number(e.mean, 3), f"[{number(e.low, 3)}, {number(e.high, 3)}]")
        for e in estimates
    ]


def _matrix(rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Means over cases, trainings down, references across."""
    columns = list(dict.fromkeys(r.evaluate for r in rows))
    trainings = list(dict.fromkeys(r.train for r in rows))
    cells: dict[tuple[str, str], list[float]] = {}
    for row in analysis.over_seeds(rows):
        cells.setdefault((row.train, row.evaluate), []).append(row.scores[metric])
    lines = []
    for train in trainings:
        texts = [train]
        for column in columns:
            values = cells.get((train, column))
            texts.append(f"{number(sum(values) / len(values), 3)} ({len(values)})" if values else "–")
        lines.append(texts)
    return {"metric": metric, "columns": columns, "rows": lines}


def _picture(files: StudyFiles) -> str | None:
    """The same slice of one case under every training, the truth first."""
    from sctlab.study.run import split_of
    from sctlab_model.io.reading import read_volume

    cohort = next(iter(files.plan.cohorts))
    case, split = study_cases(files, cohort)[0], split_of(files, cohort)
    fold = next((k for k, keys in enumerate(split.validation) if str(case.key) in keys), None)
    truth = references_of(files, cohort, case).get(TRUTH)
    images = {} if truth is None else {TRUTH: truth.ct}
    for cell in files.cells:
        if cell.cohort == cohort and fold is not None and files.finished(cell, fold):
            path, _ = prediction_files(files.fold_folder(cell, fold) / "predictions", case)
            images.setdefault(files.train_name(cell) + " (sCT)", read_volume(path))
    return slices_figure(images, str(case.key)) if images else None
