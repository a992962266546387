"""The cohort's report: one HTML file that needs no network, worst case first, and a list of proposed exclusions."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sctlab.registration.case import OVERVIEW
from sctlab.registration.exclusion import DEFAULT_RULE, CohortJudgement, Rule, judge, signals
from sctlab.registration.records import (
    EXCLUSIONS,
    FAILURE,
    ExclusionsRecord,
    FailureRecord,
    PairRecord,
    QualityRecord,
    Verdict,
)
from sctlab.reporting import counted, data_address, number, render
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text

MAX_PICTURES = 120  # the worst ones; more would make a file that browsers refuse
PICTURE_WIDTH = 1300
REPORT = "report.html"

# Column, what it says. Columns that no case has a value for are left out.
COLUMNS = {
    "case": "Id; the link leads to its pictures.",
    "group": "Task and region: cases are judged within it.",
    "verdict": "Of the judge: trusted, doubtful (look at the picture) or failed.",
    "error (mm)": "Predicted mean error over the body with its 90 % interval.",
    "suspicion": "The worst signal over its limit; 1 and above is proposed for exclusion.",
    "NMI": "Normalised mutual information over the body, before → after; 1 independent, 2 identical.",
    "features": "Distance of MIND-SSC features over the body, before → after; smaller is better.",
    "edges": "Agreement of gradients, before → after; 0 to 1.",
    "body Dice": "Overlap of the two images' own body masks after registration.",
    "label Dice": "Mean overlap of the labels that both images have, after registration.",
    "with data": "Share of the body where the moving image has data.",
    "folded": "Share of voxels with a Jacobian determinant of at most 0.",
    "min. Jacobian": "Smallest Jacobian determinant: 1 keeps volume, below 0 folds.",
    "deformation (mm)": "95th percentile of what no rigid motion explains.",
    "inverse (mm)": "95th percentile of forward then backward; where both directions were run.",
    "spread (mm)": "95th percentile of the presets' disagreement; where several were run.",
    "TRE body (mm)": "Target registration error: mean distance to the simulated truth over the body.",
    "TRE edges (mm)": "The same at tissue edges.",
    "reference error (HU)": "MAE of the registered CT against the aligned truth: what a perfect sCT would score against it.",
    "seconds": "Wall time.",
}


@dataclass(frozen=True)
class CaseEntry:
    """What lies in one case's folder: a result, or why there is none."""

    folder: Path
    key: CaseKey
    pair: PairRecord | None = None
    quality: QualityRecord | None = None
    error: str = ""

    @property
    def id(self) -> str:
        """Case id."""
        return self.key.id

    @property
    def group(self) -> str:
        """Task and region in words."""
        return f"{self.key.task.folder} {self.key.region}"


def find_results(root: str | Path) -> list[CaseEntry]:
    """Results in one method's folder, failures included; or the one result whose own folder it is (a single pair's).

    Raises:
        InputError: No such folder, or nothing registered in it.
    """
    root = Path(root)
    folders = [
        (CaseKey(task, region, folder.name), folder)
        for task in Task
        for region in Region
        for folder in sorted((root / task.folder / region).glob("[!.]*"))
    ]
    if not folders and root.is_dir():
        folders = [(_key_of(root), root)]
    entries = [entry for key, folder in folders if (entry := _entry(folder, key)) is not None]
    if not entries:
        raise InputError(
            root,
            found="no registered case",
            expected="Task{1,2}/{AB,HN,TH}/<ID>/pair.json or a pair's own pair.json, as `sctlab register` writes",
        )
    return entries


def _entry(folder: Path, key: CaseKey) -> CaseEntry | None:
    """What a case's folder holds; None where nothing was registered in it. A damaged record is that case's own failure."""
    try:
        pair, quality = PairRecord.of(folder), QualityRecord.of(folder)
        if pair is not None and quality is not None:
            return CaseEntry(folder, key, pair, quality)
        if (folder / FAILURE).is_file():
            return CaseEntry(folder, key, error=FailureRecord.read(folder / FAILURE).error)
    except InputError as error:
        return CaseEntry(folder, key, error=str(error))
    return None


def _key_of(folder: Path) -> CaseKey:
    """The key of a single pair by its record; a failure tells none, and the folder's name stands for it."""
    pair = PairRecord.of(folder)
    if pair is None or pair.task not in list(Task) or pair.region not in list(Region):
        return CaseKey(Task.MRI, Region.AB, folder.resolve().name)
    return CaseKey(Task(pair.task), Region(pair.region), pair.case or folder.resolve().name)


def write_report(root: str | Path, rule: Rule = DEFAULT_RULE) -> dict[str, str]:
    """Write `report.html` and `exclusions.json` into a method's folder.

    Returns:
        The proposed exclusions: case id, or the whole key where two cases share an id → reason.
    """
    root = Path(root)
    entries = find_results(root)
    count = Counter(e.id for e in entries)
    names = {e.folder: e.id if count[e.id] == 1 else str(e.key) for e in entries}
    registered = [e for e in entries if e.quality is not None]
    cases = [(e.id, e.group, signals(e.quality, e.pair.method)) for e in entries if e.quality and e.pair]
    judged = dict(zip((e.folder for e in registered), judge(cases, rule), strict=True))
    exclude = {names[e.folder]: f"not registered: {e.error}" for e in entries if e.error}
    exclude |= {names[e.folder]: "; ".join(judged[e.folder].reasons) for e in registered if judged[e.folder].exclude}
    # The judge of the single registration first; the rule on the cohort keeps its place for what is left.
    judgements = {names[e.folder]: e.quality for e in registered if e.quality is not None}
    exclude |= {
        case: "failed: " + "; ".join(quality.reasons)
        for case, quality in judgements.items()
        if quality.verdict is Verdict.FAILED
    }
    doubtful = {
        case: "; ".join(quality.reasons)
        for case, quality in judgements.items()
        if quality.verdict is Verdict.DOUBTFUL and case not in exclude
    }
    ordered = sorted(registered, key=lambda e: (-_severity(e), -judged[e.folder].suspicion))
    record = ExclusionsRecord(exclude=exclude, doubtful=doubtful, cases=len(entries), rule=rule.described())
    record.write(root / EXCLUSIONS)
    write_text(
        root / REPORT,
        _page(
            root.resolve().name,
            ordered,
            [e for e in entries if e.error],
            judged,
            {e.folder for e in entries if names[e.folder] in exclude},
        ),
    )
    return exclude


def _page(
    name: str,
    ordered: Sequence[CaseEntry],
    failed: Sequence[CaseEntry],
    judged: dict[Path, CohortJudgement],
    out: Collection[Path],
) -> str:
    rows = [_row(entry, judged[entry.folder]) for entry in ordered]
    used = [k for k, column in enumerate(COLUMNS) if not rows or any(row[k] != MISSING for row in rows)]
    header = [list(COLUMNS)[k] for k in used]
    return render(
        "registration.html",
        title=f"Registration: {name}",
        subtitle=f"{counted(len(ordered), 'pair')} registered, {len(failed)} failed; {len(out)} proposed for exclusion",
        failed=failed,
        header=header,
        explained={column: COLUMNS[column] for column in header},
        rows=[
            {"entry": entry, "cells": [row[k] for k in used], "out": entry.folder in out}
            for entry, row in zip(ordered, rows, strict=True)
        ],
        pictures=[
            {
                "entry": entry,
                "reasons": (*(entry.quality.reasons if entry.quality else ()), *judged[entry.folder].reasons),
                "notes": entry.pair.notes if entry.pair is not None else [],
                "address": _embedded(entry.folder / OVERVIEW),
            }
            for entry in ordered[:MAX_PICTURES]
        ],
        not_shown=len(ordered) - MAX_PICTURES,
        most=MAX_PICTURES,
    )


MISSING = number(None, 0)


def _severity(entry: CaseEntry) -> int:
    """0 trusted (or without a verdict), 1 doubtful, 2 failed."""
    verdict = entry.quality.verdict if entry.quality else None
    return 0 if verdict is None else list(Verdict).index(verdict)


def _interval(quality: QualityRecord) -> str:
    """Predicted error with its 90 % interval."""
    judgement = quality.judgement
    if judgement is None:
        return MISSING
    low, high = judgement.interval_mm
    return f"{number(judgement.error_mm, 1)} ({number(low, 1)} to {number(high, 1)})"


def _row(result: CaseEntry, verdict: CohortJudgement) -> list[str]:
    """Cells in the order of `COLUMNS`."""
    quality = result.quality
    assert quality is not None
    before, after = quality.similarity.before, quality.similarity.after
    labels = quality.overlap.after.label_dice
    truth = quality.truth or {}
    error = truth.get("tre_mm", {})
    jacobian = quality.field.jacobian
    inverse, spread = quality.inverse_consistency_mm, quality.preset_spread_mm
    return [
        result.id,
        result.group,
        str(quality.verdict) if quality.verdict else MISSING,
        _interval(quality),
        number(verdict.suspicion, 2),
        f"{number(before.nmi, 3)} → {number(after.nmi, 3)}",
        f"{number(before.feature_distance, 3)} → {number(after.feature_distance, 3)}",
        f"{number(before.edges, 2)} → {number(after.edges, 2)}",
        number(quality.overlap.after.body_dice, 3),
        number(labels["mean"] if labels else None, 3),
        f"{quality.overlap.field_of_view:.0%}",
        f"{jacobian.folds:.2%}",
        number(jacobian.minimum, 2),
        number(quality.field.deformation_mm.p95, 1),
        number(inverse.p95 if inverse else None, 1),
        number(spread.p95 if spread else None, 1),
        number(error.get("body", {}).get("mean"), 2),
        number(error.get("edges", {}).get("mean"), 2),
        number((truth.get("hu_floor") or {}).get("mae"), 0),
        number(quality.seconds, 0),
    ]


def _embedded(path: Path) -> str:
    """A PNG as a smaller JPEG inside the page; nothing where there is none, or a damaged one."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""
    if picture.width > PICTURE_WIDTH:
        picture = picture.resize((PICTURE_WIDTH, round(picture.height * PICTURE_WIDTH / picture.width)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return data_address(buffer.getvalue(), "image/jpeg")
