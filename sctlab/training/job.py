"""One stage of one fold, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sctlab.training.cache import PreparedCase
from sctlab.training.plan import Stage, TrainingPlan


@dataclass(frozen=True)
class StageJob:
    """One stage of one fold.

    Args:
        plan: The resolved plan.
        stage: Which of its stages.
        fold: Number of the fold.
        training: Prepared training cases.
        validation: Prepared validation cases.
        folder: Where checkpoints and logs go.
        start_folder: Folder of the stage whose best network is the start.
        cohort_digest: Of the pairs; a checkpoint of other data isn't resumed.
    """

    plan: TrainingPlan
    stage: Stage
    fold: int
    training: Sequence[PreparedCase]
    validation: Sequence[PreparedCase]
    folder: Path
    start_folder: Path | None
    cohort_digest: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"fold {self.fold}, stage {self.stage.name}"

    @property
    def seed(self) -> tuple[int, int, int]:
        """Numbers that no other fold or stage of the run shares."""
        return (self.plan.computing.seed, self.fold, self.plan.stages.index(self.stage))


@dataclass
class Progress:
    """What a checkpoint keeps besides tensors.

    Args:
        iteration: Steps done.
        best_score: Lowest validation score (see `sctlab.training.validation`).
        best_iteration: Where it was reached.
        validations_without_gain: Since then.
        seconds: Spent in training.
        finished: The stage has come to its end.
        validation_due: The step was done and its validation was cut short.
    """

    iteration: int = 0
    best_score: float | None = None
    best_iteration: int = 0
    validations_without_gain: int = 0
    seconds: float = 0.0
    finished: bool = False
    validation_due: bool = False

    def values(self) -> dict[str, Any]:
        """For a checkpoint's JSON."""
        return dict(vars(self))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Progress:
        """From a checkpoint's JSON; earlier releases called the score `best_mae_hu`."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if "best_mae_hu" in values:
            known["best_score"] = values["best_mae_hu"]
        return cls(**known)
