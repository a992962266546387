"""The cases of a study's cohort, their division into folds, and which registered pairs are left out of training."""

from __future__ import annotations

import numpy as np

from sctlab.cohort.checks import check_images
from sctlab.cohort.load import checked
from sctlab.cohort.pairs import Pair, find_pairs
from sctlab.cohort.parameters import strata_of
from sctlab.cohort.splits import FoldsRecord, make_folds
from sctlab.registration.records import EXCLUSIONS, ExclusionsRecord
from sctlab.study.cells import Cell, StudyFiles
from sctlab_model.cases import Case, Selection, find_cases
from sctlab_model.monitor import Monitor


def study_cases(files: StudyFiles, cohort: str) -> list[Case]:
    """The cohort's cases without the excluded ones and those that no cell can use."""
    plan, folder = files.plan.cohorts[cohort], files.cohort_folder(cohort)
    usable = {p.key for p in usable_pairs(files, cohort)[0]}
    found = find_cases(folder, Selection(task=plan.of_task)).cases
    return [c for c in found if c.id not in plan.exclude and str(c.key) in usable]


def usable_pairs(files: StudyFiles, cohort: str, jobs: int = 1) -> tuple[list[Pair], dict[str, str]]:
    """The pairs of a cohort that the plan does not exclude, and those that no cell can use.

    The images of a cohort from elsewhere are opened once, and again when a file changes: one that can't be read would end
    every fold that has to predict it.

    Returns:
        The pairs, and case key → what is missing or wrong.

    Raises:
        InputError: The cohort has no case.
    """
    plan = files.plan.cohorts[cohort]
    found, lost = find_pairs(files.cohort_folder(cohort), plan.of_task)
    pairs = [p for p in found if p.id not in plan.exclude]
    lost = {key: reason for key, reason in lost.items() if key.rsplit("/", 1)[-1] not in plan.exclude}
    if plan.folder is not None:
        checks = checked(pairs, check_images, jobs, files.out / "cohorts" / f"{cohort}-checks.json", Monitor())
        lost |= {p.key: checks[p.key].error for p in pairs if checks[p.key].error}
    return [p for p in pairs if p.key not in lost], lost


def split_of(files: StudyFiles, cohort: str) -> FoldsRecord:
    """The division into folds that every cell of a cohort shares, one file; excluded cases are out before it."""
    path = files.out / "splits" / f"{cohort}-{files.split_key(cohort)[:12]}.json"
    if path.is_file():
        return FoldsRecord.read(path)
    kept, _ = usable_pairs(files, cohort)
    groups = strata_of(kept, files.plan.stratify_by, files.cohort_folder(cohort))
    split = make_folds(kept, files.plan.folds, seed=files.plan.split_seed, groups=groups)
    split.write(path)
    return split


def left_out(files: StudyFiles, cell: Cell) -> set[str]:
    """Keys of the pairs that no fold of a cell trains on; they are predicted and scored like the others.

    `rule` leaves out what the registration's report proposes; `random` as many, drawn from all: what the loss of so
    much data costs; `failed` what `sctlab train` leaves out.

    Raises:
        InputError: The registration's `exclusions.json` can't be read.
    """
    folder = files.pairs_folder(cell.cohort, cell.pairs)
    if cell.exclusion == "failed" and cell.pairs.plan.registered:
        task = files.plan.cohorts[cell.cohort].of_task
        sound, every = (find_pairs(folder, task, failed=f)[0] for f in ("leave_out", "use"))
        return {p.key for p in every} - {p.key for p in sound}
    path = folder / EXCLUSIONS
    if cell.exclusion not in ("rule", "random") or not path.is_file():
        return set()
    keys = sorted(split_of(files, cell.cohort).patients)
    proposed = set(ExclusionsRecord.read(path).exclude)
    chosen = {k for k in keys if k in proposed or k.rsplit("/", 1)[-1] in proposed}
    if cell.exclusion == "random":
        rng = np.random.default_rng([files.plan.split_seed, cell.seed])
        chosen = set(rng.choice(keys, len(chosen), replace=False).tolist())
    return chosen
