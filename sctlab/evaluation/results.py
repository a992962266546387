"""The files of an evaluation: metrics.json (Grand Challenge), metrics.csv, organs.csv, details.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sctlab.evaluation.case import CaseRecord
from sctlab.evaluation.definitions import CHALLENGE, METRICS
from sctlab.measures.statistics import aggregate
from sctlab_model.cases import read_json
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_json, write_text

METRICS_JSON, METRICS_CSV, ORGANS_CSV, DETAILS = "metrics.json", "metrics.csv", "organs.csv", "details.json"


def write_results(records: Sequence[CaseRecord], out: Path, summary: dict[str, Any]) -> None:
    """Write all four files.

    Args:
        records: Cases that were scored.
        out: Folder.
        summary: What concerns all cases (`mismatches`, `left_out`, …), kept in `details.json`.
    """
    write_json(out / METRICS_JSON, challenge_json(records))
    used = [key for key in METRICS if any(key in r.metrics for r in records)]
    write_text(
        out / METRICS_CSV,
        _csv(
            ["case", "region", "task", *used],
            ([r.id, r.region, r.task, *(_cell(r.metrics.get(k)) for k in used)] for r in records),
        ),
    )
    if any(r.organs for r in records):
        write_text(
            out / ORGANS_CSV,
            _csv(
                ["case", "region", "label", "organ", "dice", "hd95"],
                (
                    [r.id, r.region, o["label"], o["name"], _cell(o["dice"]), _cell(o["hd95"])]
                    for r in records
                    for o in r.organs
                ),
            ),
        )
    write_json(out / DETAILS, {"format": 1, **summary, "cases": [asdict(r) for r in records]})


def challenge_json(records: Sequence[CaseRecord]) -> dict[str, Any]:
    """`{"results": [{mae, psnr, ms_ssim, DICE, HD95}, …], "aggregates": {metric: {…}}}`.

    The organ metrics are left out when no case has labels; an undefined value is null.
    """
    keys = [k for k in CHALLENGE if any(k in r.metrics for r in records)]
    return {
        "results": [{k: r.metrics.get(k) for k in keys} for r in records],
        "aggregates": {k: aggregate(r.metrics.get(k) for r in records) for k in keys},
    }


def read_details(folder: Path) -> dict[str, Any]:
    """`details.json` of an evaluation.

    Raises:
        InputError: Not there, or not ours.
    """
    path = folder / DETAILS if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(path, found="no such file", expected="the output folder of `sctlab evaluate`")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != 1 or not isinstance(content.get("cases"), list):
        raise InputError(path, found="not an evaluation", expected="details.json of `sctlab evaluate`")
    return content


def _csv(header: Sequence[str], rows) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"
