"""Three questions: does a reference reward its own training pairs, is a synthesis as good as registrations agree, and does leaving
out doubtful pairs help?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sctlab.study.analysis import Estimate, Row, mean_of, over_seeds
from sctlab.study.scores import TRUTH


@dataclass(frozen=True)
class Agreeing:
    """A training's MAE beside what two registrations leave of a CT, paired by case.

    Args:
        train, evaluate: Cell of the matrix.
        control: `A then B`.
        n: Cases that have both.
        control_mae, mae: Means over them, HU.
        difference, low, high: MAE minus control, with its 95 % bootstrap interval.
    """

    train: str
    evaluate: str
    control: str
    n: int
    control_mae: float
    mae: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better` and `worse` only where the interval is on one side of 0."""
        if self.high < 0:
            return "better than the registrations agree"
        return "worse than the registrations agree" if self.low > 0 else "as good as the registrations agree"


def as_good_as_registrations(rows: Sequence[Row], controls: Sequence[Mapping[str, Any]]) -> list[Agreeing]:
    """Every cell's MAE against every control.

    Args:
        rows: Scores.
        controls: Rows with `train` (the control's name), `case` and `mae`.
    """
    lines: dict[str, dict[str, float]] = {}
    for control in controls:
        lines.setdefault(str(control["train"]), {})[str(control["case"])] = float(control["mae"])
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for row in over_seeds(rows):
        cells.setdefault((row.train, row.evaluate), {})[row.case] = row.scores["mae"]
    found = []
    for (train, evaluate), own in cells.items():
        for name, line in lines.items():
            shared = [c for c in own if c in line]
            if shared:
                e = mean_of("", "", [own[c] - line[c] for c in shared])
                means = (sum(line[c] for c in shared) / e.n, sum(own[c] for c in shared) / e.n)
                found.append(Agreeing(train, evaluate, name, e.n, *means, e.mean, e.low, e.high))
    return found


def matching_reward(rows: Sequence[Row]) -> list[Estimate]:
    """What a reference gives to the training on its own pairs: (MAE of that training minus another's, by this reference) minus
    (the same difference by the truth), paired by case; below 0 it makes its own training look better than it is.

    A strict reference or a poor training cancels out, which the cells of a matrix do not.

    Args:
        rows: Scores; the column of a training is named as its pairs, before a `+`.
    """
    table = {(r.train, r.evaluate, r.case): r.scores["mae"] for r in over_seeds(rows)}
    trainings, cases = dict.fromkeys(t for t, _, _ in table), dict.fromkeys(c for _, _, c in table)
    found = []
    for own in trainings:
        column, _, family = own.partition("+")
        others = [t for t in trainings if t != own and t.partition("+")[2] == family]
        for other in others if column != TRUTH else ():
            cells = ((own, column), (other, column), (own, TRUTH), (other, TRUTH))
            values = [[table[*cell, c] for cell in cells] for c in cases if all((*cell, c) in table for cell in cells)]
            if values:
                found.append(mean_of(f"{own} against {other}", "mae", [(a - b) - (x - y) for a, b, x, y in values]))
    return found


def exclusion_effect(rows: Sequence[Row], trainings: Mapping[str, tuple[str, int]]) -> list[Estimate]:
    """What leaving pairs out did: MAE against the truth minus that of the training on all pairs (or on most), paired by case.

    Args:
        rows: Scores.
        trainings: Training without some pairs → the same one on all or most, and how many pairs were left out.
    """
    table: dict[str, dict[str, float]] = {}
    for row in over_seeds(rows):
        if row.evaluate == TRUTH:
            table.setdefault(row.train, {})[row.case] = row.scores["mae"]
    found = []
    for train, (base, count) in trainings.items():
        shared = [c for c in table.get(train, {}) if c in table.get(base, {})]
        if shared:
            values = [table[train][c] - table[base][c] for c in shared]
            found.append(mean_of(train, f"mae, {count} pairs left out", values))
    return found
