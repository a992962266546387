"""The table builder: the published study's numbers to the printed digit, and what it refuses."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from sctlab.cli import app, run
from sctlab.study.tables import Cell, build_tables, read_scores, stars, tables_latex, write_tables
from sctlab_model.errors import ExitCode, InputError

PUBLISHED = (Path(__file__).parents[3] / "../shared/golden/published_task1.csv").resolve()
MATRIX = ("impact/impact", "impact/elastix", "elastix/impact", "elastix/elastix")

# The study's printed numbers for task 1: region (n) and, in the order of MATRIX, mean, population deviation and stars.
MAE = {
    ("AB", 22): ("58.89 9.16", "72.14 13.78 ***", "64.04 8.78 ***", "67.73 14.25 **"),
    ("HN", 21): ("76.21 11.31", "88.51 28.29 *", "82.10 12.83 ***", "78.98 23.41"),
    ("TH", 23): ("56.44 10.81", "58.14 11.12", "59.81 9.85 ***", "55.30 10.14"),
    ("all", 66): ("63.55 13.61", "72.47 22.68 ***", "68.31 14.27 ***", "66.98 19.27"),
}
PSNR_ALL = ("29.97 1.91", "28.49 2.42 ***", "29.37 1.78 ***", "29.24 2.24 **")
P_OF_MAE = {
    "all": ("2.90e-5", "2.37e-12", "0.194"),
    "AB": ("2.38e-6", "4.77e-7", "2.51e-3"),
    "HN": (".0216", "1.91e-6", ".812"),
    "TH": (".709", "2.38e-7", ".520"),
}


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str, str], Cell]:
    if not PUBLISHED.is_file():
        pytest.skip(f"no {PUBLISHED}")
    tables = build_tables(*read_scores(PUBLISHED), "impact/impact")
    return {(c.metric, c.region, c.name): c for c in tables.cells}


def _printed(cell: Cell) -> str:
    return f"{cell.mean:.2f} {cell.sd:.2f} {stars(cell.p)}".strip()


@pytest.mark.parametrize("row", MAE)
def test_published_means_deviations_and_stars(published, row: tuple[str, int]) -> None:
    region, count = row
    assert all(published["mae", region, name].n == count for name in MATRIX)
    assert tuple(_printed(published["mae", region, name]) for name in MATRIX) == MAE[row]


def test_published_psnr(published) -> None:
    assert tuple(_printed(published["psnr", "all", name]) for name in MATRIX) == PSNR_ALL


@pytest.mark.parametrize("region", P_OF_MAE)
def test_published_p_values(published, region: str) -> None:
    for name, text in zip(MATRIX[1:], P_OF_MAE[region], strict=True):
        digits = len(text.split("e")[0].replace(".", "").lstrip("0"))
        # The exact p of this cell, 2.5048e-3, was printed as 2.51e-3; the next p that 22 pairs can have is 13 % away.
        slack = 1.1 if text == "2.51e-3" else 0.5001
        step = 10 ** (math.floor(math.log10(float(text))) - digits + 1)
        assert published["mae", region, name].p == pytest.approx(float(text), abs=step * slack), name


def _file(path: Path, rows: list[str], header: str = "train,evaluate,region,case,mae,sharpness") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def _rows(random: np.random.Generator) -> list[str]:
    rows = []
    for i in range(12):
        base = random.normal(60, 10)
        region = ("AB", "TH")[i % 2]
        rows.append(f"a,a,{region},c{i},{base},{i}")
        rows.append(f"b,a,{region},c{i},{base + 3 + random.normal()},{i}")
        rows.append(f"b,b,{region},c{i},{base + 2 * random.normal()},{i}")
    return rows


def test_numbers_against_direct_computation(tmp_path: Path) -> None:
    path = _file(tmp_path / "s.csv", _rows(np.random.default_rng(0)))
    tables = write_tables(path, tmp_path / "out", against="a/a")
    cells = {(c.metric, c.region, c.name): c for c in tables.cells}
    scores, _ = read_scores(path)
    x, y = (np.array([v["mae"] for v in scores[c].values()]) for c in (("b", "a"), ("a", "a")))
    cell = cells["mae", "all", "b/a"]
    assert cell.p == wilcoxon(x, y).pvalue
    assert cell.sd == pytest.approx(x.std())
    assert cell.sd_sample == pytest.approx(x.std(ddof=1))
    assert cell.difference == pytest.approx((x - y).mean())
    assert cell.difference_low < cell.difference < cell.difference_high
    assert cell.effect_size == 1  # larger in every case
    others = sorted((cells["mae", "all", n].p, n) for n in ("b/a", "b/b"))
    assert cells["mae", "all", others[0][1]].p_holm == pytest.approx(2 * others[0][0])
    reference = cells["mae", "all", "a/a"]
    assert (reference.p, reference.difference, reference.n) == (None, None, 12)
    assert cells["sharpness", "all", "b/a"].p is None  # no case differs
    with (tmp_path / "out/tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3
    assert float(
        next(r for r in rows if (r["region"], r["train"], r["evaluate"], r["metric"]) == ("all", "b", "a", "mae"))["p"]
    ) == pytest.approx(cell.p)
    assert "\\begin{tabular}{lccc}" in tables_latex(tables)
    assert "every cell against a/a" in (tmp_path / "out/tables.html").read_text(encoding="utf-8")


def test_unpaired_cases_are_left_out_of_the_tests_and_named(tmp_path: Path) -> None:
    rows = [r for r in _rows(np.random.default_rng(0)) if not r.startswith("a,a,AB,c0")]
    rows = [r.rsplit(",", 2)[0] + ",," if r.startswith("b,b,TH,c1,") else r for r in rows]
    tables = write_tables(_file(tmp_path / "s.csv", rows), tmp_path / "out", against="a/a")
    cells = {(c.metric, c.region, c.name): c for c in tables.cells}
    assert (cells["mae", "all", "b/a"].n, cells["mae", "all", "b/a"].n_paired) == (12, 11)
    assert (cells["mae", "all", "b/b"].n, cells["mae", "all", "b/b"].n_paired) == (11, 10)
    assert any("11 of 12" in n for n in tables.notes)


def test_what_has_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    rows = ["a,a,AB,c,5,", " a,a ,AB,d,6,", "b,a,AB,e,7,"]
    path = _file(tmp_path / "s.csv", rows, "train,evaluate,region,case,mae,psnr")
    tables = write_tables(path, tmp_path / "out", against="a/a")
    assert [(c.n, c.mean, c.p, c.difference) for c in tables.cells] == [(2, 5.5, None, None), (1, 7, None, None)]
    assert any("b/a" in n and "not compared" in n for n in tables.notes)
    assert any(n.startswith("PSNR") and "no value" in n for n in tables.notes)


def test_one_region_has_no_row_of_all(tmp_path: Path) -> None:
    rows = [r.replace(",TH,", ",AB,") for r in _rows(np.random.default_rng(0))]
    tables = write_tables(_file(tmp_path / "s.csv", rows), tmp_path / "out", against="a/a")
    assert {c.region for c in tables.cells} == {"AB"}


@pytest.mark.parametrize(
    ("rows", "header", "reason"),
    [
        (["a,a,AB,c,1,1", "a,a,AB,c,2,1"], None, "twice"),
        (["a,a,AB,c,nan,1"], None, "finite"),
        (["a,a,AB,c,low,1"], None, "finite"),
        (["a,a,AB,c,1,1,7"], None, "line 2: 7 values"),
        (["a,a,AB,c,1"], None, "line 2: 5 values"),
        (["a,a,AB,c,1,1", "a,a,,d,1,1"], None, "line 3: no region"),
        (["a,a,all,c,1,1"], None, "region 'all'"),
        (["a,a,AB,c,1,1"], "train,evaluate,region,case,mae,mae", "column mae twice"),
        (["a,a,AB,c"], "train,evaluate,region,case", "metric"),
        (["a,AB,c,1"], "train,region,case,mae", "evaluate"),
        ([], None, "no rows"),
        (["b,a,AB,c,1,1"], None, "one of b/a"),
        (["a;a;AB;c;1"], "train;evaluate;region;case;mae", "has semicolons: save it with commas"),
        (["0,a,a,AB,c,1"], ",train,evaluate,region,case,mae", "column 1 has no name"),
        (["a/b,c,AB,c,1,1", "a,b/c,AB,c,9,1", "a,a,AB,c,1,1"], None, "both a/b/c"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, rows: list[str], header: str | None, reason: str) -> None:
    path = _file(tmp_path / "s.csv", rows, header) if header else _file(tmp_path / "s.csv", rows)
    with pytest.raises(InputError, match=reason):
        write_tables(path, tmp_path / "out", against="a/a")
    assert not (tmp_path / "out").exists()


def test_names_are_no_commands_of_latex_and_n_stands_where_it_differs(tmp_path: Path) -> None:
    odd = '"50%\n{a}_~^\\"'
    rows = ["a,a,AB,c,5,1", "a,a,AB,d,7,1", f"{odd},a,AB,c,6,2", f"{odd},a,AB,d,,2", ",,,,,"]
    tables = write_tables(_file(tmp_path / "s.csv", rows), tmp_path / "out", against="a/a")
    lines = tables_latex(tables).splitlines()
    name = r"50\% \{a\}\_\textasciitilde{}\textasciicircum{}\textbackslash{}/a"
    assert f"region (n) & a/a & {name} \\\\ \\hline" in lines
    assert r"AB (2) & $6.00 \pm 1.00$ & $6.00 \pm 0.00$ (1) \\" in lines
    assert all(line[:1] in ("", "%", "\\") or "&" in line for line in lines)  # no name broke a line
    assert "6.00 ± 0.00 (1)" in (tmp_path / "out/tables.html").read_text(encoding="utf-8")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = _file(tmp_path / "s.csv", _rows(np.random.default_rng(0)))
    arguments = ["study", "tables", str(path), str(tmp_path / "out"), "--against", "a/a"]
    assert run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False)) == ExitCode.OK
    assert "18 cells" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tables.csv", "tables.tex", "tables.html"}
    arguments[-1] = "c/c"
    assert run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False)) == ExitCode.BAD_INPUT


def test_a_plan_without_a_subcommand_is_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = []
    for words in (["study", "quick"], ["study", "run", "quick"]):
        arguments = [*words, str(tmp_path / "out"), "--dry-run"]
        assert run(lambda a=arguments: app.main(a, prog_name="sctlab", standalone_mode=False)) == ExitCode.OK
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert "of one core left" in said[0]
    arguments = ["study", "qick", str(tmp_path / "out")]
    assert run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False)) == ExitCode.BAD_INPUT
    assert "one of extractors, quick" in capsys.readouterr().err


def test_tables_do_not_replace_the_scores_that_they_are_made_of(tmp_path: Path) -> None:
    text = "train,evaluate,region,case,mae\na,a,AB,1,3\n"
    (tmp_path / "tables.csv").write_text(text)
    with pytest.raises(InputError, match="would replace this input"):
        write_tables(tmp_path / "tables.csv", tmp_path, against="a/a")
    assert (tmp_path / "tables.csv").read_text() == text
