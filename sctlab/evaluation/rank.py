"""Ranking evaluations: from folders (or a leaderboard's CSV) to places, with stability and significance; files and a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from sctlab.evaluation.definitions import METRICS
from sctlab.evaluation.ranking import (
    BOOTSTRAP_SAMPLES,
    SCHEMES,
    Ranking,
    Stability,
    bootstrap_places,
    rank_scores,
    read_leaderboard,
    significance,
)
from sctlab.evaluation.records import EvaluationRecord, read_evaluation
from sctlab.reporting import counted, number, render
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text
from sctlab_model.io.paths import refuse_replacing
from sctlab_model.records import Record


class RankingRecord(Record):
    """`ranking.json`."""

    scheme: str
    methods: list[dict[str, Any]] = Field(
        description="Best first: name, place, score, groups, ranks, values, interval."
    )
    cases: int = Field(0, description="Cases that every method was scored on; 0 for a leaderboard's means.")
    samples: int = Field(0, description="Resamplings of the cases behind the intervals.")
    significant: dict[str, list[list[int]]] = Field(
        default_factory=dict, description="Metric and [method][other]: 1 better, -1 worse, 0 the cases don't tell."
    )
    baselines: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="`all water`, `raw image`: metric and mean over the shared cases; not ranked."
    )
    notes: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class RankResult:
    """A ranking, with what the cases say about it where there are cases."""

    record: RankingRecord
    ranking: Ranking
    stability: Stability | None = None
    significant: dict[str, np.ndarray] | None = None


def rank_evaluations(
    evaluations: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    scheme: str = "synthrad2025",
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> RankResult:
    """Rank methods by their `sctlab evaluate` outputs on the same cases, or by one CSV of means.

    Args:
        evaluations: Output folders, at least two; or one leaderboard CSV (see `read_leaderboard`).
        out: Where ranking.json, ranking.csv and ranking.html go; None writes nothing.
        scheme: Of `SCHEMES`.
        samples: Resamplings of the cases.

    Raises:
        InputError: Unknown scheme, fewer than two methods, or no shared case.
    """
    if scheme not in SCHEMES:
        raise InputError("--scheme", found=f"'{scheme}'", expected="one of " + ", ".join(SCHEMES))
    paths = [Path(e) for e in evaluations]
    tables = [p for p in paths if p.suffix.lower() == ".csv"]
    if tables and len(paths) > 1:
        raise InputError(tables[0], found=f"a CSV among {len(paths)} arguments", expected="one CSV alone, or folders")
    if tables:
        if out is not None:
            refuse_replacing(Path(out) / "ranking.csv", tables[0])
        means = read_leaderboard(paths[0])
        if len(means) < 2:
            raise InputError(paths[0], found="1 method", expected="two or more")
        ranking = rank_scores(means, SCHEMES[scheme])
        notes = ["Means only: how stable a place is can't be told without the cases.", *_notes(ranking)]
        result = RankResult(_record(scheme, ranking, None, None, 0, notes), ranking)
    else:
        result = _rank_folders(paths, scheme, samples, seed)
    if out is not None:
        _write(result, Path(out))
    return result


def _rank_folders(paths: Sequence[Path], scheme_name: str, samples: int, seed: int) -> RankResult:
    scheme = SCHEMES[scheme_name]
    if len(paths) < 2:
        raise InputError("rank", found=f"{len(paths)} evaluation", expected="two or more, or one leaderboard CSV")
    records = dict(zip(_names(paths), map(read_evaluation, paths), strict=True))
    shared = _shared(records)
    if not shared:
        raise InputError(paths[1], found=f"no case of {paths[0]}", expected="evaluations of the same cases")
    notes = []
    for name, found in records.items():
        if len(found.cases) > len(shared):
            notes.append(
                f"{len(found.cases) - len(shared)} of {counted(len(found.cases), 'case')} of {name} not in all others: left out."
            )
        if found.left_out:
            notes.append(
                f"{name} left out {counted(len(found.left_out), 'case')}; a platform would give them the worst score."
            )
    metrics = [m for m in scheme.metrics if any(m in c.metrics for r in records.values() for c in r.cases)]
    cases = {name: _values(record, shared, metrics) for name, record in records.items()}
    means = {n: dict(zip(metrics, map(_mean, table.T), strict=True)) for n, table in cases.items()}
    ranking = rank_scores(means, scheme)
    used = [m for m in metrics if m in ranking.values]
    cases = {name: table[:, [metrics.index(m) for m in used]] for name, table in cases.items()}
    stability = bootstrap_places(cases, used, scheme, ranking.methods, samples=samples, seed=seed)
    significant = significance(cases, used, ranking.methods)
    notes += _notes(ranking)
    record = _record(scheme_name, ranking, stability, significant, len(shared), notes)
    record.baselines = _baselines(next(iter(records.values())), shared, used)
    return RankResult(record, ranking, stability, significant)


def _shared(records: dict[str, EvaluationRecord]) -> list[str]:
    keys = [[c.key for c in r.cases] for r in records.values()]
    return [k for k in keys[0] if all(k in other for other in keys[1:])]


def _values(record: EvaluationRecord, shared: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    by_key = {c.key: c for c in record.cases}
    rows = [[by_key[k].metrics.get(m) for m in metrics] for k in shared]
    return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64)


def _baselines(record: EvaluationRecord, shared: Sequence[str], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Means of what costs nothing, against the first evaluation's references."""
    cases = [c for c in record.cases if c.key in set(shared)]
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(n for c in cases for n in c.baselines):
        values = {m: [v for c in cases if (v := c.baselines.get(name, {}).get(m)) is not None] for m in metrics}
        found[name] = {m: float(np.mean(v)) for m, v in values.items() if v}
    return found


def _mean(values: np.ndarray) -> float | None:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else None


def _names(paths: Sequence[Path]) -> list[str]:
    """Folder names; where two are alike, the end of the path that tells them apart."""
    parts = [p.resolve().parts for p in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("rank", found="an evaluation twice", expected="different ones")


def _notes(ranking: Ranking) -> list[str]:
    notes = []
    if ranking.left_out:
        names = "; ".join(METRICS[m].title for m in ranking.left_out)
        them = "it" if len(ranking.left_out) == 1 else "them"
        notes.append(f"Not ranked by {names}: no method has {them}. The place is not the challenge's.")
    for k, method in enumerate(ranking.methods):
        lacking = [METRICS[m].title for m, values in ranking.values.items() if not np.isfinite(values[k])]
        if lacking:
            notes.append(f"{method} has no {'; '.join(lacking)}: last in that.")
    return notes


def _record(
    scheme: str,
    ranking: Ranking,
    stability: Stability | None,
    significant: dict[str, np.ndarray] | None,
    cases: int,
    notes: list[str],
) -> RankingRecord:
    methods = []
    for i, name in enumerate(ranking.methods):
        entry: dict[str, Any] = {"name": name, "place": ranking.places[i], "score": ranking.scores[i]}
        entry["groups"] = {k: v[i] for k, v in ranking.groups.items()}
        entry["ranks"] = {k: v[i] for k, v in ranking.ranks.items()}
        entry["values"] = {k: v[i] if np.isfinite(v[i]) else None for k, v in ranking.values.items()}
        if stability is not None:
            entry["interval"] = [stability.low[i], stability.high[i]]
            entry["first"] = float(stability.shares[i, 0])
        methods.append(entry)
    return RankingRecord(
        scheme=scheme,
        methods=methods,
        cases=cases,
        samples=stability.samples if stability is not None else 0,
        significant={k: v.tolist() for k, v in (significant or {}).items()},
        notes=notes,
    )


def table(record: RankingRecord) -> tuple[list[str], list[list[str]]]:
    """Header and rows for people: place, its interval, score, groups, then values with their ranks."""
    first = record.methods[0]
    header = ["place", "method", *(["95 % of places", "first"] if record.samples else []), "mean rank"]
    header += [*first["groups"], *(METRICS[m].label for m in first["values"])]
    rows = []
    for entry in record.methods:
        row = [str(entry["place"]), entry["name"]]
        if record.samples:
            low, high = entry["interval"]
            row += [f"{low}–{high}" if low != high else str(low), f"{entry['first']:.0%}"]
        row += [number(entry["score"], 2), *(number(v, 2) for v in entry["groups"].values())]
        row += [f"{number(v, METRICS[m].digits)} ({entry['ranks'][m]:g})" for m, v in entry["values"].items()]
        rows.append(row)
    for name, means in record.baselines.items():
        row = ["–", name, *(["", ""] if record.samples else []), "–", *("–" for _ in first["groups"])]
        rows.append(row + [number(means.get(m), METRICS[m].digits) for m in first["values"]])
    return header, rows


def _write(result: RankResult, out: Path) -> None:
    record = result.record
    record.write(out / "ranking.json")
    header, rows = table(record)
    text = io.StringIO()
    metrics = list(record.methods[0]["values"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["place", "method", "mean_rank", *record.methods[0]["groups"], *metrics])
    for entry in record.methods:
        values = ["" if v is None else f"{v:.10g}" for v in entry["values"].values()]
        writer.writerow(
            [
                entry["place"],
                entry["name"],
                f"{entry['score']:.10g}",
                *(f"{v:.10g}" for v in entry["groups"].values()),
                *values,
            ]
        )
    write_text(out / "ranking.csv", text.getvalue())
    from sctlab.evaluation import figures  # here, because it loads what draws

    picture = figures.ranking(result.ranking, result.stability, result.significant)
    page = render(
        "ranking.html",
        title="Ranking",
        subtitle=f"{counted(len(record.methods), 'method')} by the scheme {record.scheme}"
        + (f", {counted(record.cases, 'shared case')}" if record.cases else ""),
        notes=record.notes,
        header=header,
        rows=rows,
        picture=picture,
        samples=record.samples,
        groups={k: [METRICS[m].label for m in v] for k, v in SCHEMES[record.scheme].groups.items()},
    )
    write_text(out / "ranking.html", page)
