"""What is made of a study's scores, by hand."""

from __future__ import annotations

import pytest

from sctlab.study.analysis import ALONG, Row, against_truth, bias, dose_response, rankings
from sctlab.study.displacement import DISPLACEMENT, EDGE_SHIFT
from sctlab.study.names import label_of
from sctlab.study.plan import PairsPlan
from sctlab.study.questions import as_good_as_registrations, exclusion_effect, matching_reward
from sctlab.study.real import QUANTITIES
from sctlab.study.scores import METRICS


def row(train: str, evaluate: str, case: str, mae: float, dy: float = 0.0, seed: int = 0) -> Row:
    scores = {"mae": mae, "rmse": mae, "sharpness": 1.0, "dx_mm": 0.0, "dy_mm": dy, "dz_mm": 0.0, "spread_mm": 0.0}
    return Row(train, evaluate, "AB", case, seed, scores)


def test_a_reference_that_flatters_its_own_training_is_told_from_a_strict_one() -> None:
    own = {"truth": {"truth": 50, "mi": 60}, "mi": {"truth": 55, "mi": 58}, "mi+mind": {"truth": 1, "mi": 2}}
    rows = [
        row(t, e, c, mae + extra) for t, r in own.items() for e, mae in r.items() for c, extra in (("a", 0), ("b", 7))
    ]
    found = matching_reward(rows)
    assert [(e.name, e.mean, e.n) for e in found] == [("mi against truth", (58 - 60) - (55 - 50), 2)]
    strict = [
        row(t, e, "a", {"truth": 50, "mi": 55}[t] + (10 if e == "mi" else 0))
        for t in own
        if "+" not in t
        for e in ("truth", "mi")
    ]
    assert matching_reward(strict)[0].mean == 0


def test_registrations_set_the_line_and_exclusion_is_paired_by_case() -> None:
    rows = [row("mi", "truth", c, mae) for c, mae in (("a", 40.0), ("b", 44.0), ("c", 42.0))]
    rows += [row("mi+without-rule", "truth", c, mae) for c, mae in (("a", 37.0), ("b", 41.0))]
    control = [{"train": "rigid then mi", "case": c, "mae": 50.0} for c in "abc"]
    line = as_good_as_registrations(rows, control)[0]
    assert (line.n, line.mae, line.difference, line.verdict) == (3, 42, -8, "better than the registrations agree")
    found = exclusion_effect(rows, {"mi+without-rule": ("mi", 4)})[0]
    assert (found.n, found.mean, found.quantity) == (2, -3, "mae, 4 pairs left out")


def test_bias_slope_and_ranking_by_hand() -> None:
    rows = []
    for case, offset in (("a", 0.0), ("b", 4.0)):
        rows += [row("truth", "truth", case, 50 + offset), row("truth", "shift", case, 70 + offset)]
        rows += [row("shift", "truth", case, 60 + offset, dy=3.0), row("shift", "shift", case, 55 + offset)]
        rows += [
            row("shift", "truth", case, 62 + offset, dy=5.0, seed=1),
            row("shift", "shift", case, 57 + offset, seed=1),
        ]
    found = {(e.name, e.quantity): e for e in bias(rows, ("mae",))}
    assert found["truth/shift", "mae"].mean == pytest.approx(20)
    assert found["shift/shift", "mae"].mean == pytest.approx(-5)
    assert found["shift/shift", "mae"].n == 2
    pairs = {
        "truth": PairsPlan(kind="truth"),
        "shift": PairsPlan(kind="planted", systematic_mm=5, direction_xyz=(0, 1, 0)),
    }
    slopes = {s.quantity: s for s in dose_response(rows, pairs)}
    assert slopes["shift_mm"].slope == pytest.approx(4 / 5)
    assert slopes["mae"].slope == pytest.approx(11 / 5)
    # another objective's trainings, on fewer cases, have a curve of their own
    more = [row("truth+cut", "truth", "a", 80), row("shift+cut", "truth", "a", 80)]
    both = pairs | {f"{name}+cut": plan for name, plan in pairs.items()}
    found = dose_response(rows + more, both, {"truth+cut": "cut", "shift+cut": "cut"})
    curves = {s.family: (s.slope, s.n) for s in found if s.quantity == "mae"}
    assert curves == {"": (pytest.approx(11 / 5), 2), "cut": (pytest.approx(0), 1)}
    ranking = rankings(rows)[0]
    assert (ranking.tau, ranking.lost, ranking.winner, ranking.true_winner) == (-1.0, 1.0, "shift", "truth")
    assert (ranking.n, ranking.lost_in_cases) == (2, 1.0)
    assert rankings(rows, {"truth": "mri", "shift": "cbct"}) == []  # of other patients: nothing to compare
    slope = slopes["mae"]
    assert slope.means == (52, 63)
    assert slope.lows == (50, 61)
    assert slope.highs == (54, 65)  # two cases: every resampling is one of them, or both


def test_methods_are_ranked_over_the_cases_that_all_of_them_have() -> None:
    mae = {"good": {"a": 40, "b": 90}, "bad": {"a": 50}}  # `bad` lost the hard case: by its own mean it would win
    rows = [
        row(t, e, c, v + (5 if e == "mi" else 0))
        for t, own in mae.items()
        for c, v in own.items()
        for e in ("truth", "mi")
    ]
    ranking = rankings(rows)[0]
    assert (ranking.winner, ranking.true_winner, ranking.n, ranking.tau) == ("good", "good", 1, 1.0)
    assert (
        rankings([r for r in rows if r.train == "good" or r.evaluate == "truth"]) == []
    )  # one method by that reference
    equal = [row(t, e, "a", 40) for t in mae for e in ("truth", "mi")]
    assert rankings(equal)[0].tau is None


def test_a_quantity_that_one_case_lacks_keeps_the_others() -> None:
    rows = [row("truth", "truth", case, 50) for case in "abc"]
    for index, one in enumerate(rows[:2]):
        one.scores["HD95"] = 10.0 + index
    found = {e.quantity: (e.n, e.mean) for e in against_truth(rows)}
    assert found["mae"] == (3, 50)
    assert found["HD95"] == (2, 10.5)


def test_every_quantity_of_a_study_has_a_readable_name() -> None:
    keys = (
        *METRICS,
        "organ_error",
        "mae_same",
        "DICE",
        "dice",
        "HD95",
        "d_sam2.1-small",
        "lpips_equal",
        *DISPLACEMENT,
        *EDGE_SHIFT,
        *QUANTITIES,
    )
    labels = [label_of(k) for k in (*keys, *ALONG, "ensemble_spread", "spread_rho")]
    assert not [label for label in labels if "_" in label]
    assert label_of("mae") == "MAE (HU)"
    assert label_of("my_own") == "my_own"
