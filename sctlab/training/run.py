"""A run: the folder that holds the plan, the cohort, the folds, and every stage of every fold."""

from __future__ import annotations

from pathlib import Path

from sctlab.cohort.load import CohortRecord
from sctlab.cohort.splits import FoldsRecord
from sctlab.training.checkpoint import has_checkpoint, read_values
from sctlab.training.plan import TrainingPlan, load_plan
from sctlab_model.errors import InputError

PLAN, COHORT, FOLDS, CHECKS = "plan.yaml", "cohort.json", "folds.json", "checks.json"


class Run:
    """The folder of a run.

    Args:
        folder: `plan.yaml`, `cohort.json`, `folds.json`, `fold_K/STAGE/`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def plan(self) -> TrainingPlan:
        """The resolved plan."""
        if not (self.folder / PLAN).is_file():
            raise InputError(self.folder, found=f"no {PLAN}", expected="the --out folder of `sctlab train`")
        return load_plan(str(self.folder / PLAN))

    @property
    def folds(self) -> FoldsRecord:
        """The folds."""
        keys = {key.rsplit("/", 1)[-1]: key for key in self.cohort.cases} if (self.folder / COHORT).is_file() else {}
        return FoldsRecord.read(self.folder / FOLDS).with_keys(keys)

    @property
    def cohort(self) -> CohortRecord:
        """The record of the pairs: digest, cases, registrations, what was left out."""
        return CohortRecord.read(self.folder / COHORT).with_keys(self.plan.recipe.task)

    def stage_folder(self, fold: int, stage: str) -> Path:
        """Where a stage's checkpoints and logs lie."""
        return self.folder / f"fold_{fold}" / stage

    def finished(self, fold: int, stage: str) -> bool:
        """Whether a stage was trained to its end."""
        folder = self.stage_folder(fold, stage)
        return has_checkpoint(folder, "last") and bool(read_values(folder, "last")["finished"])


__all__ = ["CHECKS", "COHORT", "FOLDS", "PLAN", "Run"]
