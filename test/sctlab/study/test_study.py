"""The study: what is refused, what a change touches, planted displacements, and the whole of a tiny plan."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from sctlab.cohort.splits import FoldsRecord
from sctlab.features.trust import trust_file
from sctlab.registration.records import ExclusionsRecord
from sctlab.registration.settings import Convention
from sctlab.reporting import number, render
from sctlab.study.analysis import ALONG, Row, against_truth, bias, dose_response, rankings, scores_in
from sctlab.study.cells import StudyFiles, estimate
from sctlab.study.displacement import DISPLACEMENT, EDGE_SHIFT, coarse_map, displacement, edge_shift
from sctlab.study.folds import left_out
from sctlab.study.names import label_of
from sctlab.study.plan import PairsPlan, StudyPlan, load_study, plan_names
from sctlab.study.planted import planted_field
from sctlab.study.questions import as_good_as_registrations, exclusion_effect, matching_reward
from sctlab.study.scores import METRICS, Reference, bone_dice, edge_profiles, load_reference, organ_error, score_case
from sctlab.transforms.apply import apply_to_image
from sctlab.transforms.data import AffineTransform
from sctlab.transforms.itk_files import write_itk
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import ExitCode, InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

TINY = """
cohorts:
  made:
    simulate: {task: mri, regions: [HN], cases: 2, centre: T, case: {spacing_xyz: [6, 6, 9], seed: 5}}
pairs:
  truth: {kind: truth}
  shift: {kind: planted, systematic_mm: 5, direction_xyz: [0, 1, 0]}
folds: 2
changes:
  recipe: {spacing_xyz: [6.0, 6.0, 9.0], canvas: {minimum_yx: [64, 64]}}
  patch: {size_yx: [64, 64], batch: 2}
  losses: [{kind: l1, over: mask}]
  stages: [{name: global, iterations: 3}]
  validate_every: 3
device: cpu
"""


def plan_of(tmp_path: Path, text: str = TINY) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["quick", "registration", "extractors", "supervision"])
def test_shipped_plans_can_run(name: str, tmp_path: Path) -> None:
    assert name in plan_names()
    files = StudyFiles(load_study(name), tmp_path)
    assert len({cell.name for cell in files.cells}) == len(files.cells) >= 5
    assert all(cost.seconds > 0 and cost.done == 0 for cost in estimate(files))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("systematic_mm: 5", "systematic_mm: 9", "line 7: pairs.shift.systematic_mm"),
        ("kind: truth", "kind: rigid", "pairs.truth is of kind rigid"),
        ("kind: planted", "kind: mi", "belong to kind planted"),
        ("cases: 2", "cases: 1", "line 3: cohorts.made: 1 cases, too few for 2 folds"),
        ("  shift: {", "  other: {kind: impact, presets: [no-such]}\n  shift: {", "line 7: pairs.other"),
        ("device: cpu", "exclusions: [rule, rule]", "each one once"),
        ("folds: 2", "fold: 2", "expected 'folds'"),
        ("encoder", "encoder", ""),
        ("  shift:", "  Shift/..:", "other characters"),
        ("iterations: 3", "iterations: 0", "stages.0.iterations"),
        ("kind: l1", "kind: l3", "changes of recipe"),
        ("device: cpu", "seeds: [1, 1]", "each one once"),
        ("device: cpu", "features: [mind, mind]", "each one once"),
        ("device: cpu", "features: [no-such-network]", "line 15: features, no-such-network"),
        ("device: cpu", "segmenter: no-such.pt", "line 15: segmenter no-such.pt"),
        (
            "device: cpu",
            "losses:\n  none: [{kind: impact_synth, extractor: no-such-network}]",
            "line 16: losses.none",
        ),
    ],
)
def test_cells_that_cannot_exist_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = plan_of(tmp_path, TINY.replace(old, new))
    if not message:
        load_study(str(path))
        return
    with pytest.raises(InputError) as caught:
        load_study(str(path))
    assert message in str(caught.value)
    assert "plan.yaml" in str(caught.value)


def test_truth_without_truth_is_refused_with_its_line(tmp_path: Path) -> None:
    for name in ("1HNA001", "1HNA002"):
        (tmp_path / "real" / "Task1" / "HN" / name).mkdir(parents=True)
        (tmp_path / "real" / "Task1" / "HN" / name / "mr.mha").write_bytes(b"")
    tail = TINY.split("pairs:")[1]
    text = f"cohorts:\n  made: {{folder: {tmp_path / 'real'}, task: mri}}\npairs:" + tail
    with pytest.raises(InputError, match=r"line 4: pairs.truth of kind truth, and cohort made has no truth"):
        load_study(str(plan_of(tmp_path, text)))


def test_a_changed_axis_touches_only_its_own(tmp_path: Path) -> None:
    plan = load_study(str(plan_of(tmp_path)))
    more = plan.changed(pairs={**plan.pairs, "shift": PairsPlan(kind="planted", systematic_mm=4)})
    old, new = StudyFiles(plan, tmp_path), StudyFiles(more, tmp_path)
    assert old.cohort_folder("made") == new.cohort_folder("made")
    same = [old.fold_key(a, 0) == new.fold_key(b, 0) for a, b in zip(old.cells, new.cells, strict=True)]
    assert same == [True, False]
    reseeded = StudyFiles(plan.changed(seeds=(0, 1)), tmp_path)
    assert {old.fold_key(c, 0) for c in old.cells} < {reseeded.fold_key(c, 0) for c in reseeded.cells}


def test_conventions_multiply_registered_pairs_only() -> None:
    plan = StudyPlan(
        cohorts={"a": {"simulate": {"cases": 4}}},
        pairs={"truth": {"kind": "truth"}, "mi": {"kind": "mi"}},
        conventions=tuple(Convention),
    )
    names = [p.name for p in StudyFiles(plan, Path("x")).pair_sets]
    assert names == ["truth", "mi@ct_to_source", "mi@source_to_ct"]


def test_the_planted_field_is_what_was_asked_for() -> None:
    grid = Geometry((24, 20, 16), (4.0, 4.0, 6.0))
    mask = np.zeros(grid.shape_zyx, dtype=bool)
    mask[3:-3, 4:-4, 4:-4] = True
    both = PairsPlan(kind="planted", variable_mm=3, systematic_mm=2, direction_xyz=(1, 0, 0))
    first, second = (planted_field(grid, mask, both, np.random.default_rng(k)) for k in (1, 2))
    shift = np.array([2.0, 0, 0])[:, None, None, None]
    for field in (first, second):
        assert np.sqrt(((field - shift)[:, mask] ** 2).sum(0).mean()) == pytest.approx(3)
    assert not np.allclose(first, second)
    assert np.abs(np.diff(first, axis=3)).max() < 3  # smooth at 40 mm: a neighbour 4 mm away moves alike


def blobs(shift_mm: float = 0.0) -> Volume:
    """Smooth structures, moved along y."""
    grid = Geometry((40, 36, 24), (3.0, 3.0, 4.0))
    z, y, x = np.meshgrid(
        *[np.arange(n) * s for n, s in zip((24, 36, 40), (4.0, 3.0, 3.0), strict=True)], indexing="ij"
    )
    y = y + shift_mm
    body = ((x - 60) / 45) ** 2 + ((y - 54) / 36) ** 2 + ((z - 48) / 60) ** 2
    bone = ((x - 60) / 8) ** 2 + ((y - 70) / 8) ** 2
    values = -1000 + 1040 * expit(12 * (0.8 - body)) + 500 * expit(6 * (1 - bone))
    return Volume(values.astype(np.float32), grid)


def test_the_displacement_has_sign_and_size_of_what_was_planted() -> None:
    truth, moved = blobs(), blobs(5.0)
    mask = truth.array > -500
    found = displacement(moved, truth, mask)
    assert found["dy_mm"] == pytest.approx(5, abs=0.7)
    assert abs(found["dx_mm"]) < 0.3
    assert abs(displacement(truth, truth, mask)["dy_mm"]) < 0.05


def test_one_prediction_is_scored_in_every_column() -> None:
    truth, moved = blobs(), blobs(5.0)
    mask = truth.array > -500
    seen = np.ones_like(mask)
    rows = score_case(moved, None, {"truth": Reference(truth, seen), "shift": Reference(moved, seen)}, mask)
    assert rows["shift"]["mae"] == 0 < rows["truth"]["mae"]
    assert rows["shift"]["bone_dice"] == 1 > rows["truth"]["bone_dice"]
    assert rows["truth"]["edge_dy_mm"] == pytest.approx(5, abs=1)


def test_what_changed_between_the_scans_can_be_left_out_of_a_reference() -> None:
    truth = blobs()
    mask, seen, changed = (
        truth.array > -500,
        np.ones(truth.array.shape, dtype=bool),
        np.zeros(truth.array.shape, dtype=bool),
    )
    changed[10:12, 15:18, 18:22] = True  # gas, which the CT had and the source did not
    other = truth.with_array(np.where(changed, -900, truth.array).astype(np.float32))
    references = {"truth": Reference(truth, seen), "mi": Reference(other, seen)}
    rows = score_case(truth, None, references, mask, changed=changed)
    assert rows["mi"]["mae_same"] == 0 < rows["mi"]["mae"]
    assert {e.quantity for e in bias([Row("t", e, "AB", "c", 0, s) for e, s in rows.items()])} > {"mae", "mae_same"}
    assert "mae_same" not in score_case(truth, None, references, mask)["mi"]


def test_organs_and_features_are_columns_of_every_reference() -> None:
    truth, moved = blobs(), blobs(6.0)
    mask, seen = truth.array > -500, np.ones(truth.array.shape, dtype=bool)
    labels, other = (
        (v.array > 300).astype(np.uint8) * 5 for v in (truth, moved)
    )  # 5: the liver, a class of the abdomen
    references = {"truth": Reference(truth, seen, labels), "shift": Reference(moved, seen, other)}
    rows = score_case(moved, None, references, mask, labels=other, region=Region.AB, features=("mind",))
    assert rows["shift"]["DICE"] == 1 > rows["truth"]["DICE"] > 0.3
    assert rows["shift"]["HD95"] == 0 < rows["truth"]["HD95"] == pytest.approx(6, abs=2)
    assert rows["shift"]["d_mind"] == 0 < rows["truth"]["d_mind"]
    made = [Row("t", e, "AB", "c", 0, scores) for e, scores in rows.items()]
    assert scores_in(made)[-3:] == ("DICE", "HD95", "d_mind")
    found = {e.quantity: e.mean for e in bias(made)}
    assert found["DICE"] == pytest.approx(1 - rows["truth"]["DICE"])
    plain = score_case(moved, None, references, mask)
    assert not {"DICE", "HD95", "d_mind"} & set(plain["truth"])


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
    )
    labels = [label_of(k) for k in (*keys, *ALONG, "ensemble_spread", "spread_rho")]
    assert not [label for label in labels if "_" in label]
    assert label_of("mae") == "MAE (HU)"
    assert label_of("my_own") == "my_own"


def test_the_spread_is_ranked_against_error_and_against_bias() -> None:
    truth = blobs()
    mask, seen = truth.array > -500, np.ones(truth.array.shape, dtype=bool)
    rng = np.random.default_rng(0)
    error = rng.uniform(0, 100, truth.array.shape)
    image, spread = (truth.with_array((a).astype(np.float32)) for a in (truth.array + error, error / 3))
    # a reference that lies by as much as the image, on the other side: its bias is the error once more
    other = truth.with_array((truth.array - error).astype(np.float32))
    rows = score_case(image, spread, {"truth": Reference(truth, seen), "other": Reference(other, seen)}, mask)
    assert rows["truth"]["spread_rho"] == pytest.approx(1, abs=1e-3)
    assert rows["other"]["spread_rho"] == pytest.approx(1, abs=1e-3)
    shuffled = spread.with_array(rng.permutation(spread.array.ravel()).reshape(mask.shape))
    rows = score_case(image, shuffled, {"truth": Reference(truth, seen)}, mask)
    assert abs(rows["truth"]["spread_rho"]) < 0.05


def test_edges_move_by_what_was_planted_where_the_outline_stays() -> None:
    truth, moved = blobs(), blobs(5.0)
    mask = truth.array > -500
    cut = moved.with_array(np.where(mask, moved.array, -1000).astype(np.float32))  # as a prediction is
    found = edge_shift(cut, truth, mask)
    assert found["edge_dy_mm"] == pytest.approx(5, abs=1)
    assert abs(found["edge_dx_mm"]) < 0.5 > abs(found["edge_dz_mm"])
    assert np.isnan(edge_shift(moved, truth, np.zeros_like(mask))["edge_dx_mm"])


def test_profiles_of_a_shifted_image_part_by_side_and_of_a_blurred_one_do_not() -> None:
    truth = blobs()
    mask = truth.array > -500
    images = {"truth": truth, "moved": blobs(3.0)}
    profiles = edge_profiles(images, truth, mask, 1)
    change = np.array(profiles["moved"], dtype=float) - np.array(profiles["truth"], dtype=float)
    middle = slice(3, 5)
    # the bone moved to smaller y: less of it on the surface that faces y, more on the other
    assert np.nanmean(change[0, middle]) < -20
    assert np.nanmean(change[1, middle]) > 20


def test_a_coarse_map_keeps_where_the_field_points() -> None:
    mask = np.zeros((3, 40, 56), dtype=bool)
    mask[:, 5:35, 7:49] = True
    field = np.zeros((int(mask.sum()), 3))
    right = np.argwhere(mask)[:, 2] >= 28
    field[right] = (2, 0, 1)
    cells = np.array(coarse_map(field, mask))
    assert cells.shape == (10, 14, 3)
    assert (cells[:, 7:] == (2, 0, 1)).all()
    assert (cells[:, :7] == 0).all()


def test_bones_and_organs_are_compared_by_hand() -> None:
    grid = Geometry((10, 10, 4), (1.0, 1.0, 1.0))
    first, second = np.zeros(grid.shape_zyx, np.float32), np.zeros(grid.shape_zyx, np.float32)
    first[:, :4], second[:, 2:6] = 300, 300
    a, b = Volume(first, grid), Volume(second, grid)
    assert bone_dice(a, b, np.ones(first.shape, dtype=bool)) == pytest.approx(0.5)
    organs = np.zeros(first.shape, np.uint8)
    organs[:, :4], organs[:, 6:] = 1, 2  # in the first 300 against 150, in the second nothing
    assert organ_error(a, b, organs) == pytest.approx((150 + 0) / 2)
    assert np.isnan(organ_error(a, b, np.zeros_like(organs)))


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


def test_exclusions_multiply_registered_pairs_and_keep_their_keys(tmp_path: Path) -> None:
    plan = load_study(str(plan_of(tmp_path, TINY.replace("folds: 2", "  mi: {kind: mi}\nfolds: 2"))))
    more = plan.changed(exclusions=("none", "rule", "random"))
    old, new = StudyFiles(plan, tmp_path), StudyFiles(more, tmp_path)
    assert {old.fold_key(c, 0) for c in old.cells} < {new.fold_key(c, 0) for c in new.cells}
    names = [new.train_name(c) for c in new.cells]
    assert names == ["truth", "shift", "mi", "mi+without-rule", "mi+without-random"]
    assert len({new.fold_key(c, 0) for c in new.cells}) == 5
    rule, chance = new.cells[3:]
    FoldsRecord(
        validation=(("Task1/HN/a", "Task1/HN/b"), ("Task1/HN/c",)),
        patients={f"Task1/HN/{k}": k for k in "abc"},
    ).write(tmp_path / "splits" / f"made-{new.split_key('made')[:12]}.json")
    assert left_out(new, rule) == set()
    ExclusionsRecord(exclude={"b": "folds"}).write(new.pairs_folder("made", rule.pairs) / "exclusions.json")
    assert left_out(new, rule) == {"Task1/HN/b"}
    assert len(left_out(new, chance)) == 1
    assert left_out(new, new.cells[2]) == set()


def test_an_objective_can_have_values_of_its_own(tmp_path: Path) -> None:
    tail = (
        "supervision: {supervised: {kind: supervised}, cut: {kind: cut}}\n"
        "supervision_changes: {cut: {optimiser: {learning_rate: 2.0e-4}}}\ndevice: cpu"
    )
    plan = load_study(str(plan_of(tmp_path, TINY.replace("device: cpu", tail))))
    rates = [
        plan.training_plan(Task.MRI, plan.pairs["truth"], "recipe", name, 0).optimiser.learning_rate
        for name in ("supervised", "cut")
    ]
    assert rates == [3e-3, 2e-4]
    with pytest.raises(InputError, match=r"supervision_changes\.cat"):
        load_study(str(plan_of(tmp_path, TINY.replace("device: cpu", tail.replace("{cut: {opt", "{cat: {opt")))))


def row(train: str, evaluate: str, case: str, mae: float, dy: float = 0.0, seed: int = 0) -> Row:
    scores = {"mae": mae, "rmse": mae, "sharpness": 1.0, "dx_mm": 0.0, "dy_mm": dy, "dz_mm": 0.0, "spread_mm": 0.0}
    return Row(train, evaluate, "AB", case, seed, scores)


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


@pytest.mark.parametrize("convention", list(Convention))
def test_a_reference_lies_on_the_sources_grid_whichever_image_stayed(tmp_path: Path, convention: Convention) -> None:
    """The CT's bone lies 6 mm behind the source's; a registration that knows it gives the aligned CT back."""
    aligned, ct = blobs(), blobs(-6.0)
    source = aligned.with_array(-aligned.array)
    write_volume(source, tmp_path / "mr.mha")
    case = Case("a", Task.MRI, tmp_path / "mr.mha", region=Region.AB, folder=tmp_path)
    fixed_is_source = convention is Convention.CT_TO_SOURCE
    # fixed points to moving points: from the source's 6 mm to the back, from the CT's 6 mm to the front
    to_moving = AffineTransform(np.eye(3), (0.0, 6.0 if fixed_is_source else -6.0, 0.0))
    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "pair.json").write_text("{}", encoding="utf-8")
    write_itk(to_moving, pair / "transform.h5")
    delivered = apply_to_image(ct, to_moving, source.geometry, outside=-1024) if fixed_is_source else ct
    write_volume(delivered, pair / "ct.mha")
    found = load_reference(case, pair, convention)
    assert found is not None
    inner = found.seen & (aligned.array > -500)
    assert np.abs(found.ct.array - aligned.array)[inner].mean() < 5 < np.abs(ct.array - aligned.array)[inner].mean()


class HighIsOrgan(torch.nn.Module):
    """What is above 30 HU is the spinal cord (79), a class of the head and neck."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 30).float() * 79.0


@pytest.mark.heavy
def test_a_tiny_study_from_nothing_and_again(tmp_path: Path) -> None:
    from sctlab.study.report import report_study
    from sctlab.study.run import run_study

    torch.jit.script(HighIsOrgan()).save(str(tmp_path / "organs.pt"))
    trust_file(tmp_path / "organs.pt")
    text = f"{TINY}features: [mind]\nsegmenter: {tmp_path / 'organs.pt'}\n"
    plan, out = load_study(str(plan_of(tmp_path, text))), tmp_path / "out"
    result = run_study(plan, out)
    assert result.exit_code is ExitCode.OK, result.failed
    with (out / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2  # trainings, references, cases
    assert all(float(r["d_mind"]) > 0 <= float(r["DICE"]) for r in rows)
    kept = sorted(out.glob("labels/*/**/*.mha"))
    assert len(kept) == 2 * 2  # references and cases: labelled once for both trainings
    planted = json.loads((out / "results.json").read_text(encoding="utf-8"))["references"]
    means = {e["quantity"]: e["mean"] for e in planted if e["name"] == "shift"}
    assert means["dy_mm"] == pytest.approx(5, abs=1.5)
    assert 0.5 < means["DICE"] < 1
    trained = {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")}
    assert len(trained) == 4
    report_study(out)
    assert "seeds 0;" in (out / "report.html").read_text(encoding="utf-8")
    assert all(StudyFiles(plan, out).finished(cell, fold) for cell in StudyFiles(plan, out).cells for fold in (0, 1))
    run_study(plan, out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("folds/*/key.json")} == trained


def test_a_report_without_registered_references_has_no_map_of_them() -> None:
    """Losses compared on the truth alone leave some figures out."""
    page = render(
        "study.html", title="Losses", subtitle="", failed={}, methods="", matrices=[], lists=[], agreeing=[], slopes=[],
        rankings=[], spread=[], figures={"slices": "data:image/png;base64,AA=="}, number=number,
    )  # fmt: skip
    assert "The same slice under every training" in page
    assert "Mean displacement of the references" not in page
