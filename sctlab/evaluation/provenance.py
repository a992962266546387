"""Where predictions and references come from: what the weights were trained on, and how CTs were registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sctlab.registration.records import PairRecord
from sctlab_model.cases import Case, Task
from sctlab_model.errors import InputError
from sctlab_model.predictions import PREDICTIONS_FILE, PredictionRecord, read_predictions


@dataclass(frozen=True)
class Registration:
    """How a CT came onto its partner's grid.

    Args:
        method: Name of the registration; empty when it isn't known.
        convention: `ct_to_source`, `source_to_ct`, `aligned` (never needed one), or empty.
    """

    method: str = ""
    convention: str = ""

    @classmethod
    def of(cls, method: str, convention: str) -> Registration:
        """From recorded words: pairs that were simulated aligned needed no registration, whatever is written."""
        if method == ALIGNED.method or convention == ALIGNED.convention:
            return ALIGNED
        method, convention = ("" if word in NOT_RECORDED else word for word in (method, convention))
        return cls(method, convention)

    def __str__(self) -> str:
        return " / ".join(p for p in (self.method, self.convention) if p) or "not recorded"


ALIGNED = Registration("simulated-aligned", "aligned")
NOT_RECORDED = ("as delivered", "unknown")


@dataclass(frozen=True)
class Weights:
    """The bundle behind predictions.

    Args:
        name: Bundle name.
        task: What it reads.
        registration: Of the pairs that it was trained on.
        demonstration: Weights that only show that the software works.
    """

    name: str
    task: Task
    registration: Registration = Registration()
    demonstration: bool = False


@dataclass(frozen=True)
class PredictionProvenance:
    """What `predictions.json` beside the predictions says; empty when there is none.

    Args:
        record: The folder's record: cases by key, each with its bundle and folds.
    """

    record: PredictionRecord = field(default_factory=PredictionRecord)

    @property
    def weights(self) -> list[Weights]:
        """Every bundle that made a result of the folder; all of them where no result is recorded."""
        used = {result.bundle for _, result in self.record.results()}
        return [
            Weights(
                name=use.name,
                task=use.task,
                registration=Registration.of(
                    use.registration.get("method", ""), use.registration.get("convention", "")
                ),
                demonstration=use.demonstration,
            )
            for name, use in self.record.bundles.items()
            if not used or name in used
        ]

    @property
    def bundles(self) -> dict[Task, Weights]:
        """Weights by task; where several bundles of one task made results, `weights` lists them all."""
        return {w.task: w for w in self.weights}

    def folds_of(self, case: Case) -> tuple[int, ...] | None:
        """Folds that predicted a case; None where that isn't recorded."""
        result = self.record.find(case.key)
        return tuple(result.folds) if result is not None and result.folds else None

    def seen_by(self, case: Case) -> list[str]:
        """Folds that were used for a case and trained on it.

        Where the record doesn't say which bundle or which folds were used, all of the case's task count.
        """
        result, used = self.record.find(case.key), self.folds_of(case)
        return [
            fold.name
            for name, use in self.record.bundles.items()
            if use.task is case.task and (result is None or result.bundle in ("", name))
            for fold in use.folds
            if case.id in fold.training_cases
            and (case.region is None or not fold.regions or case.region in fold.regions)
            and (used is None or fold.index in used)
        ]


def read_prediction_provenance(folder: Path) -> PredictionProvenance:
    """Read `predictions.json` of a predictions folder.

    Raises:
        InputError: The file is there and isn't what predicting writes.
    """
    try:
        return PredictionProvenance(read_predictions(folder) or PredictionRecord())
    except InputError as error:
        raise InputError(
            error.where,
            found=error.found,
            expected=error.expected,
            advice=error.advice or "restore it, or remove it to do without",
        ) from error


def reference_registration(folder: Path | None, reference: Path) -> Registration:
    """How the reference CT of a case was registered, from `pair.json` or the simulation's truth."""
    if folder is None:
        return Registration()
    if (folder / "truth") in reference.parents:
        return ALIGNED
    record = PairRecord.of(folder)
    return Registration() if record is None else Registration.of(record.method, record.convention)


def mismatches(trained: Sequence[Registration], references: Sequence[Registration]) -> list[str]:
    """Lines about predictions that learnt another alignment than the references have.

    A network reproduces the bias of the registration it was trained on, so the method that trained on the
    references' own registration is favoured by some HU whatever its quality.
    """
    trained, references = list(dict.fromkeys(trained)), list(dict.fromkeys(references))
    unknown = Registration()
    lines = []
    for one in trained:
        for other in references:
            if unknown in (one, other) or one == other:
                continue
            if other == ALIGNED:
                lines.append(
                    f"The weights were trained on pairs registered by {one}; the references are the simulation's aligned "
                    "truth. Part of the error below is what the network learnt from that registration."
                )
            else:
                lines.append(
                    f"The weights were trained on pairs registered by {one}; the references were registered by "
                    f"{other}. Part of the error below is the difference of the two registrations, not of the images."
                )
    if trained and unknown in references:
        lines.append(
            "How some references were registered isn't recorded (no pair.json), so a mismatch with the "
            "training pairs can't be ruled out."
        )
    if not trained:
        lines.append(
            f"No {PREDICTIONS_FILE} beside the predictions: the weights, their training cases and the "
            "registration of their training pairs are unknown, and seen cases can't be refused."
        )
    if len(references) > 1:
        lines.append(
            "The references were registered in different ways: "
            + "; ".join(map(str, references))
            + ". Scores of the groups can't be compared."
        )
    return lines
