"""What an evaluation writes for others to read: one record of the whole, one entry per case."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from sctlab_model.errors import InputError
from sctlab_model.io.paths import not_a_file
from sctlab_model.records import Record

DETAILS = "details.json"


class CaseRecord(BaseModel):
    """Everything about one scored case."""

    model_config = ConfigDict(extra="allow")

    id: str
    region: str
    task: str = Field(description="mri or cbct.")
    prediction: str = Field(description="File that was scored.")
    reference: str = Field(description="File that it was scored against.")
    registration: dict[str, str] = Field(default_factory=dict, description="How the reference was registered.")
    metrics: dict[str, float | None] = Field(
        default_factory=dict, description="Key of `definitions.METRICS` and value; null where it is undefined."
    )
    baselines: dict[str, dict[str, float | None]] = Field(
        default_factory=dict, description="Image metrics of what costs nothing: `all water`, `raw image`."
    )
    organs: list[dict[str, Any]] = Field(default_factory=list)
    tissues: dict[str, dict[str, float]] = Field(default_factory=dict)
    depth: list[dict[str, float | None]] = Field(default_factory=list)
    slices: dict[str, dict[str, list[float]]] = Field(default_factory=dict)
    banding: dict[str, float] = Field(default_factory=dict)
    spread: dict[str, Any] | None = None
    truth: dict[str, float | None] | None = None
    dose: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Modality and its plan, curves, metrics.")
    parameters: dict[str, str | float | None] = Field(
        default_factory=dict, description="The case's row of SynthRAD's parameter file."
    )
    notes: list[str] = Field(default_factory=list, description="What a reader of the numbers must know.")
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """Task, region and id: `Task1/AB/1ABA001`."""
        return f"{'Task1' if self.task == 'mri' else 'Task2'}/{self.region}/{self.id}"


class EvaluationRecord(Record):
    """`details.json`: every number of an evaluation and where it came from."""

    current_version: ClassVar[int] = 2

    predictions: str
    cohort: str
    weights: str = ""
    segmenter: str = "none"
    reference_notes: list[str] = Field(default_factory=list, description="Which references were taken, if by default.")
    mismatches: list[str] = Field(default_factory=list, description="What must be read before the numbers.")
    left_out: dict[str, str] = Field(default_factory=dict, description="Case key and the reason, with what to do.")
    unknown: list[str] = Field(default_factory=list, description="Files of no case of the cohort.")
    settings: dict[str, Any] = Field(default_factory=dict)
    cases: list[CaseRecord]

    @classmethod
    def migrate(cls, value: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 called its version `format` and keyed `left_out` by id."""
        return {k: v for k, v in value.items() if k != "format"}


def read_evaluation(folder: str | Path) -> EvaluationRecord:
    """The record of an evaluation's output folder.

    Raises:
        InputError: Not there, or not one of ours.
    """
    folder = Path(folder)
    path = folder / DETAILS if folder.is_dir() or not folder.suffix else folder
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="the output folder of `sctlab evaluate`")
    return EvaluationRecord.read(path)
