"""Ranking: the published leaderboards, ties, missing values, stability and significance."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sctlab.cli import app, run
from sctlab.evaluation.rank import rank_evaluations
from sctlab.evaluation.ranking import SCHEMES, Scheme, bootstrap_places, rank_scores, significance
from sctlab.evaluation.records import CaseRecord, EvaluationRecord
from sctlab_model.errors import ExitCode, InputError

GOLDEN = (Path(__file__).parents[3] / "../shared/golden").resolve()
SCHEME = SCHEMES["synthrad2025"]


@pytest.mark.parametrize("task", [1, 2])
def test_the_published_order_comes_out(task: int) -> None:
    path = GOLDEN / f"leaderboard_task{task}.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open() as file:
        published = {row["team"]: int(row["rank"]) for row in csv.DictReader(file)}
    ranking = rank_evaluations([path]).ranking
    places = dict(zip(ranking.methods, ranking.places, strict=True))
    # two teams share the published 8th place of task 1; their rounded figures differ by an eighth of a rank
    expected = published | ({"HiLab": 9} if task == 1 else {})
    assert places == expected
    assert ranking.left_out == ()


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    lines = ["team,mae,psnr,DICE", "a,60,30,0.8", "b,50,31,0.9", "c,60,29,0.7"]
    for order in (lines[1:], lines[:0:-1]):
        (tmp_path / "l.csv").write_text("\n".join([lines[0], *order]))
        ranking = rank_evaluations([tmp_path / "l.csv"]).ranking
        assert ranking.methods == ("b", "a", "c")
        assert ranking.ranks["mae"] == (1, 2, 2)  # equal values share the better rank
        assert ranking.scores == (1, 2, 2.75)  # image: (2 + 3) / 2 for c; geometry: 3
        assert ranking.places == (1, 2, 3)
        assert "HD95" in ranking.left_out


def test_a_leaderboard_of_ties_capitals_and_gaps(tmp_path: Path) -> None:
    text = "Rank,Team,MAE,PSNR\n1, a ,60,30\n2,b,60,30\n3,c,70,\n4,d,nan,31\n"
    (tmp_path / "l.csv").write_text(text)
    result = rank_evaluations([tmp_path / "l.csv"])
    assert result.ranking.methods == ("a", "b", "d", "c")
    assert result.ranking.scores == (1.5, 1.5, 2.5, 3.5)  # a: 1 and 2; d: 4 (no MAE) and 1; c: 3 and 4 (no PSNR)
    assert result.ranking.places == (1, 1, 3, 4)
    assert {"c has no PSNR: last in that.", "d has no MAE: last in that."} <= set(result.record.notes)


def test_methods_with_equal_scores_share_a_place() -> None:
    ranking = rank_scores(
        {"a": {"mae": 1.0, "DICE": 0.5}, "b": {"mae": 2.0, "DICE": 0.9}, "c": {"mae": 9, "DICE": 0.1}}, SCHEME
    )
    assert ranking.places == (1, 1, 3)
    assert ranking.methods == ("a", "b", "c")


def test_a_missing_value_is_last() -> None:
    ranking = rank_scores({"a": {"mae": 1.0, "DICE": None}, "b": {"mae": 2.0, "DICE": 0.1}}, SCHEME)
    assert ranking.ranks["DICE"] == (2, 1)
    assert ranking.groups["geometry"] == (2, 1)
    with pytest.raises(InputError, match="no metric"):
        rank_scores({"a": {"other": 1.0}}, SCHEME)


def test_places_are_as_stable_as_the_cases_are_alike() -> None:
    random = np.random.default_rng(1)
    base = random.normal(60, 10, (30, 1))
    scheme = Scheme("one", {"image": ("mae",)})
    clear = {"good": base, "bad": base + 5}
    stability = bootstrap_places(clear, ["mae"], scheme, ["good", "bad"], samples=200)
    assert stability.shares.tolist() == [[1, 0], [0, 1]]
    assert (stability.low, stability.high) == ((1, 2), (1, 2))
    noisy = {"one": base, "two": base + random.normal(0, 30, base.shape)}
    stability = bootstrap_places(noisy, ["mae"], scheme, ["one", "two"], samples=200)
    assert 0.02 < stability.shares[0, 0] < 0.98
    assert significance(clear, ["mae"], ["good", "bad"])["mae"].tolist() == [[0, 1], [-1, 0]]
    assert not significance(noisy, ["mae"], ["one", "two"])["mae"].any()
    assert significance({"a": base, "b": base + 5}, ["psnr"], ["a", "b"])["psnr"][0, 1] == -1  # higher is better there


def _evaluation(folder: Path, shift: float, ids: range, dice: float | None = 0.8) -> Path:
    random = np.random.default_rng(3)
    cases = [
        CaseRecord(
            id=f"1ABA{i:03}", region="AB", task="mri", prediction="p", reference="r",
            metrics={"mae": 60 + 3 * random.normal() + shift, "psnr": 30 - shift / 9, "DICE": dice},
        )
        for i in ids
    ]  # fmt: skip
    EvaluationRecord(predictions="p", cohort="c", cases=cases).write(folder / "details.json")
    return folder


def test_folders_to_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [_evaluation(tmp_path / n, s, range(i, 12)) for n, s, i in (("x/e", 4, 0), ("y/e", 0, 2), ("z/e", 9, 0))]
    arguments = ["rank", *map(str, folders), "--out", str(tmp_path / "out"), "--samples", "100"]
    assert run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False), debug=True) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out.index("y/e") < printed.out.index("x/e") < printed.out.index("z/e")
    assert "2 of 12 cases" in printed.err
    record = json.loads((tmp_path / "out/ranking.json").read_text())
    assert [m["name"] for m in record["methods"]] == ["y/e", "x/e", "z/e"]
    assert record["cases"] == 10
    assert record["methods"][0]["first"] == 1
    assert record["significant"]["mae"][0][2] == 1
    assert "HD95" in " ".join(record["notes"])
    page = (tmp_path / "out/ranking.html").read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page
    with (tmp_path / "out/ranking.csv").open() as file:
        assert [r["method"] for r in csv.DictReader(file)] == ["y/e", "x/e", "z/e"]


def test_what_cannot_be_ranked(tmp_path: Path) -> None:
    a, b = _evaluation(tmp_path / "a", 0, range(2)), _evaluation(tmp_path / "b", 0, range(5, 7))
    texts = {
        "team,mae\na,1\na,2\n": "'a' twice",
        "team,mae\na,low\n": "a number",
        "": "no row of a method",
        "team,mae\n": "no row of a method",
        "team,mae\na,1\n": "1 method",
        "mae,psnr\n1,2\n": "columns mae, psnr",
        "team;mae\na;1\n": "columns team;mae",
        "team,mae\na,1\n,2\n": "line 3: no name",
        "team,mae,psnr\na,1\nb,1,2\n": "line 2: 2 values",
        "team,mae\na,1,9\nb,2\n": "line 2: 3 values",
        "team,mae,MAE\na,1,1\nb,2,2\n": "column mae twice",
        "team,wrong\na,1\nb,2\n": "no metric of the scheme",
        "team,mae\na,nan\nb,\n": "no metric of the scheme",
    }
    for paths, reason in (([a], "two or more"), ([a, b], "same cases"), ([a, a], "different ones")):
        with pytest.raises(InputError, match=reason):
            rank_evaluations(paths)
    for text, reason in texts.items():
        (tmp_path / "l.csv").write_text(text)
        with pytest.raises(InputError, match=reason):
            rank_evaluations([tmp_path / "l.csv"])
    with pytest.raises(InputError, match="one CSV alone"):
        rank_evaluations([a, tmp_path / "l.csv"])
    with pytest.raises(InputError, match="No such file"):
        rank_evaluations([tmp_path / "none.csv"])
    with pytest.raises(InputError, match="synthrad2025"):
        rank_evaluations([a, b], scheme="mine")


def test_a_ranking_does_not_replace_the_means_that_it_is_made_of(tmp_path: Path) -> None:
    lines = "team,mae\na,1\nb,2\n"
    (tmp_path / "ranking.csv").write_text(lines)
    with pytest.raises(InputError, match="would replace this input"):
        rank_evaluations([tmp_path / "ranking.csv"], tmp_path)
    assert (tmp_path / "ranking.csv").read_text() == lines
