"""What the scores say: bias of references, what was learnt per millimetre planted, and who wins by which reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy.stats import kendalltau, spearmanr

from sctlab.measures.statistics import bootstrap_interval
from sctlab.study.displacement import DISPLACEMENT, EDGE_SHIFT
from sctlab.study.plan import PairsPlan
from sctlab.study.scores import METRICS, TRUTH, is_score

SAMPLES = 2000  # resamplings of cases for a slope
ALONG = {"shift_mm": DISPLACEMENT[:3], "edge_shift_mm": EDGE_SHIFT}


@dataclass(frozen=True)
class Row:
    """One prediction against one reference.

    Args:
        train, evaluate: Row and column of the matrix.
        region, case: Whose.
        seed: Of the training.
        scores: By metric.
    """

    train: str
    evaluate: str
    region: str
    case: str
    seed: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A mean over cases.

    Args:
        name, quantity: Whose, and what.
        n: Cases.
        mean: Over them, after averaging seeds.
        low, high: 95 % bootstrap interval (cases resampled); equal to the mean for one case.
    """

    name: str
    quantity: str
    n: int
    mean: float
    low: float
    high: float


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row per training, reference and case: the mean over seeds."""
    groups: dict[tuple[str, str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.train, row.evaluate, row.region, row.case].append(row)
    return [Row(*key, 0, _means(group)) for key, group in groups.items()]


def _means(group: Sequence[Row]) -> dict[str, float]:
    """Of the metrics that all rows have."""
    shared = [m for m in group[0].scores if all(m in r.scores for r in group)]
    return {m: float(np.mean([r.scores[m] for r in group])) for m in shared}


def mean_of(name: str, quantity: str, values: Sequence[float]) -> Estimate:
    """Mean with its interval."""
    numbers = np.array(values, dtype=np.float64)
    low, high = bootstrap_interval(numbers) if numbers.size > 1 else (float(numbers[0]),) * 2
    return Estimate(name, quantity, numbers.size, float(numbers.mean()), low, high)


def scores_in(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is scored in every column: the metrics of every study, then those that any row has besides."""
    found = dict.fromkeys(k for row in rows for k in row.scores if is_score(k))
    return (*METRICS, *(k for k in found if k not in METRICS))


def bias(rows: Sequence[Row], metrics: Sequence[str] | None = None) -> list[Estimate]:
    """Score against each reference minus score against the truth, paired by case: `train/evaluate`, metric (all of them
    where none are named)."""
    metrics = scores_in(rows) if metrics is None else metrics
    table = {(r.train, r.evaluate, r.case): r.scores for r in over_seeds(rows)}
    names = dict.fromkeys((train, evaluate) for train, evaluate, _ in table if evaluate != TRUTH)
    results = []
    for train, evaluate in names:
        cases = [c for t, e, c in table if (t, e) == (train, evaluate) and (train, TRUTH, c) in table]
        for metric in metrics:
            pairs = [(table[train, evaluate, c].get(metric), table[train, TRUTH, c].get(metric)) for c in cases]
            values = [a - b for a, b in pairs if a is not None and b is not None]
            if values and np.isfinite(values).all():
                results.append(mean_of(f"{train}/{evaluate}", metric, values))
    return results


def against_truth(rows: Sequence[Row]) -> list[Estimate]:
    """Every quantity that needs the truth, by training: scores, sharpness, spread, displacement."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in over_seeds(rows):
        if row.evaluate == TRUTH:
            groups[row.train].append(row)
    quantities = (*scores_in(rows), *DISPLACEMENT, *EDGE_SHIFT, "ensemble_spread")
    results = []
    for train, group in groups.items():
        for quantity in quantities:
            # an organ that one case has lost leaves the other cases their mean; n says how many
            values = [v for r in group if np.isfinite(v := r.scores.get(quantity, np.nan))]
            if values:
                results.append(mean_of(train, quantity, values))
    return results


def spread_by_voxel(rows: Sequence[Row]) -> list[Estimate]:
    """Over cases, the mean of Spearman's correlation over voxels: of the ensemble's spread with the absolute error
    (`train/truth`), and with the size of a reference's bias (`train/reference`)."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in over_seeds(rows):
        if np.isfinite(row.scores.get("spread_rho", np.nan)):
            groups[f"{row.train}/{row.evaluate}"].append(row.scores["spread_rho"])
    return [mean_of(name, "spread_rho", values) for name, values in groups.items()]


@dataclass(frozen=True)
class Slope:
    """A line through the planted levels, least squares.

    Args:
        family: The other choices of the trainings (objective, losses, cohort); empty where the study has one of each.
        part: `systematic` or `variable`.
        quantity: What responds.
        levels: Planted mm, the truth as 0.
        means: Mean response at each level.
        lows, highs: Its 95 % interval, from the same resamplings.
        slope: Response per planted mm.
        low, high: 95 % interval, cases resampled (the same cases at every level).
        n: Cases.
    """

    family: str
    part: str
    quantity: str
    levels: tuple[float, ...]
    means: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    slope: float
    low: float
    high: float
    n: int


def dose_response(
    rows: Sequence[Row], trainings: dict[str, PairsPlan], families: Mapping[str, str] | None = None, *, seed: int = 0
) -> list[Slope]:
    """Response per planted millimetre: HU, sharpness, ensemble spread, and the displacement that was learnt.

    `shift_mm` is the learnt mean vector along the planted direction, `edge_shift_mm` the same by edges; a slope of 1 says
    that the network learns the whole systematic part. Levels that plant both parts are left out.

    Args:
        rows: Scores.
        trainings: Row of the matrix → the pairs that it trained on.
        families: Row of the matrix → its other choices: each has curves of its own.
        seed: Of the resampling.
    """
    table = {(r.train, r.case): r.scores for r in over_seeds(rows) if r.evaluate == TRUTH}
    slopes = []
    own = {t: (families or {}).get(t, "") for t in trainings}
    for family, part in product(dict.fromkeys(own.values()), ("systematic", "variable")):
        chosen = {t: _level(p, part) for t, p in trainings.items() if own[t] == family}
        levels = {t: mm for t, mm in chosen.items() if mm is not None and any(t == name for name, _ in table)}
        if len(set(levels.values())) < 2:
            continue
        cases = sorted({c for _, c in table if all((t, c) in table for t in levels)})
        if not cases:
            continue
        direction = _direction(part, [trainings[t] for t in levels])
        quantities = ["mae", "rmse", "sharpness", "spread_mm", "ensemble_spread"]
        quantities += list(ALONG) if direction is not None else []
        x = np.array(list(levels.values()))
        for quantity in quantities:
            values = [[_response(table[t, c], quantity, direction) for c in cases] for t in levels]
            y = np.array(values, dtype=np.float64)  # levels, cases
            if not np.isfinite(y).all():
                continue
            draws = np.random.default_rng(seed).integers(0, len(cases), (SAMPLES, len(cases)))
            resampled = y[:, draws].mean(2)  # levels, samples
            low, high = np.percentile(np.polyfit(x, resampled, 1)[0], (2.5, 97.5))
            lows, highs = np.percentile(resampled, (2.5, 97.5), axis=1)
            means = y.mean(1)
            slope = float(np.polyfit(x, means, 1)[0])
            slopes.append(
                Slope(
                    family,
                    part,
                    quantity,
                    tuple(map(float, x)),
                    tuple(map(float, means)),
                    tuple(map(float, lows)),
                    tuple(map(float, highs)),
                    slope,
                    float(low),
                    float(high),
                    len(cases),
                )
            )
    return slopes


def _level(pairs: PairsPlan, part: str) -> float | None:
    """Planted mm of one part; None for pairs that are not of this curve."""
    if pairs.kind == "truth":
        return 0.0
    own, other = pairs.systematic_mm, pairs.variable_mm
    own, other = (own, other) if part == "systematic" else (other, own)
    return own if pairs.kind == "planted" and not other else None


def _direction(part: str, pairs: Sequence[PairsPlan]) -> np.ndarray | None:
    """The one direction of all systematic levels."""
    shifts = [p.shift_xyz / p.systematic_mm for p in pairs if p.systematic_mm]
    if part != "systematic" or not shifts or not all(np.allclose(s, shifts[0]) for s in shifts):
        return None
    return shifts[0]


def _response(scores: dict[str, float], quantity: str, direction: np.ndarray | None) -> float:
    if quantity in ALONG:
        assert direction is not None
        return float(np.dot([scores.get(k, np.nan) for k in ALONG[quantity]], direction))
    return scores.get(quantity, float("nan"))


@dataclass(frozen=True)
class Agreement:
    """The ranking of all trainings by one reference against that by the truth.

    Args:
        evaluate: The reference.
        methods: How many were ranked by their mean MAE over the cases that all of them have.
        tau: Kendall's tau-b; None where all methods are equal.
        lost: Share of the pairs of methods in which the one that is better by the truth loses.
        winner, true_winner: First by the reference and by the truth.
        n: Those cases.
        lost_in_cases, low, high: `lost` of each case's own scores, mean over those cases with its 95 % interval.
    """

    evaluate: str
    methods: int
    tau: float | None
    lost: float
    winner: str
    true_winner: str
    n: int
    lost_in_cases: float
    low: float
    high: float


def rankings(rows: Sequence[Row], cohorts: Mapping[str, str] | None = None, *, metric: str = "mae") -> list[Agreement]:
    """How far each reference ranks the trainings as the truth does.

    Args:
        rows: Scores.
        cohorts: Row of the matrix → whose cases it is scored on; only trainings of one cohort are ranked together.
        metric: Lower is better.
    """
    table: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in over_seeds(rows):
        table[row.evaluate, row.train][row.case] = row.scores[metric]
    results = []
    for evaluate, cohort in dict.fromkeys((e, (cohorts or {}).get(t, "")) for e, t in table if e != TRUTH):
        own = [t for e, t in table if e == evaluate and (cohorts or {}).get(t, "") == cohort]
        methods = [t for t in own if (TRUTH, t) in table]
        if len(methods) < 2:
            continue
        # Means over the same cases: a method that lost a hard one would win by that.
        shared = sorted(set.intersection(*(set(table[e, t]) for t in methods for e in (evaluate, TRUTH))))
        if not shared:
            continue
        by_reference, by_truth = (
            np.array([[table[e, t][c] for t in methods] for c in shared]) for e in (evaluate, TRUTH)
        )  # cases, methods
        first, true_first = by_reference.mean(0), by_truth.mean(0)
        one = mean_of("", "", [_lost(a, b) for a, b in zip(by_reference, by_truth, strict=True)])
        tau = float(kendalltau(first, true_first).statistic)
        results.append(
            Agreement(
                evaluate,
                len(methods),
                tau if np.isfinite(tau) else None,
                _lost(first, true_first),
                methods[int(np.argmin(first))],
                methods[int(np.argmin(true_first))],
                one.n,
                one.mean,
                one.low,
                one.high,
            )
        )
    return results


def _lost(by_reference: Iterable[float], by_truth: Iterable[float]) -> float:
    """Share of the pairs of methods that the two order differently."""
    pairs = combinations(zip(by_reference, by_truth, strict=True), 2)
    return float(np.mean([(a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs]))


def spread_tells_bias(rows: Sequence[Row]) -> dict[str, float]:
    """By reference: Spearman's correlation, over predictions, of the ensemble's spread and the size of the MAE's bias."""
    table = {(r.train, r.evaluate, r.case): r.scores for r in over_seeds(rows)}
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (train, evaluate, case), scores in table.items():
        truth = table.get((train, TRUTH, case))
        if evaluate != TRUTH and truth is not None and "ensemble_spread" in truth:
            points[evaluate].append((truth["ensemble_spread"], abs(scores["mae"] - truth["mae"])))
    found = {e: spearmanr(*zip(*p, strict=True)).statistic for e, p in points.items() if len(p) > 2}
    return {e: float(v) for e, v in found.items() if np.isfinite(v)}
