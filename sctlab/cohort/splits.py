"""Folds: which case validates where, drawn by patient and spread evenly over regions and centres."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from pydantic import Field

from sctlab.cohort.pairs import Pair
from sctlab_model.errors import InputError
from sctlab_model.records import Record


class FoldsRecord(Record):
    """`folds.json` of a run: which case validates in which fold; a held-out set belongs to none. Cases are named by
    their keys."""

    current_version: ClassVar[int] = 1

    validation: tuple[tuple[str, ...], ...] = Field(
        description="For each fold the cases that it validates on; it trains on the other folds' cases."
    )
    held_out: tuple[str, ...] = Field(default=(), description="Cases that no fold sees.")
    seed: int = Field(default=0, description="Of the shuffle.")
    patients: dict[str, str] = Field(description="Case key → patient.")

    def training_keys(self, fold: int) -> tuple[str, ...]:
        """Cases that a fold trains on, sorted by id."""
        if len(self.validation) == 1:
            keys = set(self.patients) - set(self.validation[0]) - set(self.held_out)
        else:
            keys = {key for k, cases in enumerate(self.validation) if k != fold for key in cases}
        return tuple(sorted(keys, key=by_id))

    def with_keys(self, keys: Mapping[str, str]) -> Self:
        """This record with whole keys: earlier releases named cases by their id alone.

        Args:
            keys: Id → key.
        """

        def whole(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(keys.get(name, name) for name in names)

        return self.model_copy(
            update={
                "validation": tuple(map(whole, self.validation)),
                "held_out": whole(self.held_out),
                "patients": {keys.get(name, name): patient for name, patient in self.patients.items()},
            }
        )

    def check(self, where: object = "folds") -> None:
        """Refuse folds that share a patient between training and validation, or with the held-out set.

        Raises:
            InputError: A patient stands in two of them, or a case isn't of the cohort.
        """
        owner: dict[str, str] = {}
        sets = {f"fold {k}": keys for k, keys in enumerate(self.validation)} | {"the held-out set": self.held_out}
        for name, keys in sets.items():
            for key in keys:
                patient = self.patients.get(key)
                if patient is None:
                    raise InputError(where, found=f"{name} holds {key}", expected="cases of the cohort only")
                if owner.setdefault(patient, name) != name:
                    raise InputError(
                        where,
                        found=f"patient {patient} is in {owner[patient]} and in {name}",
                        expected="each patient in one of them",
                        advice="make new folds",
                    )

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check a file; see `Record.read` and `check`."""
        record = super().read(path)
        record.check(path)
        return record


def by_id(key: str) -> tuple[str, str]:
    """Sorts case keys by id, then by the whole key."""
    return key.rsplit("/", 1)[-1], key


def make_folds(
    pairs: Sequence[Pair],
    count: int,
    *,
    seed: int = 0,
    held_out: float = 0.0,
    groups: Mapping[str, str] | None = None,
) -> FoldsRecord:
    """Distribute patients over folds so that every region x centre (x group) is spread evenly.

    Args:
        pairs: Checked pairs.
        count: Number of folds; 1 keeps about a fifth of the cases for validation.
        seed: Of the shuffle within a stratum.
        held_out: Share of the patients that no fold sees.
        groups: Case key and what else to spread evenly, such as its scanner (`parameters.strata_of`).

    Raises:
        InputError: Fewer patients than folds.
    """
    groups = groups or {}
    patients: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda p: by_id(p.key)):
        patients[pair.patient].append(pair)
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, cases in patients.items():
        group = groups.get(cases[0].key)
        strata[cases[0].stratum if group is None else f"{cases[0].stratum} {group}"].append(patient)
    bins = max(count, 2) if count > 1 else 5
    if len(patients) - round(held_out * len(patients)) < max(2, count):
        raise InputError(
            "folds",
            found=f"{len(patients)} patients for {count} folds and a held-out share of {held_out:g}",
            expected="at least a patient a fold",
            advice="lower data.folds or data.held_out",
        )
    rng = np.random.default_rng([seed, 0x5C7])
    kept_out: list[str] = []
    chosen: list[list[Pair]] = [[] for _ in range(bins)]
    debt = 0.0  # the held-out share of small strata, carried on to the next one
    for name in sorted(strata):
        shuffled = [strata[name][i] for i in rng.permutation(len(strata[name]))]
        debt += held_out * len(shuffled)
        take = int(debt + 0.5)
        debt -= take
        kept_out += shuffled[:take]
        # Patients with many cases first: the others fill the gaps that these leave.
        for patient in sorted(shuffled[take:], key=lambda p: -len(patients[p])):
            cases = patients[patient]
            min(chosen, key=partial(_filling, case=cases[0], groups=groups)).extend(cases)
    if count == 1:
        # The bin that shows most regions and is nearest to a fifth of the cases.
        fifth = sum(map(len, chosen)) / bins
        chosen = [min(chosen, key=lambda b: (-len({c.region for c in b}), int(abs(len(b) - fifth))))]
    validation = tuple(tuple(sorted((c.key for c in cases), key=by_id)) for cases in chosen)
    held_out_keys = tuple(sorted((c.key for patient in kept_out for c in patients[patient]), key=by_id))
    owner = {pair.key: pair.patient for pair in pairs}
    folds = FoldsRecord(validation=validation, held_out=held_out_keys, seed=seed, patients=owner)
    folds.check()
    return folds


def _filling(cases: Sequence[Pair], case: Pair, groups: Mapping[str, str]) -> tuple[int, ...]:
    """How full a fold is for another case: its cases of the same stratum and group, of the same group (where there are
    groups), of the same stratum, of the same region, and of any."""
    group = groups.get(case.key)
    alike = [c for c in cases if groups.get(c.key) == group]
    return (
        sum(c.stratum == case.stratum for c in alike),
        len(alike) if groups else 0,
        sum(c.stratum == case.stratum for c in cases),
        sum(c.region == case.region for c in cases),
        len(cases),
    )
