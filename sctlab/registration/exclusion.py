"""Which registered pairs not to learn from: a rule on the quality measures, chosen on planted failures.

`benchmarks/exclusion.py` plants failures in simulated cohorts and measures the rule's precision and recall.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sctlab.registration.quality import MEASURE_MM
from sctlab.registration.records import QualityRecord


@dataclass(frozen=True)
class Rule:
    """When a case is proposed for exclusion.

    Args:
        limits: A signal above its limit excludes the case, whatever the cohort.
        outlier_z: A signal this many robust standard deviations worse than the median of the case's task and
            region excludes it too.
        outlier_signals: The signals that are compared within the group.
        smallest_group: Groups of fewer cases aren't compared.
    """

    limits: Mapping[str, float] = field(
        default_factory=lambda: {
            "folds": 0.001,
            "body without data": 0.4,
            "feature distance ratio": 0.995,
            "feature loss in one place": 1.0,
            "inverse consistency p95 (mm)": 10.0,
            "preset spread p95 (mm)": 8.0,
        }
    )
    outlier_z: float = 2.5
    outlier_signals: tuple[str, ...] = ("feature distance",)
    smallest_group: int = 6

    def described(self) -> dict[str, Any]:
        """JSON values for the record."""
        return {
            "limits": dict(self.limits),
            "outlier_z": self.outlier_z,
            "outlier_signals": list(self.outlier_signals),
        }


DEFAULT_RULE = Rule()


@dataclass(frozen=True)
class CohortJudgement:
    """A case's place in the report.

    Args:
        id: The case.
        suspicion: How far the worst signal is beyond its limit (1 is at the limit); orders the report.
        reasons: One line for each signal beyond its limit; empty keeps the case.
    """

    id: str
    suspicion: float
    reasons: tuple[str, ...]

    @property
    def exclude(self) -> bool:
        """Whether the case is proposed for exclusion."""
        return bool(self.reasons)


def signals(quality: QualityRecord, method: str = "") -> dict[str, float]:
    """What the rule looks at, each larger when worse; measures that weren't made are left out.

    Args:
        quality: Of the registration.
        method: What registered the pair; a field of zeros is sound from `rigid` only.
    """
    before, after = quality.similarity.before, quality.similarity.after
    inverse, spread, gain = quality.inverse_consistency_mm, quality.preset_spread_mm, quality.local_gain
    body_dice = quality.overlap.after.body_dice
    values: dict[str, float | None] = {
        "folds": quality.field.jacobian.folds,
        "body without data": 1 - quality.overlap.field_of_view,
        "feature distance": after.feature_distance,
        "feature distance ratio": after.feature_distance / max(before.feature_distance, 1e-6),
        "edges lost": 1 - after.edges,
        "information lost": 2 - after.nmi,
        "deformation p95 (mm)": quality.field.deformation_mm.p95,
        "volume change": quality.field.jacobian.log_std,
        "inverse consistency p95 (mm)": None if inverse is None else inverse.p95,
        "preset spread p95 (mm)": None if spread is None else spread.p95,
        "feature loss in one place": None if gain is None else -gain.worst,
        "bodies apart": None if body_dice is None else 1 - body_dice,
    }
    # A pair that was aligned before can't gain anything. A field of zeros from a method that deforms is no answer, though.
    moved = quality.field.displacement_mm.p95
    if moved < MEASURE_MM and (moved > 0 or method == "rigid"):
        values["feature distance ratio"] = None
    return {name: float(value) for name, value in values.items() if value is not None}


def judge(cases: Sequence[tuple[str, str, Mapping[str, float]]], rule: Rule = DEFAULT_RULE) -> list[CohortJudgement]:
    """Judge a cohort.

    Args:
        cases: Id, group (task and region) and signals of each case.
        rule: Limits.

    Returns:
        One judgement for each case, in the same order.
    """
    groups: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    for _, group, values in cases:
        groups[group].append(values)
    centres = {
        (group, name): _centre([v[name] for v in members if name in v], rule.smallest_group)
        for group, members in groups.items()
        for name in rule.outlier_signals
    }
    judgements = []
    for case_id, group, values in cases:
        ratios: list[tuple[float, str]] = []
        for name, limit in rule.limits.items():
            if name in values:
                ratios.append((values[name] / limit, f"{name} {values[name]:.3g}, limit {limit:g}"))
        for name in rule.outlier_signals:
            centre = centres[group, name]
            if centre is not None and name in values:
                z = (values[name] - centre[0]) / centre[1]
                ratios.append((z / rule.outlier_z, f"{name} {values[name]:.3g}, {z:.1f} deviations worse than {group}"))
        reasons = tuple(text for ratio, text in sorted(ratios, reverse=True) if ratio > 1)
        judgements.append(CohortJudgement(case_id, max((r for r, _ in ratios), default=0.0), reasons))
    return judgements


def _centre(values: Sequence[float], smallest: int) -> tuple[float, float] | None:
    """Median and robust standard deviation (1.4826 median absolute deviation); None for a group that is too small."""
    if len(values) < smallest:
        return None
    median = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(np.array(values) - median)))
    # A cohort of near-identical cases has no spread to speak of: 2 % of the median counts as one deviation.
    return median, max(spread, 0.02 * abs(median), 1e-9)
