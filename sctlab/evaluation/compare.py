"""Two evaluations of the same cases: paired differences, tests, a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from sctlab.evaluation import figures
from sctlab.evaluation.definitions import METRICS
from sctlab.evaluation.results import read_details
from sctlab.measures.statistics import PairedDifference, paired_difference
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_json, write_text

ALL = "all"


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Args:
        names: Of A and B.
        differences: (region or `all`, metric key) → paired difference.
        pairs: Metric key → (region, a, b) of every shared case.
        warnings: What makes the comparison doubtful.
    """

    names: tuple[str, str]
    differences: dict[tuple[str, str], PairedDifference]
    pairs: dict[str, list[tuple[str, float, float]]]
    warnings: list[str]


def compare_evaluations(first: Path, second: Path) -> Comparison:
    """Pair the cases of two `sctlab evaluate` outputs.

    Raises:
        InputError: An evaluation is missing, or they share no case.
    """
    a, b = read_details(first), read_details(second)
    cases_a, cases_b = ({(c["task"], c["id"]): c for c in d["cases"]} for d in (a, b))
    shared = [k for k in cases_a if k in cases_b]
    if not shared:
        raise InputError(second, found=f"no case of {first}", expected="two evaluations of the same cases")
    warnings = []
    for name, cases in ((first, cases_a), (second, cases_b)):
        if len(cases) > len(shared):
            warnings.append(f"{len(cases) - len(shared)} of {len(cases)} cases are only in {name} and were left out")
    other = [k[1] for k in shared if cases_a[k]["registration"] != cases_b[k]["registration"]]
    if other:
        warnings.append(
            f"{len(other)} cases were scored against differently registered references "
            f"({', '.join(other[:3])}, …): the difference holds registration as well as synthesis"
        )
    pairs: dict[str, list[tuple[str, float, float]]] = {}
    for key in METRICS:
        values = [
            (cases_a[k]["region"], cases_a[k]["metrics"].get(key), cases_b[k]["metrics"].get(key)) for k in shared
        ]
        pairs[key] = [v for v in values if v[1] is not None and v[2] is not None]
    differences = {}
    for key, values in pairs.items():
        regions: dict[str, list] = defaultdict(list)
        for region, x, y in values:
            regions[region].append((x, y))
            regions[ALL].append((x, y))
        if len(regions) == 2:  # one region: `all` would say the same again
            del regions[ALL]
        for region in sorted(regions, key=lambda r: (r != ALL, r)):
            x, y = zip(*regions[region], strict=True)
            differences[region, key] = paired_difference(x, y, better=METRICS[key].better)
    return Comparison((first.name or "A", second.name or "B"), differences, pairs, warnings)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """A table a region."""
    for line in comparison.warnings:
        console.print(f"[yellow]warning[/yellow] {line}", soft_wrap=True)
    a, b = comparison.names
    for region in dict.fromkeys(r for r, _ in comparison.differences):
        table = Table(title=f"region {region}" if region != ALL else "all regions", padding=(0, 0))
        table.add_column("metric", min_width=14)
        for heading in ("n", f"A: {a}", f"B: {b}", "B - A", "95 % interval", "p", "won by B"):
            table.add_column(heading, no_wrap=heading != "won by B", justify="right")
        for row in _rows(comparison, region):
            table.add_row(*row)
        console.print(table)
    console.print(
        "p: two-sided Wilcoxon signed-rank test, not corrected for the number of metrics and regions.", style="dim"
    )


def _rows(comparison: Comparison, region: str) -> list[list[str]]:
    rows = []
    for (this_region, key), d in comparison.differences.items():
        if this_region != region:
            continue
        metric = METRICS[key]

        def text(value: float, digits: int = metric.digits) -> str:
            return f"{value:.{digits}f}"

        rows.append(
            [
                metric.label,
                str(d.count),
                text(d.mean_a),
                text(d.mean_b),
                f"{d.difference:+.{metric.digits}f}",
                f"[{text(d.low)}, {text(d.high)}]",
                "–" if d.p_value is None else f"{d.p_value:.3g}",
                f"{d.b_better}/{d.count}",
            ]
        )
    return rows


def write_comparison(comparison: Comparison, out: Path) -> None:
    """`comparison.json` and `comparison.html` (one offline page with the picture)."""
    write_json(out / "comparison.json", _json(comparison))
    shown = {k: v for k, v in comparison.pairs.items() if v}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    regions = list(dict.fromkeys(r for r, _ in comparison.differences))
    write_text(
        out / "comparison.html",
        template.render(
            names=comparison.names,
            warnings=comparison.warnings,
            picture=figures.comparison(comparison.names, shown),
            tables=[{"region": r, "rows": _rows(comparison, r)} for r in regions],
        ),
    )


def _json(comparison: Comparison) -> dict[str, Any]:
    return {
        "a": comparison.names[0],
        "b": comparison.names[1],
        "warnings": comparison.warnings,
        "differences": [{"region": r, "metric": k, **asdict(d)} for (r, k), d in comparison.differences.items()],
    }


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ names[1] }} against {{ names[0] }}</title>
<style>
body { max-width: 1120px; margin: 28px auto; padding: 0 22px; color: #111827; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid #e5e7eb; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { color: #6b7280; }
.warning { border-left: 5px solid #d55e00; background: #fff7f0; padding: 8px 14px; }
img { max-width: 100%; }
</style></head><body>
<h1>{{ names[1] }} (B) against {{ names[0] }} (A)</h1>
{% for line in warnings %}<p class="warning">{{ line }}</p>{% endfor %}
{% if picture %}<h2>Difference B &minus; A of every case</h2><img src="{{ picture }}" alt="paired differences">{% endif %}
{% for table in tables %}<h2>{{ "All regions" if table.region == "all" else table.region }}</h2>
<table><thead><tr><th>metric</th><th>n</th><th>A</th><th>B</th><th>B &minus; A</th><th>95 % interval</th>
<th>p (Wilcoxon)</th><th>B better</th></tr></thead><tbody>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table>{% endfor %}
<p>Mean difference with a bootstrap interval over cases (10,000 resamplings) and a two-sided Wilcoxon signed-rank test;
p is not corrected for the number of metrics and regions.</p>
</body></html>
"""

__all__: Sequence[str] = ("Comparison", "compare_evaluations", "print_comparison", "write_comparison")
