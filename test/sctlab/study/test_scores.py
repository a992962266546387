"""Planted displacements, and the scores of one prediction against several references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from sctlab.cohort.splits import FoldsRecord
from sctlab.registration.settings import Convention
from sctlab.study import scoring
from sctlab.study.analysis import Row, bias, scores_in
from sctlab.study.cells import StudyFiles
from sctlab.study.displacement import coarse_map, displacement, edge_shift
from sctlab.study.plan import PairsPlan, load_study
from sctlab.study.planted import planted_field
from sctlab.study.report import read_rows
from sctlab.study.scores import Reference, bone_dice, edge_profiles, load_reference, organ_error, score_case
from sctlab.transforms.apply import apply_to_image
from sctlab.transforms.data import AffineTransform
from sctlab.transforms.itk_files import write_itk
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


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


def predicted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, sct: Volume, references: tuple[dict[str, Reference], ...]
) -> tuple[str, ...]:
    """Make every cell of a study predict `sct` for cases with these references; their keys."""
    keys = tuple(f"Task1/HN/1HNT00{n}" for n, _ in enumerate(references, 1))
    cases = [Case(key.rsplit("/", 1)[-1], Task.MRI, folder / "mr.mha", region=Region.HN) for key in keys]
    folds = FoldsRecord(validation=tuple((key,) for key in keys), patients=dict(zip(keys, keys, strict=True)))
    write_volume(sct, folder / "sct.mha")
    for name, value in {
        "study_cases": lambda *_: cases,
        "split_of": lambda *_: folds,
        "references_of": lambda _files, _cohort, case: references[cases.index(case)],
        "prediction_files": lambda *_: (folder / "sct.mha", None),
        "body_of": lambda _: sct.array > -500,
    }.items():
        monkeypatch.setattr(scoring, name, value)
    monkeypatch.setattr(StudyFiles, "finished", lambda *_: True)
    return keys


def test_a_case_whose_references_share_no_place_is_named_and_has_no_perfect_score(
    tmp_path: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = blobs()
    seen = np.zeros(truth.array.shape, dtype=bool)
    seen[:12] = True
    sides = {"truth": Reference(truth, seen), "shift": Reference(truth, ~seen)}
    with pytest.raises(InputError, match="no place in the body where truth, shift"):
        score_case(truth, None, sides, truth.array > -500)
    files = StudyFiles(load_study(str(tiny())), tmp_path)
    whole = {name: Reference(truth, np.ones_like(seen)) for name in sides}
    keys = predicted(monkeypatch, tmp_path, truth, (whole, sides))
    scoring.score_cell(files.plan, tmp_path, files.cells[0])
    assert {row.case for row in read_rows(files)} == {keys[0]}
    found = scoring.unscored(files)
    assert list(found) == [f"{files.cells[0].name}/{keys[1]}"]
    assert "truth, shift all have data" in found[f"{files.cells[0].name}/{keys[1]}"]


def test_a_case_too_thin_for_the_segmenter_keeps_its_other_scores(
    tmp_path: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = blobs()
    thin = Volume(whole.array[11:14], whole.geometry.cropped((0, 0, 11), (40, 36, 3)), "sct.mha")
    text = ("device: cpu", "device: cpu\nsegmenter: anatomy-judge")
    files = StudyFiles(load_study(str(tiny(text))), tmp_path)
    seen = np.ones(thin.array.shape, dtype=bool)
    columns = {
        name: scoring.labelled(files, Reference(thin, seen), tmp_path / f"{name}.mha") for name in ("truth", "shift")
    }
    keys = predicted(monkeypatch, tmp_path, thin, (columns, columns))
    scoring.score_cell(files.plan, tmp_path, files.cells[0])
    rows = read_rows(files)
    assert {row.case for row in rows} == set(keys)
    assert all("mae" in row.scores and not {"DICE", "dx_mm"} & set(row.scores) for row in rows)
    assert not scoring.unscored(files)
    found = scoring.unlabelled_cases(files)
    assert list(found) == [f"{files.cells[0].name}/{key}" for key in keys]
    assert all("mm along an axis" in reason for reason in found.values())


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
