"""The cohort's report: one HTML file that needs no network, worst case first, and a list of proposed exclusions."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sctlab.registration.case import OVERVIEW
from sctlab.registration.exclusion import DEFAULT_RULE, CohortJudgement, Rule, judge, signals
from sctlab.registration.records import EXCLUSIONS, FAILURE, ExclusionsRecord, FailureRecord, PairRecord, QualityRecord
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_text

MAX_PICTURES = 120  # the worst ones; more would make a file that browsers refuse
PICTURE_WIDTH = 1300
REPORT = "report.html"

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1340px; color: #222; }
table { border-collapse: collapse; } td, th { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child, td.text { text-align: left; } tr.out { background: #fdecea; }
th { position: sticky; top: 0; background: #fff; } img { max-width: 100%; } h3 { margin: 2rem 0 .2rem; }
.reason { color: #a12; } .note { color: #555; }
"""


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
    """Results under `<out>/<method>` (or one method's folder), failures included.

    Raises:
        InputError: No such folder, or nothing registered in it.
    """
    root = Path(root)
    entries = []
    for task in Task:
        for region in Region:
            for folder in sorted((root / task.folder / region).glob("[!.]*")):
                key = CaseKey(task, region, folder.name)
                pair, quality = PairRecord.of(folder), QualityRecord.of(folder)
                if pair is not None and quality is not None:
                    entries.append(CaseEntry(folder, key, pair, quality))
                elif (folder / FAILURE).is_file():
                    entries.append(CaseEntry(folder, key, error=FailureRecord.read(folder / FAILURE).error))
    if not entries:
        raise InputError(
            root,
            found="no registered case",
            expected="Task{1,2}/{AB,HN,TH}/<ID>/pair.json, as `sctlab register` writes",
        )
    return entries


def write_report(root: str | Path, rule: Rule = DEFAULT_RULE) -> dict[str, str]:
    """Write `report.html` and `exclusions.json` into a method's folder.

    Returns:
        The proposed exclusions: case id → reason.
    """
    root = Path(root)
    entries = find_results(root)
    registered = [e for e in entries if e.quality is not None]
    cases = [(e.id, e.group, signals(e.quality, e.pair.method)) for e in registered]
    judged = dict(zip((e.folder for e in registered), judge(cases, rule), strict=True))
    exclude = {e.id: f"not registered: {e.error}" for e in entries if e.error}
    exclude |= {e.id: "; ".join(judged[e.folder].reasons) for e in registered if judged[e.folder].exclude}
    ordered = sorted(registered, key=lambda e: -judged[e.folder].suspicion)
    ExclusionsRecord(exclude=exclude, cases=len(entries), rule=rule.described()).write(root / EXCLUSIONS)
    write_text(root / REPORT, _page(root.name, ordered, [e for e in entries if e.error], judged, exclude))
    return exclude


def _page(
    name: str,
    ordered: Sequence[CaseEntry],
    failed: Sequence[CaseEntry],
    judged: dict[Path, CohortJudgement],
    exclude: dict[str, str],
) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<title>Registration: {html.escape(name)}</title><style>{_STYLE}</style>",
        f"<h1>Registration: {html.escape(name)}</h1>",
        f"<p>{len(ordered)} pairs registered, {len(failed)} failed; {len(exclude)} proposed for exclusion "
        "(<code>exclusions.json</code>). The worst come first: suspicion is the worst signal over its limit.</p>",
    ]
    if failed:
        parts.append("<h2>Failed</h2><table><tr><th>case<th>group<th>reason</tr>")
        parts += [
            f"<tr class='out'><td>{html.escape(r.id)}<td class='text'>{r.group}<td class='text'>{html.escape(r.error)}"
            for r in failed
        ]
        parts.append("</table>")
    parts.append("<h2>Cases</h2><table><tr>" + "".join(f"<th>{c}" for c in _COLUMNS) + "</tr>")
    for result in ordered:
        verdict = judged[result.folder]
        row = "".join(f"<td>{cell}" for cell in _row(result, verdict))
        parts.append(f"<tr{' class=out' if verdict.exclude else ''}>{row}</tr>")
    parts.append("</table><h2>Pictures</h2>")
    if len(ordered) > MAX_PICTURES:
        parts.append(
            f"<p class='note'>The {MAX_PICTURES} worst of {len(ordered)}; the others lie in the case folders.</p>"
        )
    for result in ordered[:MAX_PICTURES]:
        verdict = judged[result.folder]
        anchor = html.escape(f"{result.group} {result.id}")
        parts.append(f"<h3 id='{anchor}'>{html.escape(result.id)} <span class='note'>{result.group}</span></h3>")
        parts += [f"<div class='reason'>{html.escape(reason)}</div>" for reason in verdict.reasons]
        parts += [f"<div class='note'>{html.escape(note)}</div>" for note in result.pair.notes]
        if (result.folder / OVERVIEW).is_file():
            parts.append(f"<img alt='{anchor}' loading='lazy' src='{_embedded(result.folder / OVERVIEW)}'>")
    return "\n".join(parts) + "</html>\n"


_COLUMNS = ("case", "group", "suspicion", "NMI before → after", "features before → after", "edges", "body Dice",
            "label Dice", "body with data", "folds", "smallest Jacobian", "deformation p95 mm", "inverse p95 mm",
            "spread p95 mm", "TRE body mm", "TRE edges mm", "HU floor", "s")  # fmt: skip


def _row(result: CaseEntry, verdict: CohortJudgement) -> list[str]:
    quality = result.quality
    assert quality is not None
    before, after = quality.similarity.before, quality.similarity.after
    labels = quality.overlap.after.label_dice
    truth = quality.truth or {}
    error = truth.get("tre_mm", {})
    jacobian = quality.field.jacobian
    inverse, spread = quality.inverse_consistency_mm, quality.preset_spread_mm
    anchor = html.escape(f"{result.group} {result.id}")
    return [
        f"<a href='#{anchor}'>{html.escape(result.id)}</a>",
        result.group,
        f"{verdict.suspicion:.2f}",
        f"{before.nmi:.3f} → {after.nmi:.3f}",
        f"{before.feature_distance:.3f} → {after.feature_distance:.3f}",
        f"{before.edges:.2f} → {after.edges:.2f}",
        _number(quality.overlap.after.body_dice, 3),
        _number(labels and labels["mean"], 3),
        f"{quality.overlap.field_of_view:.0%}",
        f"{jacobian.folds:.2%}",
        f"{jacobian.minimum:.2f}",
        f"{quality.field.deformation_mm.p95:.1f}",
        _number(inverse and inverse.p95, 1),
        _number(spread and spread.p95, 1),
        _number(error.get("body", {}).get("mean"), 2),
        _number(error.get("edges", {}).get("mean"), 2),
        _number((truth.get("hu_floor") or {}).get("mae"), 0),
        f"{quality.seconds:.0f}",
    ]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _embedded(path: Path) -> str:
    """A PNG as a smaller JPEG inside the page."""
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > PICTURE_WIDTH:
        picture = picture.resize((PICTURE_WIDTH, round(picture.height * PICTURE_WIDTH / picture.width)))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
