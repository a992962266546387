"""Two evaluations of the same cases: paired differences, tests, a picture."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from sctlab.evaluation.definitions import CHALLENGE_IMAGE, METRICS, used_metrics
from sctlab.evaluation.records import CaseRecord, read_evaluation
from sctlab.measures.statistics import PairedDifference, paired_difference
from sctlab.reporting import counted, number, render
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text
from sctlab_model.records import Record

ALL = "all"
HEADER = ("metric", "n", "A", "B", "B − A", "95 % interval", "p (Wilcoxon)", "better in B")
SHARED_DICE = "dice_shared"
LOST_BELOW = 0.1  # the registration-bias study drops labels whose Dice is this or less in any compared method


class Difference(BaseModel):
    """B minus A of one metric in one region; fields as `PairedDifference`."""

    region: str = Field(description="Region, or `all`.")
    metric: str = Field(description="Key of the metric.")
    count: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float | None
    b_better: int


class Baseline(BaseModel):
    """Mean of an image metric for what costs nothing, over the cases of one region that both evaluations have."""

    region: str = Field(description="Region, or `all`.")
    metric: str = Field(description="Key of the metric.")
    name: str = Field(description="`all water` or `raw image`.")
    count: int
    mean_a: float = Field(description="Against A's references.")
    mean_b: float = Field(description="Against B's references.")


class ComparisonRecord(Record):
    """`comparison.json`."""

    a: str
    b: str
    warnings: list[str] = Field(default_factory=list, description="What makes the comparison doubtful.")
    differences: list[Difference]
    baselines: list[Baseline] = Field(default_factory=list, description="What a method must beat.")


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Args:
        record: Differences and warnings.
        pairs: Metric key → (region, a, b) of every shared case.
    """

    record: ComparisonRecord
    pairs: dict[str, list[tuple[str, float, float]]]

    @property
    def regions(self) -> list[str]:
        """Regions with a table, `all` first."""
        return list(dict.fromkeys(d.region for d in self.record.differences))

    def rows(self, region: str) -> list[list[str]]:
        """The table of a region, one row per metric and per baseline of it, columns as `HEADER`."""
        rows = []
        for difference in (d for d in self.record.differences if d.region == region):
            rows.append(_row(difference))
            rows += [
                _baseline_row(b) for b in self.record.baselines if (b.region, b.metric) == (region, difference.metric)
            ]
        return rows


def compare_evaluations(a: str | Path, b: str | Path, out: str | Path | None = None) -> Comparison:
    """Pair the cases of two `sctlab evaluate` outputs.

    Args:
        a, b: Output folders.
        out: Where comparison.json and comparison.html go; None writes nothing.

    Raises:
        InputError: An evaluation is missing, or they share no case.
    """
    a, b = Path(a), Path(b)
    cases_a, cases_b = ({c.key: c for c in read_evaluation(folder).cases} for folder in (a, b))
    shared = [k for k in cases_a if k in cases_b]
    if not shared:
        raise InputError(b, found=f"no case of {a}", expected="two evaluations of the same cases")
    warnings = []
    for name, cases in ((a, cases_a), (b, cases_b)):
        if len(cases) > len(shared):
            warnings.append(f"{len(cases) - len(shared)} of {counted(len(cases), 'case')} only in {name}: left out")
    other = [k for k in shared if cases_a[k].registration != cases_b[k].registration]
    if other:
        warnings.append(
            f"{counted(len(other), 'case')} scored against differently registered references "
            f"({', '.join(other[:3])}{', …' if len(other) > 3 else ''}): the difference holds registration as well as synthesis"
        )
    couples = [(cases_a[k], cases_b[k]) for k in shared]
    pairs = {key: _values(couples, key) for key in used_metrics(k for a, _ in couples for k in a.metrics)}
    pairs[SHARED_DICE] = _shared_dice(couples)
    differences = _differences(pairs)
    record = ComparisonRecord(
        a=a.resolve().name,
        b=b.resolve().name,
        warnings=warnings,
        differences=differences,
        baselines=_baselines(couples, differences),
    )
    comparison = Comparison(record, pairs)
    if out is not None:
        write_comparison(comparison, Path(out))
    return comparison


def write_comparison(comparison: Comparison, out: Path) -> None:
    """`comparison.json` and `comparison.html` (one offline page with the picture)."""
    from sctlab.evaluation import figures  # here, because it loads what draws

    record = comparison.record
    record.write(out / "comparison.json")
    page = render(
        "comparison.html",
        title=f"{record.b} (B) against {record.a} (A)",
        subtitle="Two evaluations of the same cases",
        warnings=record.warnings,
        header=HEADER,
        picture=figures.comparison((record.a, record.b), {k: v for k, v in comparison.pairs.items() if v}),
        tables=[{"region": r, "rows": comparison.rows(r)} for r in comparison.regions],
    )
    write_text(out / "comparison.html", page)


def _values(couples: list[tuple[CaseRecord, CaseRecord]], key: str) -> list[tuple[str, float, float]]:
    values = [(a.region, a.metrics.get(key), b.metrics.get(key)) for a, b in couples]
    return [(region, x, y) for region, x, y in values if x is not None and y is not None]


def _shared_dice(couples: list[tuple[CaseRecord, CaseRecord]]) -> list[tuple[str, float, float]]:
    """Mean Dice over the labels that both methods have (Dice above 0.1 in both), as the registration-bias study counts."""
    values = []
    for a, b in couples:
        scores = [{o["label"]: o["dice"] for o in case.organs} for case in (a, b)]
        labels = [i for i in scores[0] if i in scores[1] and min(scores[0][i], scores[1][i]) > LOST_BELOW]
        if labels:
            x, y = (float(np.mean([s[i] for i in labels])) for s in scores)
            values.append((a.region, x, y))
    return values


def _differences(pairs: dict[str, list[tuple[str, float, float]]]) -> list[Difference]:
    found: dict[tuple[str, str], PairedDifference] = {}
    for key, values in pairs.items():
        regions: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for region, x, y in values:
            regions[region].append((x, y))
            regions[ALL].append((x, y))
        if len(regions) == 2:  # one region: `all` would say the same again
            del regions[ALL]
        for region in sorted(regions, key=lambda r: (r != ALL, r)):
            first, second = zip(*regions[region], strict=True)
            found[region, key] = paired_difference(first, second, better=METRICS[key].better)
    return [Difference(region=r, metric=k, **asdict(d)) for (r, k), d in found.items()]


def _baselines(couples: list[tuple[CaseRecord, CaseRecord]], differences: list[Difference]) -> list[Baseline]:
    """Of the image metrics that the differences hold, in the same regions."""
    found = []
    shown = {(d.region, d.metric) for d in differences}
    for region in dict.fromkeys(d.region for d in differences):
        chosen = [pair for pair in couples if region in (ALL, pair[0].region)]
        for name in dict.fromkeys(n for a, b in chosen for n in a.baselines if n in b.baselines):
            for key in (k for k in CHALLENGE_IMAGE if (region, k) in shown):
                values = [[case.baselines.get(name, {}).get(key) for case in pair] for pair in chosen]
                both = [(x, y) for x, y in values if x is not None and y is not None]
                if both:
                    a, b = (float(np.mean(column)) for column in zip(*both, strict=True))
                    found.append(Baseline(region=region, metric=key, name=name, count=len(both), mean_a=a, mean_b=b))
    return found


def _baseline_row(b: Baseline) -> list[str]:
    metric = METRICS[b.metric]
    means = [number(v, metric.digits) for v in (b.mean_a, b.mean_b)]
    return [f"{metric.title}, {b.name}", str(b.count), *means, "", "", "", ""]


def _row(d: Difference) -> list[str]:
    metric = METRICS[d.metric]
    # one case has no interval: a resampling of one value is that value
    interval = f"[{number(d.low, metric.digits)}, {number(d.high, metric.digits)}]" if d.count > 1 else "–"
    return [
        metric.label,
        str(d.count),
        number(d.mean_a, metric.digits),
        number(d.mean_b, metric.digits),
        number(d.difference, metric.digits, sign=True),
        interval,
        "–" if d.p_value is None else f"{d.p_value:.3g}",
        f"{d.b_better}/{d.count}",
    ]
