"""What is kept about predictions: `predictions.json` of a folder, and a record beside each result.

A folder's record is merged, never replaced: several runs, also at the same time, with several bundles, tasks and regions
write into one folder, and each case is found by its key. Records hold no paths and nothing of a file's own header.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sctlab_model.bundle import Bundle
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.gates import ResultStatistics
from sctlab_model.records import Record

PREDICTIONS_FILE = "predictions.json"
RECORD_SUFFIX = ".record.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow")


class FoldUse(_Part):
    """A fold of a bundle.

    Args:
        regions: Regions that its group serves.
        index: Place in its group.
        weights_sha256: Of the weights file.
        training_cases: Ids of the cases that changed its weights.
    """

    regions: tuple[Region, ...] = ()
    index: int
    weights_sha256: str = ""
    training_cases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Regions and index, for messages."""
        return f"{'+'.join(self.regions)}/{self.index}"


class BundleUse(_Part):
    """The weights behind results.

    Args:
        name: The bundle's name.
        task: What it reads.
        demonstration: Weights that only show that the software works.
        intended_use: In the bundle's words.
        registration: Method and convention of its training pairs.
        recipe_sha256: Of everything between a source and the network's input, and back.
        folds: Every fold, in the order of its group.
    """

    name: str = ""
    task: Task
    demonstration: bool = False
    intended_use: str = ""
    registration: dict[str, str] = {}
    recipe_sha256: str = ""
    folds: tuple[FoldUse, ...] = ()

    @classmethod
    def of(cls, bundle: Bundle) -> BundleUse:
        """What is kept of a bundle."""
        return cls(
            name=bundle.name,
            task=bundle.task,
            demonstration=bundle.demonstration,
            intended_use=bundle.intended_use,
            registration=bundle.registration.model_dump(),
            recipe_sha256=hashlib.sha256(bundle.recipe.model_dump_json().encode()).hexdigest(),
            folds=tuple(
                FoldUse(
                    regions=group.regions,
                    index=k,
                    weights_sha256=fold.weights.sha256,
                    training_cases=fold.training_cases,
                )
                for group in bundle.groups
                for k, fold in enumerate(group.folds)
            ),
        )

    def folds_of(self, region: Region | None, indices: list[int]) -> list[FoldUse]:
        """Folds of the group that serves a region (any region: of the first group)."""
        group = next((f.regions for f in self.folds if region is None or not f.regions or region in f.regions), ())
        return [f for f in self.folds if f.regions == group and f.index in indices]

    @property
    def id(self) -> str:
        """Name, and the first digits of a hash over recipe and weights: what a case's record calls its bundle."""
        parts = (self.task, self.recipe_sha256, *(f.weights_sha256 for f in self.folds))
        digest = hashlib.sha256("".join(parts).encode()).hexdigest()
        return f"{self.name}@{digest[:12]}"


class Software(_Part):
    """What made a result: revision of the code, versions, device."""

    revision: str = ""
    python: str = ""
    versions: dict[str, str] = {}
    device: str = ""


class CaseResult(_Part):
    """What happened to one case.

    Args:
        state: `done`; `failed`, with the error; `claimed` while a run that will write it has not come to it.
        output: File of the sCT relative to the output folder.
        bundle: The bundle's `id`, a key of the record's `bundles`.
        folds: Folds of the case's group that were used.
        warnings: For the person who uses the result.
        notes: What was done on the way that is no reason to look twice.
        error: Why there is no result.
        implausible: What the output gate would have refused, had it not been told to let everything through.
        input_sha256: Of the files it was made from: `source`, `mask`.
        output_sha256: Of the file of the sCT.
        statistics: What normalisation measured.
        measured: What the output gate measured.
        limits: What the output gate held that against: `absolute` limits only (the bundle has no statistics of its own
            validation for the region), or `validation` too. Empty in records of earlier releases.
        slices: Slices that hold body.
        batch: Samples that ran together.
        runtime: What ran the network, with its version and precision.
        seconds: Duration of each step.
        software: What made it.
    """

    state: Literal["claimed", "done", "failed"] = "done"
    output: str = ""
    bundle: str = ""
    folds: list[int] = []
    warnings: list[str] = []
    notes: list[str] = []
    error: str = ""
    implausible: list[str] = []
    input_sha256: dict[str, str] = {}
    output_sha256: str = ""
    statistics: dict[str, float] = {}
    measured: ResultStatistics | None = None
    limits: Literal["", "absolute", "validation"] = ""
    slices: int = 0
    batch: int = 0
    runtime: str = ""
    seconds: dict[str, float] = {}
    software: Software = Software()


class ResultRecord(Record):
    """The record beside one sCT."""

    result: CaseResult
    bundle_name: str = ""
    demonstration: bool = False
    intended_use: str = ""
    weights_sha256: list[str] = Field(default=[], description="Of the folds that were used.")


class PredictionRecord(Record):
    """`predictions.json`: every result of a folder.

    Args:
        bundles: Bundle `id` to bundle.
        cases: Case key (`Task1/AB/1ABA001`) to what happened to it.
    """

    current_version: ClassVar[int] = 2

    bundles: dict[str, BundleUse] = Field(default_factory=dict)
    cases: dict[str, CaseResult] = Field(default_factory=dict)

    @field_validator("cases")
    @classmethod
    def _keys(cls, cases: dict[str, CaseResult]) -> dict[str, CaseResult]:
        for key in cases:
            try:
                CaseKey.parse(key)
            except InputError as error:
                raise ValueError(str(error)) from error
        return cases

    @classmethod
    def migrate(cls, value: dict[str, Any], version: int) -> dict[str, Any]:
        """Files before version 2 have `bundles` by task and a list `cases` with bare ids.

        A case's task is that of the only bundle; with two bundles, the one that a SynthRAD id begins with. Its region
        is the folder that its output lies in, else the one in a SynthRAD id, else unknown. A case whose task can't be
        told is dropped: readers then treat it like a case without a record.
        """
        from sctlab_model.predictions_version_1 import from_version_1

        return from_version_1(value) if version < 2 else value

    def find(self, key: CaseKey) -> CaseResult | None:
        """The result of a case; a result that was made without knowing the region serves, too."""
        exact = self.cases.get(str(key))
        without_region = self.cases.get(str(CaseKey(key.task, None, key.id)))
        results = [r for r in (exact, without_region) if r is not None and r.state == "done"]
        return results[0] if results else None

    def results(self) -> Iterator[tuple[CaseKey, CaseResult]]:
        """Every case that has a result."""
        for key, result in self.cases.items():
            if result.state == "done":
                yield CaseKey.parse(key), result


def read_predictions(folder: str | Path) -> PredictionRecord | None:
    """The record of a folder of predictions; None where there is none.

    Raises:
        InputError: The file is there and is no such record.
    """
    path = Path(folder) / PREDICTIONS_FILE
    return PredictionRecord.read(path) if path.is_file() else None
