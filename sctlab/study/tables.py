"""Tables of a study from per-case scores: means, deviations, paired tests against one cell, as CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sctlab.measures.statistics import bootstrap_interval, holm, rank_biserial, wilcoxon_p
from sctlab.reporting import counted, number, render
from sctlab.study.names import digits_of, label_of
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text
from sctlab_model.io.paths import refuse_replacing

KEYS = ("train", "evaluate", "region", "case")
ALL = "all"
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
LATEX = {c: f"\\{c}" for c in "_&%#${}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
}  # fmt: skip
COLUMNS = (
    "region", "train", "evaluate", "metric", "n", "mean", "sd", "sd_sample", "p", "p_holm", "n_paired",
    "difference", "difference_low", "difference_high", "effect_size",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One train x evaluate combination in one region and metric, against the reference cell.

    Args:
        region: Region, or `all` for the cases of all regions.
        train, evaluate: Registration of the training pairs and of the references.
        metric: Column of the scores.
        n: Cases with a value.
        mean: Mean over them.
        sd: Population standard deviation (ddof 0), as the published study prints.
        sd_sample: Sample standard deviation (ddof 1); None for one case.
        p: Two-sided Wilcoxon signed-rank test against the reference cell, paired by case; None for the reference cell.
        p_holm: p after Holm's adjustment over the cells of this region and metric.
        n_paired: Cases that this cell and the reference cell share.
        difference: Mean of this cell minus the reference cell over those cases.
        difference_low, difference_high: 95 % bootstrap interval of that mean (10,000 resamplings of cases).
        effect_size: Matched-pairs rank-biserial correlation, from -1 to 1.
    """

    region: str
    train: str
    evaluate: str
    metric: str
    n: int
    mean: float
    sd: float
    sd_sample: float | None
    p: float | None = None
    p_holm: float | None = None
    n_paired: int = 0
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    effect_size: float | None = None

    @property
    def name(self) -> str:
        """`train/evaluate`."""
        return f"{self.train}/{self.evaluate}"


@dataclass(frozen=True)
class StudyTables:
    """All cells of all tables, and the cell that they were compared with.

    Args:
        cells: By metric, region, and combination in the file's order.
        against: Train and evaluate of the reference cell.
        notes: What a reader of the numbers must know.
    """

    cells: tuple[Cell, ...]
    against: tuple[str, str]
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """In the file's order."""
        return list(dict.fromkeys(c.metric for c in self.cells))


Scores = dict[tuple[str, str], dict[tuple[str, str], dict[str, float]]]


def read_scores(path: str | Path) -> tuple[Scores, list[str]]:
    """Scores of a CSV with columns train, evaluate, region, case and one column per metric.

    Returns:
        (train, evaluate) → (region, case) → metric → value (empty cells are left out), and the metrics.

    Raises:
        InputError: No such file, a missing column, no metric, a row twice, or a value that is no finite number.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            reader.fieldnames = header = [_one_line(c) for c in names]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, found=f"can't be read ({error})", expected="a CSV of scores") from error
    missing = [k for k in KEYS if k not in header]
    metrics = [c for c in header if c not in KEYS]
    if missing or not metrics:
        separators = {";": "semicolons", "\t": "tabs"}
        other = next((name for sign, name in separators.items() if any(sign in n for n in names)), None)
        raise InputError(
            path,
            found=f"columns {', '.join(header) or 'none'}",
            expected="train, evaluate, region, case and one column per metric",
            advice=f"the file has {other}: save it with commas between values, and decimal points" if other else "",
        )
    if "" in header:
        raise InputError(
            path,
            found=f"column {header.index('') + 1} has no name",
            expected="the name of its metric",
            advice="leave it out: it is the index of a table program, or a comma at the end of the line",
        )
    twice = next((c for c in header if header.count(c) > 1), None)
    if twice is not None:
        raise InputError(path, found=f"column {twice} twice", expected="each column once")
    scores: Scores = defaultdict(dict)
    for line, row in rows:
        if None in row or None in row.values():
            count = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
            raise InputError(path, found=f"line {line}: {count} values", expected=f"the header's {len(header)}")
        row = {k: _one_line(v) for k, v in row.items()}
        if not any(row.values()):  # what is left below a table in a spreadsheet
            continue
        empty = next((k for k in KEYS if not row[k]), None)
        if empty is not None or row["region"] == ALL:
            found = f"no {empty}" if empty is not None else f"region '{ALL}'"
            advice = "the rows over all regions are made here" if empty is None else ""
            raise InputError(
                path,
                found=f"line {line}: {found}",
                expected=" and ".join((", ".join(KEYS[:3]), KEYS[3])),
                advice=advice,
            )
        combination, case = (row["train"], row["evaluate"]), (row["region"], row["case"])
        if case in scores[combination]:
            raise InputError(
                path, found=f"line {line}: {'/'.join(combination)} {'/'.join(case)} twice", expected="one row each"
            )
        scores[combination][case] = {m: _value(row[m], path, line, m) for m in metrics if row[m]}
    if not scores:
        raise InputError(path, found="no rows", expected="scores")
    return dict(scores), metrics


def build_tables(scores: Scores, metrics: Sequence[str], against: str) -> StudyTables:
    """Compare every train x evaluate combination with one, by region and over all regions.

    Args:
        scores: As `read_scores` returns them.
        metrics: Which of their metrics.
        against: The reference cell, `train/evaluate`.

    Raises:
        InputError: There is no such cell.
    """
    names: dict[str, tuple[str, str]] = {}
    for combination in scores:
        name = "/".join(combination)
        if name in names:
            both = " and ".join(f"train '{t}' with evaluate '{e}'" for t, e in (names[name], combination))
            raise InputError("scores", found=f"{both} are both {name}", expected="cells of different names")
        names[name] = combination
    if against not in names:
        raise InputError("--against", found=f"'{against}'", expected="one of " + ", ".join(sorted(names)))
    reference = names[against]
    regions = list(dict.fromkeys(region for cases in scores.values() for region, _ in cases))
    # one region: `all` would say the same again
    groups = [*sorted(regions), ALL] if len(regions) > 1 else regions
    cells: list[Cell] = []
    for metric in metrics:
        for group in groups:
            cells += _row_of_cells(scores, metric, group, reference)
    notes = [f"{label_of(m)}: no value in any row" for m in metrics if m not in {c.metric for c in cells}]
    return StudyTables(tuple(cells), reference, (*notes, *_unpaired(cells, reference)))


def write_tables(path: str | Path, out: str | Path, *, against: str) -> StudyTables:
    """Build the tables of a file and write tables.csv, tables.tex and tables.html into the folder `out`."""
    out = Path(out)
    refuse_replacing(out / "tables.csv", Path(path))
    tables = build_tables(*read_scores(path), against)
    write_text(out / "tables.csv", tables_csv(tables))
    write_text(out / "tables.tex", tables_latex(tables))
    page = render(
        "tables.html",
        title="Train x evaluate",
        subtitle=f"Scores of {Path(path).name}, every cell against {'/'.join(tables.against)}",
        against="/".join(tables.against),
        notes=tables.notes,
        tables=[_page_table(tables, m) for m in tables.metrics],
        header=COLUMNS,
        rows=[
            [label_of(c.metric) if k == "metric" else _text(getattr(c, k), 4) for k in COLUMNS] for c in tables.cells
        ],
    )
    write_text(out / "tables.html", page)
    return tables


def stars(p: float | None) -> str:
    """`*` below 0.05, `**` below 0.01, `***` below 0.001, as the published study marks uncorrected p-values."""
    return next((mark for limit, mark in STARS if p is not None and p < limit), "")


def tables_csv(tables: StudyTables) -> str:
    """One row per cell with the columns of `COLUMNS`; undefined values are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_text(getattr(c, k), 10) for k in COLUMNS] for c in tables.cells)
    return text.getvalue()


def tables_latex(tables: StudyTables) -> str:
    """One `tabular` per metric: regions down, combinations across, mean ± population deviation with stars."""
    parts = ["% mean \\pm population standard deviation (n where it is not the row's); * p<.05, ** p<.01, *** p<.001, two-sided Wilcoxon signed-rank",
             f"% against {'/'.join(tables.against)}, uncorrected; tables.csv has Holm's adjustment"]  # fmt: skip
    for metric in tables.metrics:
        header, rows = _grid(tables, metric)
        parts += ["", f"% {label_of(metric)}", "\\begin{tabular}{l" + "c" * (len(header) - 1) + "}", "\\hline"]
        parts.append(" & ".join(map(_latex, header)) + " \\\\ \\hline")
        for label, count, cells in rows:
            texts = [
                f"${number(c.mean, digits_of(metric))} \\pm {number(c.sd, digits_of(metric))}$"
                + (f"$^{{{stars(c.p)}}}$" if stars(c.p) else "")
                + (f" ({c.n})" if c.n != count else "")
                if c is not None
                else "--"
                for c in cells
            ]
            parts.append(" & ".join([_latex(label), *texts]) + " \\\\")
        parts += ["\\hline", "\\end{tabular}"]
    return "\n".join(parts) + "\n"


def _row_of_cells(scores: Scores, metric: str, group: str, reference: tuple[str, str]) -> list[Cell]:
    """The cells of one metric and region: those that Holm's adjustment is over."""

    def values(combination: tuple[str, str]) -> dict[tuple[str, str], float]:
        cases = scores[combination].items()
        return {case: v[metric] for case, v in cases if metric in v and group in (ALL, case[0])}

    base = values(reference)
    cells = []
    for combination in scores:
        own = values(combination)
        if not own:
            continue
        numbers = np.array(list(own.values()))
        cell = Cell(
            group,
            *combination,
            metric,
            n=numbers.size,
            mean=float(numbers.mean()),
            sd=float(numbers.std()),
            sd_sample=float(numbers.std(ddof=1)) if numbers.size > 1 else None,
        )
        shared = [case for case in own if case in base]
        cells.append(cell if combination == reference or not shared else _compared(cell, own, base, shared))
    adjusted = holm([c.p for c in cells])
    return [c if p is None else replace(c, p_holm=p) for c, p in zip(cells, adjusted, strict=True)]


def _compared(
    cell: Cell, own: dict[tuple[str, str], float], base: dict[tuple[str, str], float], shared: list[tuple[str, str]]
) -> Cell:
    x, y = (np.array([v[case] for case in shared]) for v in (own, base))
    low, high = bootstrap_interval(x - y) if len(shared) > 1 else (None, None)
    return replace(
        cell,
        p=wilcoxon_p(x, y),
        n_paired=len(shared),
        difference=float((x - y).mean()),
        difference_low=low,
        difference_high=high,
        effect_size=rank_biserial(x, y),
    )


def _unpaired(cells: Sequence[Cell], reference: tuple[str, str]) -> list[str]:
    lines = [
        f"{c.name}, {c.region}, {label_of(c.metric)}: "
        + (
            f"{c.n_paired} of {counted(c.n, 'case')} in the reference cell, too: only those were compared"
            if c.n_paired
            else "no case is in the reference cell, too: not compared"
        )
        for c in cells
        if (c.train, c.evaluate) != reference and c.n_paired < c.n
    ]
    return list(dict.fromkeys(lines))


def _grid(tables: StudyTables, metric: str) -> tuple[list[str], list[tuple[str, int, list[Cell | None]]]]:
    """The combinations, and by region its label, the n of most cases, which it names, and its cells."""
    chosen = [c for c in tables.cells if c.metric == metric]
    combinations = list(dict.fromkeys(c.name for c in chosen))
    combinations.sort(key=lambda name: name != "/".join(tables.against))
    rows: list[tuple[str, int, list[Cell | None]]] = []
    for region in dict.fromkeys(c.region for c in chosen):
        by_name = {c.name: c for c in chosen if c.region == region}
        count = max(c.n for c in by_name.values())
        rows.append((f"{region} ({count})", count, [by_name.get(name) for name in combinations]))
    return ["region (n)", *combinations], rows


def _page_table(tables: StudyTables, metric: str) -> dict[str, object]:
    """Combinations down: a study has more of them than regions."""
    header, rows = _grid(tables, metric)
    texts: list[list[dict[str, object]]] = []
    for k, combination in enumerate(header[1:]):
        cells = [_page_cell(cells[k], digits_of(metric), count) for _, count, cells in rows]
        texts.append([{"main": combination, "details": ()}, *cells])
    return {"title": label_of(metric), "header": ["train/evaluate", *(label for label, *_ in rows)], "rows": texts}


def _page_cell(cell: Cell | None, digits: int, count: int) -> dict[str, object]:
    if cell is None:
        return {"main": "–", "details": ()}
    details: tuple[str, ...] = ()
    if cell.difference is not None:
        interval = f"[{number(cell.difference_low, digits)}, {number(cell.difference_high, digits)}]"
        details = (
            f"{number(cell.difference, digits, sign=True)} {interval}",
            f"p {_p(cell.p)}, Holm {_p(cell.p_holm)}, n {cell.n_paired}",
        )
    main = f"{number(cell.mean, digits)} ± {number(cell.sd, digits)} {stars(cell.p)}"
    own = f" ({cell.n})" if cell.n != count else ""
    return {"main": main.strip() + own, "details": details}


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _text(value: object, significant: int) -> str:
    if value is None:
        return ""
    return f"{value:.{significant}g}" if isinstance(value, float) else str(value)


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text)


def _one_line(text: str) -> str:
    """Without spaces around it and line breaks inside, which would end a comment of LaTeX."""
    return " ".join(text.split())


def _value(text: str, path: Path, line: int, metric: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(path, found=f"line {line}: {metric} '{text}'", expected="a finite number, or nothing")
    return value
