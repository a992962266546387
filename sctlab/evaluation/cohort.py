"""Scoring a folder of predictions against a cohort: what `sctlab evaluate` does, callable from a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from sctlab.cohort.parameters import Value, check_strata, read_parameters
from sctlab.evaluation.case import evaluate_case
from sctlab.evaluation.closer import extractor_of
from sctlab.evaluation.dose.calculation import dose_python
from sctlab.evaluation.images import is_unregistered_simulation
from sctlab.evaluation.predictions import Matched, match_predictions, unpacked
from sctlab.evaluation.provenance import (
    PredictionProvenance,
    Registration,
    mismatches,
    read_prediction_provenance,
)
from sctlab.evaluation.records import CaseRecord, EvaluationRecord
from sctlab.evaluation.report import write_report
from sctlab.evaluation.results import write_results
from sctlab.evaluation.segmentation import AUTO, NONE, make_segmenter, resolve_segmenter
from sctlab.evaluation.settings import EvaluationSettings
from sctlab.reporting import counted
from sctlab.workflow.cases import run_cases
from sctlab.workflow.locking import one_run
from sctlab_model.cases import Case, find_cohort
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.monitor import Monitor


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Args:
        record: All numbers and where they came from, as `details.json` has them.
        out: Folder of the files; None where nothing was written.
    """

    record: EvaluationRecord
    out: Path | None = None

    @property
    def cases(self) -> list[CaseRecord]:
        """The scored cases."""
        return self.record.cases

    @property
    def exit_code(self) -> ExitCode:
        """1 where a case or a file was left out."""
        return ExitCode.SOME_CASES_FAILED if self.record.left_out or self.record.unknown else ExitCode.OK


def evaluate_cohort(
    predictions: str | Path,
    cohort: str | Path,
    out: str | Path | None = None,
    settings: EvaluationSettings | None = None,
    *,
    jobs: int = 1,
    monitor: Monitor | None = None,
) -> EvaluationResult:
    """Score predictions as the challenge does, and beyond.

    Every case of the cohort (of the settings' task, region and choice) is scored, or named with the reason in
    `left_out`; a file of no case is named in `unknown`.

    Args:
        predictions: Folder of predictions, or a zip of `sct_<ID>.mha`.
        cohort: References in SynthRAD's layout.
        out: Where metrics.json, metrics.csv, organs.csv, details.json and report.html go; None writes nothing.
        settings: What to compute.
        jobs: Cases at a time.
        monitor: Told of progress, of what is left out and of mismatches.

    Raises:
        InputError: Wrong settings, no such folder, or nothing that could be scored.
    """
    from sctlab_model.device import choose_device  # here, because it loads torch

    predictions, cohort = Path(predictions), Path(cohort)
    settings, monitor = settings or EvaluationSettings(), monitor or Monitor()
    settings = settings.model_copy(
        update={"device": str(choose_device(settings.device)), "segmenter": used_segmenter(settings)}
    )
    if settings.dose and settings.dose_cache is None and out is not None:
        settings = settings.model_copy(update={"dose_cache": Path(out) / "dose"})
    _check(settings)
    everything = find_cohort(cohort)
    cases = choose_cases(everything, cohort, settings)
    parameters = _parameters(settings.parameters or cohort, settings.by, monitor)
    lock = nullcontext() if out is None else one_run(Path(out) / "evaluate", monitor)
    with lock, tempfile.TemporaryDirectory(prefix="sctlab-evaluate-") as scratch:
        folder = unpacked(predictions, Path(scratch))
        provenance = read_prediction_provenance(folder)
        if provenance.bundles and settings.task is None:
            cases = [c for c in cases if c.task in provenance.bundles]
        matched = match_predictions(
            folder, cases, everything, tuple(provenance.bundles) or tuple({c.task for c in cases})
        )
        left_out = _left_out(cases, matched, provenance, folder, settings.allow_seen)
        scored = [c for c in cases if str(c.key) not in left_out]
        outcomes = _score(scored, matched, settings, jobs, monitor)
        left_out |= {key: reason for key, reason in outcomes.items() if isinstance(reason, str)}
        records = [r for r in outcomes.values() if isinstance(r, CaseRecord)]
        for case_record in records:
            case_record.parameters = dict(parameters.get(case_record.id, {}))
        if not records:
            raise InputError(
                predictions,
                found="no case could be scored",
                expected="predictions of the cohort's cases",
                advice=_first_reasons(left_out),
            )
        record = EvaluationRecord(
            predictions=str(predictions),
            cohort=str(cohort),
            weights=", ".join(w.name for w in provenance.weights),
            segmenter=settings.segmenter if settings.labels is None else f"files in {settings.labels}",
            reference_notes=_reference_notes(scored, settings),
            mismatches=_mismatches(scored, records, provenance),
            left_out=left_out,
            unknown=[str(p.relative_to(folder)) for p in matched.unknown],
            settings=settings.model_dump(mode="json", exclude_defaults=True),
            cases=records,
        )
        if out is not None:
            write_results(record, Path(out))
            if settings.report:
                write_report(Path(out) / "report.html", record, {str(c.key): c for c in cases})
    for line in (*record.reference_notes, *record.mismatches):
        monitor.warning(line)
    for name, reason in left_out.items():
        monitor.warning(f"left out {name}: {reason}")
    for name in record.unknown:
        monitor.warning(f"left out {name}: no case of the cohort has this name")
    return EvaluationResult(record, Path(out) if out is not None else None)


def _parameters(folder: Path, by: Sequence[str], monitor: Monitor) -> dict[str, dict[str, Value]]:
    """How the cases were scanned; a file that can't be read matters where scores are told apart by it."""
    try:
        found = read_parameters(folder)
    except InputError as error:
        if by:
            raise
        monitor.warning(f"scan parameters were not read: {error}")
        return {}
    check_strata(by, found, folder)
    return found


def choose_cases(cases: Sequence[Case], cohort: Path, settings: EvaluationSettings) -> list[Case]:
    """The cases that the settings ask for.

    Raises:
        InputError: None is left, or `only` names a case that isn't there.
    """
    chosen = [c for c in cases if settings.task in (None, c.task) and settings.region in (None, c.region)]
    if settings.only:
        names = {c.id for c in chosen} | {str(c.key) for c in chosen}
        missing = sorted(set(settings.only) - names)
        if missing:
            raise InputError("--only", found=f"no case {', '.join(missing)} in {cohort}", expected="ids of the cohort")
        chosen = [c for c in chosen if c.id in settings.only or str(c.key) in settings.only]
    if not chosen:
        raise InputError(cohort, found="no case of this task and region", expected="at least one")
    return chosen


def used_segmenter(settings: EvaluationSettings) -> str:
    """Which segmenter `auto` is: none beside label files, because one evaluation must not mix two kinds of labels unasked."""
    if settings.segmenter == AUTO and settings.labels is not None:
        return NONE
    return resolve_segmenter(settings.segmenter)


def _check(settings: EvaluationSettings) -> None:
    folders: dict[str, Path | None] = {
        "--labels": settings.labels,
        "--input-labels": settings.input_labels,
        "--structures": settings.structures,
        "--parameters": settings.parameters,
        "--truth": settings.truth,
        "--control": settings.control,
    }
    for name, folder in folders.items():
        if folder is not None and not folder.is_dir():
            raise InputError(name, found=f"no folder '{folder}'", expected="a folder")
    if settings.dose:
        dose_python()
    for name in settings.features:
        extractor_of(name)
    make_segmenter(settings.segmenter, settings.device)  # one message now instead of one per case


def _score(
    cases: Sequence[Case], matched: Matched, settings: EvaluationSettings, jobs: int, monitor: Monitor
) -> dict[str, CaseRecord | str]:
    """Case key and its record, or why it could not be scored."""
    work = [(str(c.key), (c, matched.files[str(c.key)], matched.spreads.get(str(c.key)), settings)) for c in cases]
    return {o.name: o.result if o.ok else o.error for o in run_cases(evaluate_case, work, jobs=jobs, monitor=monitor)}


def _left_out(
    cases: Sequence[Case], matched: Matched, provenance: PredictionProvenance, folder: Path, allow_seen: bool
) -> dict[str, str]:
    """Case key and why it isn't scored and what to do."""

    def names(paths: Sequence[Path]) -> str:
        return ", ".join(str(p.relative_to(folder)) for p in paths)

    left_out = {}
    for case in cases:
        key = str(case.key)
        if key in matched.duplicates:
            left_out[key] = f"several predictions ({names(matched.duplicates[key])}); keep one"
        elif key in matched.ambiguous:
            left_out[key] = (
                f"{names(matched.ambiguous[key])} may be this case or another of the same id; put it into "
                f"{case.task.folder}/{case.region}/, or choose with --task and --region"
            )
        elif key not in matched.files:
            left_out[key] = "no prediction; predict it, or leave it out with --task, --region or --only"
        elif not allow_seen and (folds := provenance.seen_by(case)):
            left_out[key] = (
                f"fold {', '.join(folds)} predicted it and was trained on it; use unseen folds, or "
                "--allow-seen to score it all the same"
            )
    return left_out


def _reference_notes(cases: Sequence[Case], settings: EvaluationSettings) -> list[str]:
    simulated = [c for c in cases if c.folder is not None and is_unregistered_simulation(c.folder)]
    if settings.reference or not simulated:
        return []
    which = (
        "The cases were" if len(simulated) == len(cases) else f"Of {counted(len(cases), 'case')}, {len(simulated)} were"
    )
    return [
        f"{which} simulated and not registered: scored against the aligned truth (truth/ct_aligned). Their ct lies on a "
        "grid of its own; register the cohort to score as a challenge would."
    ]


def _mismatches(scored: Sequence[Case], records: Sequence[CaseRecord], provenance: PredictionProvenance) -> list[str]:
    lines = mismatches([w.registration for w in provenance.weights], [Registration(**r.registration) for r in records])
    seen = [c.id for c in scored if provenance.seen_by(c)]
    if seen:
        lines.insert(
            0,
            f"{counted(len(seen), 'case')} ({', '.join(seen[:8])}) predicted by folds that were trained on them: such scores "
            "say nothing about new patients.",
        )
    if any(w.demonstration for w in provenance.weights):
        lines.append("Demonstration weights: they show that the software works, not how good it can be.")
    return lines


def _first_reasons(left_out: dict[str, str]) -> str:
    first = list(left_out.items())[:3]
    return "; ".join(f"{name}: {reason}" for name, reason in first) + ("; …" if len(left_out) > 3 else "")
