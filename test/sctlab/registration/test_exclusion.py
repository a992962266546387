"""The exclusion rule on made-up cohorts."""

import numpy as np
import pytest

from sctlab.registration.exclusion import Rule, judge, signals
from sctlab.registration.records import QualityRecord

RULE = Rule({"folds": 0.001}, 4.0, ("feature distance",), 6)


def cohort(count: int = 12):
    rng = np.random.default_rng(0)
    return [(f"C{i}", "Task1 AB", {"folds": 0.0, "feature distance": 0.2 + 0.01 * rng.normal()}) for i in range(count)]


def test_a_sound_cohort_keeps_every_case():
    judged = judge(cohort(), RULE)
    assert not any(j.exclude for j in judged)
    assert [j.id for j in judged] == [f"C{i}" for i in range(12)]


def test_a_limit_excludes_with_its_reason():
    judged = judge([*cohort(), ("F", "Task1 AB", {"folds": 0.02, "feature distance": 0.2})], RULE)
    assert [j.id for j in judged if j.exclude] == ["F"]
    assert "folds 0.02, limit 0.001" in judged[-1].reasons[0]
    assert judged[-1].suspicion == 20


def test_an_outlier_is_judged_within_its_own_group():
    outlier = ("O", "Task1 AB", {"folds": 0.0, "feature distance": 0.4})
    elsewhere = [(f"D{i}", "Task1 TH", {"folds": 0.0, "feature distance": 0.4 + 0.001 * i}) for i in range(8)]
    judged = {j.id: j for j in judge([*cohort(), outlier, *elsewhere], RULE)}
    assert judged["O"].exclude
    assert not any(judged[f"D{i}"].exclude for i in range(8))


def test_small_groups_have_no_outliers_and_missing_signals_are_left_out():
    small = [("A", "g", {"feature distance": 0.1}), ("B", "g", {"feature distance": 0.9})]
    assert not any(j.exclude for j in judge(small, RULE))
    assert judge([("A", "g", {})], RULE)[0].suspicion == 0


def test_only_worse_counts_as_an_outlier():
    better = ("G", "Task1 AB", {"folds": 0.0, "feature distance": 0.05})
    assert not judge([*cohort(), better], RULE)[-1].exclude


@pytest.mark.parametrize(
    ("method", "moved_mm", "excluded"),
    [("rigid", 0.0, False), ("rigid", 0.6, False), ("mi", 0.6, False), ("mi", 0.0, True), ("rigid", 5.0, True)],
)
def test_a_pair_that_was_aligned_before_need_not_gain_anything(method, moved_mm, excluded):
    """Unlike one that was moved for nothing, or that a deformable method left as it was."""
    summary = {"mean": moved_mm, "median": moved_mm, "p95": moved_mm, "max": moved_mm}
    state = {"nmi": 1.2, "feature_distance": 0.1, "edges": 0.6}
    jacobian = {"minimum": 1.0, "p1": 1.0, "p99": 1.0, "maximum": 1.0, "log_std": 0.0, "folds": 0.0}
    quality = QualityRecord(
        similarity={"before": state, "after": state},
        overlap={"field_of_view": 1.0, "before": {}, "after": {"body_dice": 1.0}},
        field={"displacement_mm": summary, "deformation_mm": summary, "jacobian": jacobian},
    )
    (judged,) = judge([("A", "Task2 TH", signals(quality, method))])
    assert judged.exclude is excluded
