"""`report.html`: the evaluation on one page that opens offline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from sctlab.evaluation import figures
from sctlab.evaluation.case import CaseRecord, load_images
from sctlab.evaluation.definitions import CHALLENGE, METRICS, Metric
from sctlab.measures.statistics import aggregate
from sctlab_model.cases import Case
from sctlab_model.io.writing import write_text

CARDS = ("mae", "psnr", "ms_ssim", "DICE", "HD95")
CASE_COLUMNS = ("mae", "psnr", "ms_ssim", "DICE", "HD95", "mean_error", "wepl_mean", "nmi_input", "mae_truth", "bias")
WORST, BEST = 2, 1  # pictures a region


def write_report(
    path: Path, records: Sequence[CaseRecord], cases: dict[str, Case], summary: dict[str, Any], *, title: str
) -> None:
    """Write the page.

    Args:
        path: `report.html`.
        records: Scored cases.
        cases: Case id → case, to read images for the pictures again.
        summary: `mismatches`, `left_out`, `unknown`, `predictions`, `cohort`, `weights`.
    """
    regions = sorted({r.region for r in records})
    groups = [("all", list(records))] if len(regions) > 1 else []
    groups += [(g, [r for r in records if r.region == g]) for g in regions]
    write_text(
        path,
        _template().render(
            title=title,
            subtitle=f"{len(records)} cases of {summary['cohort']}, predictions from {summary['predictions']}"
            + (f", weights {summary['weights']}" if summary.get("weights") else ""),
            mismatches=summary["mismatches"],
            left_out=summary["left_out"],
            unknown=summary["unknown"],
            cards=_cards(records, summary),
            regions=[{"name": name, "count": len(chosen)} for name, chosen in groups],
            tables=_tables(groups),
            figures=_figures(records),
            pictures=_pictures(records, cases, regions),
            case_table=_case_table(records),
            notes=_notes(records),
            footer=f"Made by sctlab evaluate on {datetime.now():%Y-%m-%d %H:%M}. Definitions, sources and traps of every "
            "metric: docs/evaluation.md.",
        ),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))


def _cards(records: Sequence[CaseRecord], summary: dict[str, Any]) -> list[dict[str, str]]:
    cards = []
    for key in CARDS:
        values = aggregate(r.metrics.get(key) for r in records)
        if values["count"]:
            cards.append(
                {
                    "title": METRICS[key].label,
                    "value": number(values["mean"], METRICS[key]),
                    "detail": f"median {number(values['50pc'], METRICS[key])}",
                }
            )
    left = len(summary["left_out"])
    cards.append({"title": "Cases scored", "value": str(len(records)), "detail": f"{left} left out"})
    return cards


def _tables(groups: Sequence[tuple[str, Sequence[CaseRecord]]]) -> list[dict[str, Any]]:
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, metric in METRICS.items():
        cells = []
        for _, chosen in groups:
            values = aggregate(r.metrics.get(key) for r in chosen)
            if not values["count"]:
                cells.append(None)
                continue
            deviation = "" if values["std"] is None else f" ± {number(values['std'], metric)}"
            quartiles = "–".join(number(values[q], metric) for q in ("25pc", "75pc"))
            cells.append(
                {
                    "main": number(values["mean"], metric) + deviation,
                    "detail": f"{number(values['50pc'], metric)} [{quartiles}]",
                }
            )
        if any(cells):
            arrow = {"higher": " ↑", "lower": " ↓", "zero": " → 0"}[metric.better]
            tables[metric.group].append({"label": metric.label + arrow, "cells": cells})
    return [{"name": name, "rows": rows} for name, rows in tables.items()]


def _figures(records: Sequence[CaseRecord]) -> list[dict[str, str]]:
    entries = (
        ("Distributions", "A point is a case.", figures.distributions(records, CHALLENGE)),
        ("Registration bias", "Green: MAE against the aligned truth. Orange: against the registered reference, the number "
         "that a leaderboard would show. The bar between is what the registration adds.", figures.bias(records)),
        ("Organs", "A point is a case, the line is the mean; worst organs on top.", figures.organs(records)),
        ("Tissues", "By what the reference shows at a voxel, over the body mask.", figures.tissues(records)),
        ("Depth", "Near the skin registration, setup and coil effects dominate; deep inside, the synthesis. Grey lines are "
         "cases.", figures.depth(records)),
        ("Does the ensemble's spread predict the error?", "Ten bins of rising spread a case. Above the dashed line the "
         "ensemble is overconfident.", figures.calibration(records)),
    )  # fmt: skip
    return [{"title": t, "text": x, "address": a} for t, x, a in entries if a]


def _pictures(records: Sequence[CaseRecord], cases: dict[str, Case], regions: Sequence[str]) -> list[dict[str, str]]:
    pictures = []
    for region in regions:
        ranked = sorted((r for r in records if r.region == region), key=lambda r: -r.metrics["mae"])
        worst = ranked[:WORST]
        best = [r for r in ranked[::-1][:BEST] if r not in worst]
        for record in (*worst, *best):
            images = load_images(cases[record.id], Path(record.prediction), Path(record.reference), [])
            z = _worst_slice(record, images.reference.geometry.spacing_xyz[2]) if record in worst else None
            pictures.append(
                {
                    "id": record.id,
                    "region": region,
                    "rank": "best" if record in best else f"worst {worst.index(record) + 1}",
                    "scores": ", ".join(
                        f"{METRICS[k].title} {number(record.metrics[k], METRICS[k])} {METRICS[k].unit}".strip()
                        for k in CHALLENGE
                        if record.metrics.get(k) is not None
                    ),
                    "planes": figures.planes(images, z=z),
                    "slices": figures.slices(record),
                }
            )
    return pictures


def _worst_slice(record: CaseRecord, spacing_mm: float) -> int | None:
    along = record.slices.get("z")
    if not along:
        return None
    worst = max(range(len(along["mae_hu"])), key=along["mae_hu"].__getitem__)
    return round(along["position_mm"][worst] / spacing_mm)


def _case_table(records: Sequence[CaseRecord]) -> dict[str, list]:
    keys = [k for k in CASE_COLUMNS if any(r.metrics.get(k) is not None for r in records)]
    rows = [[r.id, r.region, *(number(r.metrics.get(k), METRICS[k]) for k in keys)] for r in records]
    return {"header": ["case", "region", *(METRICS[k].label for k in keys)], "rows": rows}


def _notes(records: Sequence[CaseRecord]) -> list[dict[str, str]]:
    cases: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for note in record.notes:
            cases[note].append(record.id)
    ordered = sorted(cases.items(), key=lambda item: -len(item[1]))
    return [
        {"text": text, "cases": ", ".join(ids[:12]) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")}
        for text, ids in ordered
    ]


def number(value: float | None, metric: Metric) -> str:
    """A value with the metric's digits; a dash where it is undefined."""
    return "–" if value is None else f"{value:.{metric.digits}f}"
