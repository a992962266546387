"""The files of an evaluation: metrics.json (Grand Challenge), metrics.csv, organs.csv, details.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sctlab.evaluation.definitions import CHALLENGE, CHALLENGE_IMAGE, used_metrics
from sctlab.evaluation.records import DETAILS, CaseRecord, EvaluationRecord
from sctlab.evaluation.tissues import TISSUES
from sctlab.measures.statistics import aggregate
from sctlab_model.io.atomic import write_json, write_text

METRICS_JSON, METRICS_CSV, ORGANS_CSV = "metrics.json", "metrics.csv", "organs.csv"
TISSUE_COLUMNS = ("mae_hu", "mean_error_hu")


def write_results(record: EvaluationRecord, out: Path) -> None:
    """Write all four files into the folder `out`; organs.csv only where a case has organ metrics."""
    cases = record.cases
    write_json(out / METRICS_JSON, challenge_json(cases))
    write_text(out / METRICS_CSV, metrics_csv(cases))
    if any(c.organs for c in cases):
        write_text(
            out / ORGANS_CSV,
            _csv(
                ["case", "region", "label", "organ", "dice", "hd95"],
                (
                    [c.id, c.region, o["label"], o["name"], _cell(o["dice"]), _cell(o["hd95"])]
                    for c in cases
                    for o in c.organs
                ),
            ),
        )
    record.write(out / DETAILS)


def metrics_csv(cases: Sequence[CaseRecord]) -> str:
    """One row per case: every metric, the errors by tissue (`mae_hu_fat`, …) and the baselines (`mae_all_water`, …)."""
    used = used_metrics(key for c in cases for key in c.metrics)
    tissues = [name for name in TISSUES if any(name in c.tissues for c in cases)]
    baselines = list(dict.fromkeys(name for c in cases for name in c.baselines))
    parameters = list(dict.fromkeys(name for c in cases for name in c.parameters))
    header = ["case", "region", "task", *used]
    header += [f"{column}_{_word(name)}" for name in tissues for column in TISSUE_COLUMNS]
    header += [f"{key}_{_word(name)}" for name in baselines for key in CHALLENGE_IMAGE]
    header += parameters

    def row(c: CaseRecord) -> list[str]:
        values = [c.id, c.region, c.task, *(_cell(c.metrics.get(k)) for k in used)]
        values += [_cell(c.tissues.get(name, {}).get(column)) for name in tissues for column in TISSUE_COLUMNS]
        values += [_cell(c.baselines.get(name, {}).get(key)) for name in baselines for key in CHALLENGE_IMAGE]
        return values + [_cell(c.parameters.get(name)) for name in parameters]

    return _csv(header, map(row, cases))


def challenge_json(cases: Sequence[CaseRecord]) -> dict[str, Any]:
    """`{"results": [{mae, psnr, ms_ssim, DICE, HD95}, …], "aggregates": {metric: {…}}}`.

    The organ metrics are left out when no case has labels; an undefined value is null.
    """
    keys = [k for k in CHALLENGE if any(k in c.metrics for c in cases)]
    return {
        "results": [{k: c.metrics.get(k) for k in keys} for c in cases],
        "aggregates": {k: aggregate(c.metrics.get(k) for c in cases) for k in keys},
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _word(name: str) -> str:
    return name.replace(" ", "_")


def _cell(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.10g}"
