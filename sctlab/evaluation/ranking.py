"""Ranks of methods by a scheme, and how far they can be trusted: stability under resampling of cases, significance."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.evaluation.definitions import METRICS
from sctlab.measures.statistics import holm, wilcoxon_p
from sctlab_model.errors import InputError

BOOTSTRAP_SAMPLES = 1000
SIGNIFICANT = 0.05
NAME_COLUMNS = ("team", "method", "name")


@dataclass(frozen=True)
class Scheme:
    """How ranks become a place.

    Args:
        name: For the command line.
        groups: Heading and its metrics. Ranks by metric (best 1, ties share the better rank) are averaged within a group, and
            the groups' means over the groups.
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, in order."""
        return tuple(m for metrics in self.groups.values() for m in metrics)


SCHEMES = {
    s.name: s
    for s in (
        Scheme(
            "synthrad2025",
            {
                "image": ("mae", "psnr", "ms_ssim"),
                "geometry": ("DICE", "HD95"),
                "photons": ("dose_mae_photon", "dvh_photon", "gamma_photon"),
                "protons": ("dose_mae_proton", "dvh_proton", "gamma_proton"),
            },
        ),
    )
}


@dataclass(frozen=True)
class Ranking:
    """Places of methods.

    Args:
        methods: Names, best first.
        places: 1 is best; methods with one score share a place, and the next one is skipped.
        scores: Mean rank over the groups, which makes the place.
        groups: Heading and the mean rank in it, of each method.
        ranks: Metric and the rank by it, of each method.
        values: Metric and the value, of each method; NaN where a method has none.
        left_out: Metrics of the scheme that no method has.
    """

    methods: tuple[str, ...]
    places: tuple[int, ...]
    scores: tuple[float, ...]
    groups: Mapping[str, tuple[float, ...]]
    ranks: Mapping[str, tuple[float, ...]]
    values: Mapping[str, tuple[float, ...]]
    left_out: tuple[str, ...] = ()


def rank_scores(scores: Mapping[str, Mapping[str, float | None]], scheme: Scheme) -> Ranking:
    """Rank methods by their mean scores.

    A method without a value that others have is last in that metric. A metric that nobody has is left out, and so is a group
    without any metric.

    Args:
        scores: Method → metric → mean over its cases.

    Raises:
        InputError: Nobody has a metric of the scheme.
    """
    names = list(scores)
    metrics = [m for m in scheme.metrics if any(_defined(scores[n].get(m)) for n in names)]
    if not names or not metrics:
        raise InputError("rank", found="no metric of the scheme", expected=f"one of {', '.join(scheme.metrics)}")
    table = np.array([[_number(scores[n].get(m)) for m in metrics] for n in names])
    ranks, group_ranks, total = _places(table, metrics, scheme)
    places = _ranks(np.round(total, 9)).astype(int)
    order = sorted(range(len(names)), key=lambda i: (total[i], names[i]))

    def ordered(values: np.ndarray) -> tuple[float, ...]:
        return tuple(float(values[i]) for i in order)

    return Ranking(
        methods=tuple(names[i] for i in order),
        places=tuple(int(places[i]) for i in order),
        scores=ordered(total),
        groups={heading: ordered(values) for heading, values in group_ranks.items()},
        ranks={m: ordered(ranks[:, k]) for k, m in enumerate(metrics)},
        values={m: ordered(table[:, k]) for k, m in enumerate(metrics)},
        left_out=tuple(m for m in scheme.metrics if m not in metrics),
    )


@dataclass(frozen=True)
class Stability:
    """Places over resamplings of the cases; entries in the order of the ranking's methods.

    Args:
        shares: Method x place: how often it took that place.
        low, high: 95 % interval of the place.
        samples: Number of resamplings.
    """

    shares: np.ndarray
    low: tuple[int, ...]
    high: tuple[int, ...]
    samples: int


def bootstrap_places(
    cases: Mapping[str, np.ndarray],
    metrics: Sequence[str],
    scheme: Scheme,
    methods: Sequence[str],
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Stability:
    """Rank again on resampled cases: a place that changes with the cases drawn says little of the method.

    Args:
        cases: Method → array [case, metric], the same cases in the same order for all; NaN where undefined.
        metrics: Names of the columns.
        methods: Order of the result.
    """
    values = np.stack([cases[m] for m in methods])
    random = np.random.default_rng(seed)
    counts = np.zeros((len(methods), len(methods)), int)
    places = np.zeros((samples, len(methods)), int)
    for sample in range(samples):
        chosen = random.integers(0, values.shape[1], values.shape[1])
        table = _means(values[:, chosen])
        places[sample] = _ranks(np.round(_places(table, metrics, scheme)[2], 9))
        counts[np.arange(len(methods)), places[sample] - 1] += 1
    low, high = (tuple(int(v) for v in np.percentile(places, q, axis=0, method="nearest")) for q in (2.5, 97.5))
    return Stability(counts / samples, low, high, samples)


def significance(
    cases: Mapping[str, np.ndarray], metrics: Sequence[str], methods: Sequence[str]
) -> dict[str, np.ndarray]:
    """For every metric a matrix [a, b]: 1 where a is better than b, -1 where worse, 0 where the cases don't tell.

    Two-sided Wilcoxon signed-rank tests over shared cases, Holm over the pairs of a metric, 5 %.
    """
    result = {}
    pairs = [(a, b) for a in range(len(methods)) for b in range(a + 1, len(methods))]
    for column, metric in enumerate(metrics):
        gains, p_values = [], []
        for a, b in pairs:
            first, second = (cases[methods[i]][:, column] for i in (a, b))
            both = np.isfinite(first) & np.isfinite(second)
            p_values.append(wilcoxon_p(first[both], second[both]))
            gains.append(float(np.sum(_better(first[both] - second[both], metric))) if both.any() else 0.0)
        matrix = np.zeros((len(methods), len(methods)), int)
        for (a, b), gain, p in zip(pairs, gains, holm(p_values), strict=True):
            if p is not None and p < SIGNIFICANT and gain:
                matrix[a, b] = 1 if gain > 0 else -1
                matrix[b, a] = -matrix[a, b]
        result[metric] = matrix
    return result


def read_leaderboard(path: Path) -> dict[str, dict[str, float | None]]:
    """Method → metric → value of a CSV with a column `team` (or `method`) and one column per metric, any capitals.

    Raises:
        InputError: Not such a file, no method, a column or name twice, a row of another length, or a value that is no number.
    """
    known = {key.lower(): key for key in METRICS}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not a CSV: {error}"
        raise InputError(path, found=f"can't be read ({reason})", expected="a leaderboard's CSV") from error
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    name_column = next((header.index(c) for c in NAME_COLUMNS if c in header), None)
    if name_column is None or len(lines) < 2:
        found = f"columns {', '.join(header)}" if header and name_column is None else "no row of a method"
        raise InputError(path, found=found, expected="a column team (or method), one per metric, and a row per method")
    twice = [c for c in dict.fromkeys(header) if header.count(c) > 1 and (c in known or c in NAME_COLUMNS)]
    if twice:
        raise InputError(path, found=f"column {twice[0]} twice", expected="one column per metric")
    result: dict[str, dict[str, float | None]] = {}
    for line, row in lines[1:]:
        name = row[name_column].strip() if len(row) == len(header) else ""
        if not name:
            found = f"line {line}: {len(row)} values" if len(row) != len(header) else f"line {line}: no name"
            raise InputError(path, found=found, expected=f"the header's {len(header)}, a method's name among them")
        if name in result:
            raise InputError(path, found=f"'{name}' twice", expected="one row per method")
        result[name] = {}
        for column, text in zip(header, row, strict=True):
            if column not in known:
                continue
            try:
                result[name][known[column]] = float(text) if text.strip() else None
            except ValueError as error:
                raise InputError(path, found=f"line {line}: {column} '{text}'", expected="a number") from error
    return result


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share the better rank."""
    from scipy.stats import rankdata  # here, because it takes a second to import

    ranks: np.ndarray = rankdata(values, method="min")
    return ranks


def _places(
    table: np.ndarray, metrics: Sequence[str], scheme: Scheme
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Ranks [method, metric], mean rank by group, and mean over the groups."""
    cost = np.stack([-_better(table[:, k], m) for k, m in enumerate(metrics)], axis=1)
    cost = np.where(np.isfinite(table), cost, np.inf)  # no value is worse than any
    ranks = np.stack([_ranks(column) for column in cost.T], axis=1)
    groups = {}
    for heading, members in scheme.groups.items():
        columns = [k for k, m in enumerate(metrics) if m in members]
        if columns:
            groups[heading] = ranks[:, columns].mean(axis=1)
    return ranks, groups, np.mean(list(groups.values()), axis=0)


def _means(values: np.ndarray) -> np.ndarray:
    """Mean over cases [method, case, metric] of the defined values; NaN without any."""
    defined = np.isfinite(values)
    count = defined.sum(axis=1)
    return np.where(count > 0, np.where(defined, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _better(values: np.ndarray, metric: str) -> np.ndarray:
    """Values turned so that more is better."""
    direction = METRICS[metric].better
    return values if direction == "higher" else -values if direction == "lower" else -np.abs(values)


def _defined(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
