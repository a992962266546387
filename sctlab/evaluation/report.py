"""`report.html`: the evaluation on one page that opens offline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sctlab.cohort.parameters import stratum
from sctlab.evaluation import figures
from sctlab.evaluation.definitions import CHALLENGE, CHALLENGE_IMAGE, METRICS, Metric, used_metrics
from sctlab.evaluation.dose.case import SUFFIX
from sctlab.evaluation.dose.figures import dose_picture
from sctlab.evaluation.images import Images, load_images
from sctlab.evaluation.records import CaseRecord, EvaluationRecord
from sctlab.measures.statistics import aggregate
from sctlab.reporting import counted, number, render
from sctlab_model.cases import Case
from sctlab_model.io.atomic import write_text

CARDS = ("mae", "psnr", "ms_ssim", "DICE", "HD95")
CASE_COLUMNS = ("mae", "psnr", "ms_ssim", "DICE", "HD95", "mean_error", "wepl_mean", "nmi_input", "mae_truth", "bias")
ARROWS = {"higher": " ↑", "lower": " ↓", "zero": " → 0"}
WORST, BEST = 2, 1  # pictures of each region


def write_report(
    path: Path, record: EvaluationRecord, cases: Mapping[str, Case], *, title: str = "Synthetic CT evaluation"
) -> None:
    """Write the page.

    Args:
        path: `report.html`.
        record: The evaluation.
        cases: Case key and case, to read images for the pictures again.
    """
    records = record.cases
    weights = f", weights {record.weights}" if record.weights else ""
    page = render(
        "evaluation.html",
        title=title,
        subtitle=f"{counted(len(records), 'case')} of {record.cohort}, predictions from {record.predictions}{weights}",
        reference_notes=record.reference_notes,
        mismatches=record.mismatches,
        compared_origin=bool(record.weights),
        left_out=record.left_out,
        unknown=record.unknown,
        cards=_cards(records, len(record.left_out)),
        groupings=_groupings(records, record.settings.get("by", ())),
        figures=_figures(records, record.segmenter),
        pictures=_pictures(records, cases),
        case_table=_case_table(records),
        notes=_notes(records),
    )
    write_text(path, page)


def group_cases(records: Sequence[CaseRecord], by: str = "region") -> list[tuple[str, list[CaseRecord]]]:
    """Regions (or the groups of another parameter) and their cases, before them all cases where there are several groups."""
    names = [r.region if by == "region" else stratum(r.parameters, by, r.id) for r in records]
    groups = [("all", list(records))] if len(set(names)) > 1 else []
    return groups + [(g, [r for r, name in zip(records, names, strict=True) if name == g]) for g in sorted(set(names))]


def _cards(records: Sequence[CaseRecord], left: int) -> list[dict[str, str]]:
    cards = []
    for key in CARDS:
        values = aggregate(r.metrics.get(key) for r in records)
        if values["count"]:
            cards.append(
                {
                    "title": METRICS[key].label,
                    "value": shown(values["mean"], METRICS[key]),
                    "detail": f"median {shown(values['50pc'], METRICS[key])}" if values["count"] > 1 else "one case",
                }
            )
    cards.append({"title": "Cases scored", "value": str(len(records)), "detail": f"{left} left out"})
    return cards


def _groupings(records: Sequence[CaseRecord], by: Sequence[str]) -> list[dict[str, Any]]:
    """The table of scores by region, and by every parameter that was asked for."""
    found = []
    for name in ("region", *by):
        groups = group_cases(records, name)
        heads = [{"name": g, "count": len(chosen)} for g, chosen in groups]
        found.append({"name": name.replace("_", " "), "groups": heads, "tables": _tables(groups)})
    return found


def _tables(groups: Sequence[tuple[str, Sequence[CaseRecord]]]) -> list[dict[str, Any]]:
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key in used_metrics(k for _, chosen in groups for r in chosen for k in r.metrics):
        metric = METRICS[key]
        cells = [_cell((r.metrics.get(key) for r in chosen), metric) for _, chosen in groups]
        if not any(cells):
            continue
        tables[metric.group].append({"label": metric.label + ARROWS[metric.better], "cells": cells, "baseline": False})
        for name, values in baselines(groups, key):
            row = {"label": f"{metric.title}, {name}", "cells": [], "baseline": True}
            row["cells"] = [None if v is None else {"main": shown(v, metric), "detail": ""} for v in values]
            tables[metric.group].append(row)
    return [{"name": name, "rows": rows} for name, rows in tables.items()]


def baselines(groups: Sequence[tuple[str, Sequence[CaseRecord]]], key: str) -> list[tuple[str, list[float | None]]]:
    """Name of a baseline and its mean in every group, for the metrics that baselines have."""
    if key not in CHALLENGE_IMAGE:
        return []
    names = list(dict.fromkeys(name for _, chosen in groups for r in chosen for name in r.baselines))
    return [
        (name, [aggregate(r.baselines.get(name, {}).get(key) for r in chosen)["mean"] for _, chosen in groups])
        for name in names
    ]


def _cell(values: Any, metric: Metric) -> dict[str, str] | None:
    found = aggregate(values)
    if not found["count"]:
        return None
    if found["count"] == 1:  # neither a deviation nor quartiles exist
        return {"main": shown(found["mean"], metric), "detail": ""}
    quartiles = ", ".join(shown(found[q], metric) for q in ("25pc", "75pc"))
    return {
        "main": f"{shown(found['mean'], metric)} ± {shown(found['std'], metric)}",
        "detail": f"{shown(found['50pc'], metric)} [{quartiles}]",
    }


_LABELS = {  # what reads as more than it is, or as nothing
    "none": "files",
    "anatomy": "of the anatomy network, a demonstration whose own errors lower Dice and raise HD95",
    "anatomy-judge": "of the second anatomy network, a demonstration whose own errors lower Dice and raise HD95",
}


def _figures(records: Sequence[CaseRecord], segmenter: str) -> list[dict[str, str]]:
    entries = (
        ("Distributions", "A point is a case.", figures.distributions(records, CHALLENGE)),
        ("Registration bias", "Green: MAE against the aligned truth. Orange: against the registered reference, the number "
         "that a leaderboard would show. The bar between is what the registration adds.", figures.bias(records)),
        ("Organs", f"A point is a case, the line is the mean; worst organs on top. Labels: {_LABELS.get(segmenter, segmenter)}.",
         figures.organs(records)),
        ("Tissues", "By what the reference shows at a voxel, over the body mask.", figures.tissues(records)),
        ("Depth", "Near the skin registration, setup and coil effects dominate; deep inside, the synthesis. Grey lines are "
         "cases.", figures.depth(records)),
        ("Does the ensemble's spread predict the error?", "Ten bins of rising spread a case. Above the dashed line the "
         "ensemble is overconfident.", figures.calibration(records)),
    )  # fmt: skip
    return [{"title": t, "text": x, "address": a} for t, x, a in entries if a]


def _pictures(records: Sequence[CaseRecord], cases: Mapping[str, Case]) -> list[dict[str, Any]]:
    pictures: list[dict[str, Any]] = []
    for region in sorted({r.region for r in records}):
        ranked = sorted((r for r in records if r.region == region), key=lambda r: -(r.metrics["mae"] or 0.0))
        worst = ranked[:WORST]
        best = [r for r in ranked[::-1][:BEST] if r not in worst]
        for record in (*worst, *best):
            images = load_images(cases[record.key], Path(record.prediction), Path(record.reference), [])
            z = _worst_slice(record, images.reference.geometry.spacing_xyz[2]) if record in worst else None
            pictures.append(
                {
                    "id": record.id,
                    "region": region,
                    "rank": f"rank {ranked.index(record) + 1} of {len(ranked)}, worst MAE first",
                    "scores": ", ".join(
                        f"{METRICS[k].title} {shown(record.metrics[k], METRICS[k])} {METRICS[k].unit}".strip()
                        for k in CHALLENGE
                        if record.metrics.get(k) is not None
                    ),
                    "planes": figures.planes(images, z=z),
                    "slices": figures.slices(record),
                    "doses": _doses(images, record),
                }
            )
    return pictures


def _doses(images: Images, record: CaseRecord) -> list[dict[str, str]]:
    """Isodoses, difference and histograms of every modality, with its metrics."""
    found = []
    for modality, entry in record.dose.items():
        picture = dose_picture(images, entry)
        if picture is not None:
            keys = [k for k in record.metrics if k.endswith(f"_{SUFFIX[modality]}")]
            scores = ", ".join(f"{METRICS[k].label} {shown(record.metrics[k], METRICS[k])}" for k in keys)
            plan = entry["plan"]
            angles = ", ".join(f"{a:g}" for a in plan["gantry_angles"])
            text = f"{plan['prescription_gy']:g} Gy in {plan['fractions']} fractions to {entry['target']}, gantry at {angles} degrees. {scores}."
            found.append({"modality": modality, "text": text, "address": picture})
    return found


def _worst_slice(record: CaseRecord, spacing_mm: float) -> int | None:
    along = record.slices.get("z")
    if not along:
        return None
    worst = max(range(len(along["mae_hu"])), key=along["mae_hu"].__getitem__)
    return round(along["position_mm"][worst] / spacing_mm)


def _case_table(records: Sequence[CaseRecord]) -> dict[str, list]:
    keys = [k for k in CASE_COLUMNS if any(r.metrics.get(k) is not None for r in records)]
    names = list(dict.fromkeys(name for r in records for name in r.baselines))
    rows = [
        [
            r.id,
            r.region,
            *(shown(r.metrics.get(k), METRICS[k]) for k in keys),
            *(shown(r.baselines.get(name, {}).get("mae"), METRICS["mae"]) for name in names),
        ]
        for r in records
    ]
    header = ["case", "region", *(METRICS[k].label for k in keys), *(f"{METRICS['mae'].label}, {n}" for n in names)]
    return {"header": header, "rows": rows}


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


def shown(value: float | int | None, metric: Metric) -> str:
    """A value with the metric's digits; a dash where it is undefined."""
    return number(value, metric.digits)
