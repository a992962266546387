"""The cells of a study: every combination of the axes, with the content keys that say what is there already."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sctlab.evaluation.segmentation import NONE, resolve_segmenter
from sctlab.registration.records import EXCLUSIONS, PAIR, ExclusionsRecord
from sctlab.registration.settings import Convention
from sctlab.study.plan import DEFAULT_EXCLUSION, CohortPlan, Exclusion, PairsPlan, StudyPlan, case_folders
from sctlab.training.plan import TrainingPlan
from sctlab.workflow.keys import content_key, is_finished
from sctlab_model.errors import InputError

SHORT = 12  # characters of a key in a folder's name


@dataclass(frozen=True)
class PairSet:
    """One way to make pairs of one cohort: what a cell trains on, and a column to score against.

    Args:
        name: `impact`, or `impact@source_to_ct` where the plan has several conventions.
        plan: How.
        convention: Of a registration; None otherwise.
    """

    name: str
    plan: PairsPlan
    convention: Convention | None


@dataclass(frozen=True)
class Cell:
    """One training: a choice from every axis.

    Args:
        cohort, loss, supervision: Names in the plan; loss is `recipe` for the recipe's own.
        pairs: What it trains on.
        seed: Of weights and patches.
        exclusion: Which registered pairs are left out of training.
    """

    cohort: str
    pairs: PairSet
    loss: str
    supervision: str
    seed: int
    exclusion: Exclusion = DEFAULT_EXCLUSION

    @property
    def name(self) -> str:
        """All choices, for messages and files."""
        parts = [self.cohort, self.pairs.name, self.loss, self.supervision, f"seed{self.seed}", *self.kept]
        return "/".join(parts)

    @property
    def kept(self) -> list[str]:
        """What is said of pairs left out: nothing where it is what `sctlab train` leaves out."""
        named = "with-failed" if self.exclusion == "none" else f"without-{self.exclusion}"
        return [] if self.exclusion == DEFAULT_EXCLUSION else [named]


class StudyFiles:
    """Where a study's steps lie. A folder's name ends with its content key: what a change does not touch is found
    again, and nothing is overwritten.

    Args:
        plan: The study.
        out: Its folder.
    """

    def __init__(self, plan: StudyPlan, out: Path) -> None:
        self.plan, self.out = plan, out.absolute()

    @cached_property
    def pair_sets(self) -> tuple[PairSet, ...]:
        """The axis of pairs; conventions multiply registered ones only."""
        return tuple(self._pair_sets())

    def _pair_sets(self) -> Iterator[PairSet]:
        several = len(self.plan.conventions) > 1
        for name, pairs in self.plan.pairs.items():
            if not pairs.registered:
                yield PairSet(name, pairs, None)
                continue
            for convention in self.plan.conventions:
                yield PairSet(f"{name}@{convention}" if several else name, pairs, convention)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells. Objectives without pairs take no losses: they appear once, not once a loss. Pairs are left out of
        registered ones only."""
        cells = []
        for cohort in self.plan.cohorts:
            for pairs in self.pair_sets:
                for supervision, objective in self.plan.supervision.items():
                    losses = tuple(self.plan.losses) if objective.takes_losses else ()
                    for loss in losses or ("recipe",):
                        for seed in self.plan.seeds:
                            for exclusion in self._exclusions(pairs):
                                cells.append(Cell(cohort, pairs, loss, supervision, seed, exclusion))
        return tuple(cells)

    def _exclusions(self, pairs: PairSet) -> tuple[Exclusion, ...]:
        return self.plan.exclusions if pairs.plan.registered else (DEFAULT_EXCLUSION,)

    def train_name(self, cell: Cell) -> str:
        """The row of the matrix: the pairs, and of the other axes those that have several values (not the seed)."""
        return "+".join([cell.pairs.name, *self._others(cell)])

    def family(self, cell: Cell) -> str:
        """The row's name without the pairs: rows of one family differ in their pairs alone."""
        return "+".join(self._others(cell))

    def _others(self, cell: Cell) -> list[str]:
        parts = [cell.loss] if len(self.plan.losses) > 1 else []
        parts += [cell.supervision] if len(self.plan.supervision) > 1 else []
        parts += [cell.cohort] if len(self.plan.cohorts) > 1 else []
        return parts + cell.kept

    def cohort_key(self, name: str) -> str:
        """Of the cases; a real cohort's by names, sizes and times of its images."""
        cohort = self.plan.cohorts[name]
        if cohort.simulate is not None:
            return content_key("study-cohort/1", settings=cohort.simulate)
        assert cohort.folder is not None
        files = sorted(p for p in (cohort.folder / cohort.of_task.folder).rglob("*") if p.is_file())
        stamps = [f"{p.relative_to(cohort.folder)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
        return content_key("study-cohort/1", settings={"files": stamps})

    def cohort_folder(self, name: str) -> Path:
        """Of the cases."""
        cohort = self.plan.cohorts[name]
        if cohort.folder is not None:
            return cohort.folder.absolute()
        return self.out / "cohorts" / f"{name}-{self.cohort_key(name)[:SHORT]}"

    def pairs_key(self, cohort: str, pairs: PairSet) -> str:
        """Of a set of pairs."""
        settings = {"pairs": pairs.plan.model_dump(mode="json"), "convention": pairs.convention}
        return content_key("study-pairs/1", settings=settings, inputs=[self.cohort_key(cohort)])

    def pairs_folder(self, cohort: str, pairs: PairSet) -> Path:
        """What training reads: a cohort of pairs."""
        if pairs.plan.kind == "truth":
            return self.cohort_folder(cohort)
        folder = self.out / "pairs" / f"{pairs.name}-{self.pairs_key(cohort, pairs)[:SHORT]}"
        return folder / pairs.plan.method if pairs.plan.registered else folder

    def pairs_state(self, cohort: str, pairs: PairSet) -> str:
        """The key of a set of pairs, and which cases have none: what is made of the others has to be made again when a
        later run registers those, too."""
        key = self.pairs_key(cohort, pairs)
        folder, plan = self.pairs_folder(cohort, pairs), self.plan.cohorts[cohort]
        if pairs.plan.kind == "truth" or not folder.is_dir():
            return key
        names = (f"{f.parent.name}/{f.name}" for f in case_folders(self.cohort_folder(cohort), plan))
        lost = [n for n in names if not (folder / plan.of_task.folder / n / PAIR).is_file()]
        return " ".join([key, *(["without", *lost] if lost else [])])

    def proposed(self, cell: Cell) -> list[str]:
        """Which pairs the registration's report proposes to leave out; empty where it can't be read."""
        path = self.pairs_folder(cell.cohort, cell.pairs) / EXCLUSIONS
        try:
            return sorted(ExclusionsRecord.read(path).exclude) if path.is_file() else []
        except InputError:  # `left_out` says so before the cell is trained
            return []

    def training_plan(self, cell: Cell) -> TrainingPlan:
        """What the cell trains."""
        task = self.plan.cohorts[cell.cohort].of_task
        return self.plan.training_plan(task, cell.pairs.plan, cell.loss, cell.supervision, cell.seed, cell.exclusion)

    def split_key(self, cohort: str) -> str:
        """Of the division into folds, which all cells of a cohort share."""
        exclude = sorted(self.plan.cohorts[cohort].exclude)
        settings = {"folds": self.plan.folds, "seed": self.plan.split_seed, "exclude": exclude}
        settings |= {"stratify_by": self.plan.stratify_by} if self.plan.stratify_by else {}
        return content_key("study-split/1", settings=settings, inputs=[self.cohort_key(cohort)])

    def fold_key(self, cell: Cell, fold: int) -> str:
        """Of a trained fold and its predictions."""
        settings = {"plan": self.training_plan(cell).model_dump(mode="json"), "fold": fold}
        if cell.exclusion in ("rule", "random"):  # by what the rule found: its limits, or the report, may change
            settings |= {"exclusion": cell.exclusion, "proposed": self.proposed(cell)}
        inputs = [self.pairs_state(cell.cohort, cell.pairs), self.split_key(cell.cohort)]
        return content_key("study-fold/1", settings=settings, inputs=inputs)

    def fold_folder(self, cell: Cell, fold: int) -> Path:
        """Run, bundle and predictions of a fold."""
        return self.out / "folds" / f"{cell.pairs.name}-{fold}-{self.fold_key(cell, fold)[:SHORT]}"

    def scores_key(self, cell: Cell) -> str:
        """Of a cell's scores against every reference."""
        folds = [self.fold_key(cell, k) for k in range(self.plan.folds)]
        columns = [f"{p.name} {self.pairs_state(cell.cohort, p)}" for p in self.pair_sets]
        return content_key("study-scores/3", settings={"axis": self.axis, **self._measures}, inputs=[*folds, *columns])

    def scores_file(self, cell: Cell) -> Path:
        """The scores, complete where the file exists."""
        return self.out / "scores" / f"{cell.pairs.name}-{self.scores_key(cell)[:SHORT]}.json"

    @property
    def scored_cohorts(self) -> list[str]:
        """Cohorts with a scored cell: what a report can be about while the others are missing."""
        scored = {cell.cohort for cell in self.cells if self.scores_file(cell).is_file()}
        return [name for name in self.plan.cohorts if name in scored]

    def case_name(self, cohort: str, key: str) -> str:
        """A case in rows of several cohorts: ids may come again in each, and are other patients there."""
        return key if len(self.plan.cohorts) == 1 else f"{cohort}/{key}"

    @cached_property
    def segmenter(self) -> str:
        """The plan's, `auto` resolved to what is here."""
        return resolve_segmenter(self.plan.segmenter)

    @property
    def _measures(self) -> dict[str, Any]:
        """Of the scores' keys: what is measured beside the metrics that every study has."""
        found: dict[str, Any] = {"features": self.plan.features} if self.plan.features else {}
        return found | ({"segmenter": self.segmenter} if self.segmenter != NONE else {})

    def labels_file(self, cohort: str, pairs: PairSet | None, case: str) -> Path:
        """Labels that the segmenter gives a reference, kept for all cells; the truth's for None."""
        inputs = [self.cohort_key(cohort) if pairs is None else self.pairs_key(cohort, pairs)]
        key = content_key("study-labels/1", settings={"segmenter": self.segmenter}, inputs=inputs)
        name = "truth" if pairs is None else pairs.name
        return self.out / "labels" / f"{name}-{key[:SHORT]}" / f"{case}.mha"

    @property
    def axis(self) -> int:
        """Of the arrays (0: z, 1: y, 2: x), that edge profiles are along: where the first planted shift is longest."""
        shifts = (p.shift_xyz for p in self.plan.pairs.values() if p.systematic_mm)
        shift = next(shifts, None)
        return 1 if shift is None else 2 - int(abs(shift).argmax())

    def references_file(self, cohort: str) -> Path:
        """Scores of the references themselves, complete where the file exists."""
        columns = [f"{p.name} {self.pairs_state(cohort, p)}" for p in self.pair_sets]
        key = content_key("study-references/2", settings={"axis": self.axis, **self._measures}, inputs=columns)
        return self.out / "scores" / f"references-{cohort}-{key[:SHORT]}.json"

    def finished(self, cell: Cell, fold: int) -> bool:
        """Whether a fold is trained and its cases are predicted."""
        return is_finished(self.fold_folder(cell, fold), self.fold_key(cell, fold))


# Seconds on one core of a server processor, for the first estimate; a study that has run measures its own.
FIRST_RATES = {"simulate": 20.0, "rigid": 25.0, "mi": 60.0, "elastix": 90.0, "impact": 120.0, "iteration": 0.15}
RATES = "rates.json"


def read_rates(out: Path) -> dict[str, float]:
    """Seconds per case or iteration as measured here, otherwise the first guess."""
    try:
        measured = json.loads((out / RATES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        measured = {}
    return FIRST_RATES | {k: v for k, v in measured.items() if isinstance(v, int | float)}


def case_count(cohort: CohortPlan, folder: Path) -> int:
    """Cases that a cohort has or will have."""
    if cohort.simulate is not None:
        return cohort.simulate.cases * len(cohort.simulate.regions) - len(cohort.exclude)
    return len(case_folders(folder, cohort))


@dataclass(frozen=True)
class Cost:
    """One line of a dry run.

    Args:
        name: Step or cell.
        seconds: Estimated, on one core.
        done: Share of it that is there.
    """

    name: str
    seconds: float
    done: float


def estimate(files: StudyFiles) -> list[Cost]:
    """Every step with its cost from measured rates, and what is there already."""
    rates, costs = read_rates(files.out), []
    for name, cohort in files.plan.cohorts.items():
        count = case_count(cohort, files.cohort_folder(name))
        if cohort.simulate is not None:
            there = len(list(files.cohort_folder(name).glob("*/*/*/truth/truth.json")))
            costs.append(Cost(f"{name}: simulate {count} cases", count * rates["simulate"], min(1.0, there / count)))
        for pairs in files.pair_sets:
            if pairs.plan.registered:
                there = len(list(files.pairs_folder(name, pairs).glob("*/*/*/pair.json")))
                seconds = count * rates[pairs.plan.kind]
                costs.append(Cost(f"{name}: register {pairs.name}", seconds, min(1.0, there / count)))
    for cell in files.cells:
        iterations = sum(s.iterations for s in files.training_plan(cell).stages) * files.plan.folds
        done = sum(files.finished(cell, k) for k in range(files.plan.folds)) / files.plan.folds
        costs.append(Cost(cell.name, iterations * rates["iteration"], done))
    return costs
