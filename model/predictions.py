"""What is kept about predictions: `predictions.json` of a folder, and a record beside each result.

A folder's record is merged, never replaced: several runs, also at the same time, with several bundles, tasks and regions
write into one folder, and each case is found by its key. Records hold no paths and nothing of a file's own header.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
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
LOCK_FILE = ".predictions.lock"
_SYNTHRAD_ID = re.compile(r"([12])(AB|HN|TH)[A-Z]\d{3}")


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
        return _from_version_1(value) if version < 2 else value

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


def merge_predictions(
    folder: str | Path,
    cases: Mapping[str, CaseResult],
    bundles: Mapping[str, BundleUse] | None = None,
    *,
    remove: Collection[str] = (),
) -> PredictionRecord:
    """Add results to a folder's record, under a lock, so that processes that share the folder keep each other's part.

    A failed case does not take the place of an older result whose file is still there.

    Args:
        folder: The folder of predictions.
        cases: Case key to result.
        bundles: Bundle id to bundle.
        remove: Keys to take out.

    Returns:
        The record as it was written.

    Raises:
        InputError: The file is there and is no such record.
        ResourceError: The disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with record_lock(folder):
        record = read_predictions(folder) or PredictionRecord()
        kept = {
            key: result
            for key, result in cases.items()
            if result.state == "done" or not _is_done(record.cases.get(key), folder)
        }
        results = {key: r for key, r in {**record.cases, **kept}.items() if key not in remove}
        merged = PredictionRecord(bundles={**record.bundles, **(bundles or {})}, cases=dict(sorted(results.items())))
        merged.write(folder / PREDICTIONS_FILE)
    return merged


@contextmanager
def record_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's record for one process at a time.

    The lock is a hidden file beside the record that is removed on release; one that a killed process left is taken over.
    (The folder itself can't be locked: whoever writes a file into it holds a shared lock on it.) File systems without
    locks are used without one: there, don't let two processes write into one folder.
    """
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        os.close(descriptor)  # its holder removed it between the two: again
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def without_paths(text: str, folders: tuple[Path, ...] = ()) -> str:
    """A message without folder names: what a record keeps is none of the next reader's business."""
    for folder in sorted({str(f) for f in folders if str(f) not in (".", "/")}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    return re.sub(r"(?<![\w.])/(?:[^/\s:;,()']+/)+", "", text)


@cache
def software(device: str = "") -> Software:
    """The software that runs, with its revision and the versions of the libraries that decide results."""
    import platform
    from importlib import metadata

    from sctlab_model.revision import code_revision

    versions = {}
    for package in (
        "torch",
        "numpy",
        "scipy",
        "SimpleITK",
        "segmentation-models-pytorch",
        "timm",
        "onnxruntime",
        "openvino",
    ):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return Software(revision=code_revision(), python=platform.python_version(), versions=versions, device=device)


def _is_done(result: CaseResult | None, folder: Path) -> bool:
    return result is not None and result.state == "done" and (folder / result.output).is_file()


def _from_version_1(value: dict[str, Any]) -> dict[str, Any]:
    old_bundles, old_cases = value.get("bundles", {}), value.get("cases", [])
    if not isinstance(old_bundles, dict) or not isinstance(old_cases, list):
        return {"bundles": old_bundles, "cases": old_cases}  # refused by the types, with the key's name
    bundles = {task: _old_bundle(task, entry) for task, entry in old_bundles.items()}
    cases = {}
    for entry in old_cases:
        if not isinstance(entry, dict) or "case" not in entry:
            return {"bundles": {}, "cases": old_cases}
        key = _old_key(str(entry["case"]), str(entry.get("output", "")), list(bundles))
        if key is not None:
            cases[str(key)] = {
                **{k: v for k, v in entry.items() if k != "case"},
                "state": "failed" if entry.get("error") else "done",
                "bundle": bundles[key.task.value].id,
            }
    return {"bundles": {b.id: b.model_dump(mode="json") for b in bundles.values()}, "cases": cases}


def _old_bundle(task: str, entry: Any) -> BundleUse:
    entry = entry if isinstance(entry, dict) else {}
    hashes = list(entry.get("weights_sha256") or [])
    folds = []
    for position, (name, ids) in enumerate((entry.get("training_cases") or {}).items()):
        regions, _, index = str(name).rpartition("/")
        folds.append(
            FoldUse(
                regions=tuple(Region(r) for r in regions.split("+") if r),
                index=int(index),
                weights_sha256=hashes[position] if position < len(hashes) else "",
                training_cases=tuple(map(str, ids)),
            )
        )
    return BundleUse(
        name=str(entry.get("name", "")),
        task=Task(task),
        demonstration=bool(entry.get("demonstration", False)),
        intended_use=str(entry.get("intended_use", "")),
        registration={k: str(v) for k, v in (entry.get("registration") or {}).items()},
        folds=tuple(folds),
    )


def _old_key(case_id: str, output: str, tasks: list[str]) -> CaseKey | None:
    match = _SYNTHRAD_ID.fullmatch(case_id)
    if len(tasks) == 1:
        task = Task(tasks[0])
    elif match and (Task.MRI if match[1] == "1" else Task.CBCT).value in tasks:
        task = Task.MRI if match[1] == "1" else Task.CBCT
    else:
        return None
    folder = Path(output).parent.name
    region = folder if folder in set(Region) else match[2] if match else None
    return CaseKey(task, Region(region) if region else None, case_id)
