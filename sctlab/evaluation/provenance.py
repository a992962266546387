"""Where predictions and references come from: what the weights were trained on, and how CTs were registered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sctlab.registration.records import PairRecord
from sctlab_model.cases import Case, Region, Task, read_json
from sctlab_model.errors import InputError

PREDICTIONS_FILE = "predictions.json"


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
    """The bundle behind a set of predictions.

    Args:
        name: Bundle name.
        registration: Of the pairs that it was trained on.
        training_cases: Fold key (`AB+TH/0`: regions and index) → ids that the fold was trained on.
        demonstration: Weights that only show that the software works.
    """

    name: str
    registration: Registration = Registration()
    training_cases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    demonstration: bool = False


@dataclass(frozen=True)
class PredictionProvenance:
    """What `predictions.json` beside the predictions says; empty when there is none.

    Args:
        bundles: Task → weights.
        folds: Case id → folds that predicted it.
    """

    bundles: dict[Task, Weights] = field(default_factory=dict)
    folds: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def seen_by(self, case: Case) -> list[str]:
        """Folds that were used for a case and trained on it.

        Where the file doesn't say which folds were used, all of them count.
        """
        weights = self.bundles.get(case.task)
        if weights is None:
            return []
        used = self.folds.get(case.id)
        return [
            key
            for key, ids in weights.training_cases.items()
            if case.id in ids and _serves(key, case.region) and (used is None or _index(key) in used)
        ]


def read_prediction_provenance(folder: Path) -> PredictionProvenance:
    """Read `predictions.json` of a predictions folder.

    Raises:
        InputError: The file is there and isn't what `process.py` writes.
    """
    path = folder / PREDICTIONS_FILE
    if not path.is_file():
        return PredictionProvenance()
    content = read_json(path)
    try:
        bundles = {Task(task): _weights(entry) for task, entry in content.get("bundles", {}).items()}
        folds = {entry["case"]: tuple(entry["folds"]) for entry in content.get("cases", []) if entry.get("folds")}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            path,
            found=f"not a report of predictions ({type(error).__name__}: {error})",
            expected="the file that predicting wrote",
            advice="restore it, or remove it to do without",
        ) from error
    return PredictionProvenance(bundles, folds)


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


def _weights(entry: dict[str, Any]) -> Weights:
    registration = entry.get("registration") or {}
    return Weights(
        name=str(entry.get("name", "")),
        registration=Registration.of(str(registration.get("method", "")), str(registration.get("convention", ""))),
        training_cases={str(k): tuple(map(str, ids)) for k, ids in (entry.get("training_cases") or {}).items()},
        demonstration=bool(entry.get("demonstration", False)),
    )


def _serves(key: str, region: Region | None) -> bool:
    regions = key.rpartition("/")[0].split("+")
    return region is None or regions == [""] or str(region) in regions


def _index(key: str) -> int:
    return int(key.rpartition("/")[2])
