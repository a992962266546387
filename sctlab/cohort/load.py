"""The cohort of a training: pairs that can be used, those that can't with the reason, and the record of both."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field

from sctlab.cohort.checks import Check, ChecksRecord, check_pair, merge_duplicates, stamp_of
from sctlab.cohort.exclusions import excluded_keys, read_exclusions
from sctlab.cohort.pairs import Failed, Pair, Target, find_pairs
from sctlab.workflow.cases import run_cases
from sctlab.workflow.outcomes import refuse_broken
from sctlab_model.cases import CaseKey, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.monitor import Monitor
from sctlab_model.records import Record


@dataclass(frozen=True)
class Cohort:
    """The pairs of a folder that can be used, and the others.

    Args:
        root: The folder.
        pairs: Sorted by id.
        left_out: Case key → why it can't be used. Nobody asked for that: a command that goes on without them names
            them and ends with exit code 1.
        excluded: Case key → reason, as the exclusion list asks for.
    """

    root: Path
    pairs: tuple[Pair, ...]
    left_out: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over ids and contents of the pairs, whatever folder they lie in."""
        lines = sorted(f"{p.id} {p.digest}" for p in self.pairs)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def registrations(self) -> list[dict[str, Any]]:
        """The distinct ways the pairs were registered, each with its number of cases."""
        counts: dict[tuple, int] = defaultdict(int)
        for pair in self.pairs:
            counts[pair.registration] += 1
        return [{**dict(k), "cases": n} for k, n in sorted(counts.items())]

    @property
    def doubtful(self) -> dict[str, str]:
        """Case key → why its registration is doubtful, of the pairs that are used."""
        return {p.key: p.doubt for p in self.pairs if p.doubt}


class CohortCase(BaseModel):
    """One pair in a `CohortRecord`."""

    region: Region
    centre: str = ""
    patient: str
    digest: str


class CohortRecord(Record):
    """`cohort.json` of a run: which pairs it was trained on, and which it was not."""

    current_version: ClassVar[int] = 1

    folder: str = ""
    digest: str = Field(description="SHA-256 over ids and contents of the pairs.")
    registrations: list[dict[str, Any]] = Field(default=[], description="Ways of registration with their counts.")
    left_out: dict[str, str] = Field(default={}, description="Case key → why it could not be used.")
    excluded: dict[str, str] = Field(default={}, description="Case key → reason, by the exclusion list.")
    doubtful: dict[str, str] = Field(default={}, description="Case key → why its registration is doubtful; it is used.")
    cases: dict[str, CohortCase] = Field(description="Case key → the pair.")

    @classmethod
    def of(cls, cohort: Cohort) -> Self:
        """The record of a cohort."""
        return cls(
            folder=str(cohort.root),
            digest=cohort.digest,
            registrations=cohort.registrations,
            left_out=cohort.left_out,
            excluded=cohort.excluded,
            doubtful=cohort.doubtful,
            cases={
                p.key: CohortCase(region=p.region, centre=p.centre, patient=p.patient, digest=p.digest)
                for p in cohort.pairs
            },
        )

    def with_keys(self, task: Task) -> Self:
        """This record with whole keys: earlier releases named cases by their id alone, and the plan knows the task."""
        keys = {
            name: name if "/" in name else str(CaseKey(task, case.region, name)) for name, case in self.cases.items()
        }
        return self.model_copy(update={"cases": {keys[name]: case for name, case in self.cases.items()}})


def load_cohort(
    root: str | Path,
    task: Task,
    *,
    target: Target = "ct",
    failed: Failed = "leave_out",
    exclude: str | Path | None = None,
    regions: Iterable[Region] | None = None,
    jobs: int = 1,
    remember: Path | None = None,
    monitor: Monitor = Monitor(),
) -> Cohort:
    """Find and check the pairs of a cohort.

    Args:
        root: A cohort folder, or `<out>/<method>` of registered pairs.
        task: Which of its tasks.
        target, failed: See `find_pairs`.
        exclude: List of cases to leave out; see `read_exclusions`.
        regions: Only these.
        jobs: Processes for the checks.
        remember: JSON file that keeps the results, so that each pair is opened once while its files stay
            as they are (size and modification time).
        monitor: Told of progress.

    Raises:
        InputError: No usable pair (the message says why the first was left out), an entry of the exclusion list that
            fits no case, or a check that was cut short; what was found out by then is remembered.
    """
    root = Path(root)
    found, left_out = find_pairs(root, task, target=target, failed=failed)
    excluded: dict[str, str] = {}
    if exclude is not None:
        keys = {p.key for p in found} | set(left_out) | _keys_of_other_tasks(root, task)
        own = excluded_keys(read_exclusions(exclude), keys, exclude)
        excluded = {key: reason for key, reason in own.items() if key.startswith(f"{task.folder}/")}
    wanted = set(regions) if regions is not None else set(Region)
    others = {str(region) for region in set(Region) - wanted}  # nobody misses what these lack
    left_out = {
        key: reason for key, reason in left_out.items() if key not in excluded and key.split("/")[1] not in others
    }
    candidates = [p for p in found if p.key not in excluded and p.region in wanted]
    checks = checked(candidates, check_pair, jobs, remember, monitor)
    usable = []
    for pair in candidates:
        check = checks[pair.key]
        if check.error:
            left_out[pair.key] = check.error
        else:
            usable.append(replace(pair, digest=check.digest, images=(*pair.images, *check.images)))
    if not usable:
        reason = "; ".join(f"{k}: {v}" for k, v in list(left_out.items())[:2]) or "no case of the wanted regions"
        raise InputError(root, found=f"no usable pair ({reason})", expected="pairs of source, target and mask")
    usable.sort(key=lambda p: (p.id, p.key))
    return Cohort(root, tuple(merge_duplicates(usable)), left_out, excluded)


def _keys_of_other_tasks(root: Path, task: Task) -> set[str]:
    """Cases of the folder's other task: one exclusion list may serve both."""
    keys: set[str] = set()
    for other in set(Task) - {task}:
        try:
            pairs, left_out = find_pairs(root, other)
        except InputError:  # the folder has no such task
            continue
        keys |= {p.key for p in pairs} | set(left_out)
    return keys


def checked(
    pairs: Sequence[Pair], check: Callable[[Pair], Pair], jobs: int, remember: Path | None, monitor: Monitor
) -> dict[str, Check]:
    """Checks by key, remembered ones where the files are as they were.

    Args:
        pairs: What is checked.
        check: `check_pair`, or `check_images` of cases that were not registered yet.
        jobs, remember, monitor: See `load_cohort`.

    Raises:
        InputError: A check was cut short; what was found out by then is remembered.
    """
    record = ChecksRecord.read_if_there(remember)
    known = record.checks
    stamps = {p.key: stamp_of(p) for p in pairs}
    fresh = [p for p in pairs if p.key not in known or known[p.key].stamp != stamps[p.key]]
    if not fresh:
        return known
    outcomes = run_cases(check, [(p.key, (p,)) for p in fresh], jobs=jobs, monitor=monitor)
    for pair, outcome in zip(fresh, outcomes, strict=True):
        if outcome.broken:  # nothing was learnt about the pair
            known.pop(pair.key, None)
        elif outcome.ok:
            digests = outcome.result.images[len(pair.images) :]
            known[pair.key] = Check(stamp=stamps[pair.key], digest=outcome.result.digest, images=digests)
        else:
            known[pair.key] = Check(stamp=stamps[pair.key], error=outcome.error)
    if remember is not None:
        record.write(remember)
    refuse_broken(outcomes, "checking pairs")
    return known
