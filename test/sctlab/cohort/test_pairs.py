"""Pairs that are used, pairs that are left out, and folds."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sctlab.cohort import load as load_module
from sctlab.cohort.checks import ChecksRecord, check_pair, merge_duplicates
from sctlab.cohort.load import CohortRecord, load_cohort
from sctlab.cohort.pairs import Pair, find_pairs, patient_of
from sctlab.cohort.splits import make_folds
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

ALIKE = {"nmi": 1.1, "feature_distance": 0.1, "edges": 0.5}
DISTANCES = {"mean": 1.0, "median": 1.0, "p95": 1.0, "max": 1.0}
JACOBIAN = {"minimum": 1, "p1": 1, "p99": 1, "maximum": 1, "folds": 0, "log_std": 0}
MEASURES = {  # of a quality.json
    "similarity": {"before": ALIKE, "after": ALIKE},
    "overlap": {"field_of_view": 1.0, "before": {}, "after": {}},
    "field": {"displacement_mm": DISTANCES, "deformation_mm": DISTANCES, "jacobian": JACOBIAN},
}
GRID = Geometry((40, 36, 8), (5.0, 5.0, 6.0))


def _body(shift: int = 0) -> np.ndarray:
    _, y, x = np.indices(GRID.shape_zyx)
    return np.hypot((y - 18) / 12, (x - 20 - shift) / 13) < 1


def _write(folder: Path, *, seed: int = 0, ct_shift: int = 0, grid: Geometry = GRID, empty: bool = False) -> None:
    rng = np.random.default_rng(seed)
    body = _body()
    mr = np.where(body, 300, 0) + rng.uniform(0, 20, GRID.shape_zyx)
    ct = np.where(_body(ct_shift), 40, -1000) + rng.integers(-10, 10, GRID.shape_zyx)
    write_volume(Volume(mr.astype(np.float32), GRID), folder / "mr.mha")
    write_volume(Volume(ct.astype(np.int16), grid), folder / "ct.mha")
    write_volume(Volume(body.astype(np.uint8) * (not empty), GRID), folder / "mask.mha")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good pairs, and one of each kind that can't be used."""
    root = tmp_path_factory.mktemp("mixed")
    folder = root / "Task1" / "AB"
    for number in range(3):
        _write(folder / f"1ABA00{number}", seed=number)
    shutil.copytree(folder / "1ABA002", folder / "1ABB900")  # one patient under two ids
    _write(folder / "1ABA100", seed=10, grid=Geometry(GRID.size_xyz, (5.0, 5.0, 5.0)))
    _write(folder / "1ABA101", seed=11, empty=True)
    _write(folder / "1ABA102", seed=12, ct_shift=25)
    _write(folder / "1ABA103", seed=13)
    (folder / "1ABA103" / "ct.mha").unlink()
    _write(folder / "1ABA104", seed=14)
    nan = np.full(GRID.shape_zyx, 50, np.float32)
    nan[0, 0, 0] = np.nan
    write_volume(Volume(nan, GRID), folder / "1ABA104" / "mr.mha")
    return root


def test_each_pair_is_checked_and_the_reason_told(mixed: Path, tmp_path: Path) -> None:
    cohort = load_cohort(mixed, Task.MRI, remember=tmp_path / "checks.json")
    assert [p.id for p in cohort.pairs] == ["1ABA000", "1ABA001", "1ABA002", "1ABB900"]
    assert set(cohort.left_out) == {f"Task1/AB/1ABA10{k}" for k in range(5)}
    for case_id, word in {"100": "grid", "101": "empty mask", "102": "overlap", "103": "no ct", "104": "NaN"}.items():
        assert word in cohort.left_out[f"Task1/AB/1ABA{case_id}"]


def test_checks_are_remembered_until_a_file_changes(mixed: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(mixed, root)
    checks = tmp_path / "checks.json"
    before = load_cohort(root, Task.MRI, remember=checks)
    text = checks.read_text()
    assert load_cohort(root, Task.MRI, remember=checks) == before
    assert checks.read_text() == text
    _write(root / "Task1" / "AB" / "1ABA000", seed=99)
    assert load_cohort(root, Task.MRI, remember=checks).digest != before.digest


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_check_that_was_cut_short_refuses_no_pair(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    checks, check = tmp_path / "checks.json", check_pair

    def failing(pair: Pair) -> Pair:
        if pair.id == "1ABA001":
            raise error
        return check(pair)

    monkeypatch.setattr(load_module, "check_pair", failing)
    with pytest.raises(InputError, match=r"1 of 8 cases weren't finished \(Task1/AB/1ABA001"):
        load_cohort(mixed, Task.MRI, remember=checks)
    remembered = ChecksRecord.read(checks).checks
    assert "Task1/AB/1ABA001" not in remembered
    assert "grid" in remembered["Task1/AB/1ABA100"].error  # what was found out is kept
    monkeypatch.setattr(load_module, "check_pair", check)
    assert "1ABA001" in {p.id for p in load_cohort(mixed, Task.MRI, remember=checks).pairs}


def test_digest_depends_on_content_not_on_place(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "elsewhere")
    assert load_cohort(mixed, Task.MRI).digest == load_cohort(tmp_path / "elsewhere", Task.MRI).digest


def test_one_patient_under_two_ids_stays_together(mixed: Path) -> None:
    cohort = load_cohort(mixed, Task.MRI)
    patients = {p.id: p.patient for p in cohort.pairs}
    assert patients["1ABA002"] == patients["1ABB900"]
    for seed in range(5):
        folds = make_folds(cohort.pairs, 3, seed=seed)
        assert sum({"Task1/AB/1ABA002", "Task1/AB/1ABB900"} <= set(ids) for ids in folds.validation) == 1


def test_cases_that_share_an_image_are_one_patient_also_by_way_of_others() -> None:
    def pair(case_id: str, patient: str, *images: str) -> Pair:
        return Pair(case_id, Task.MRI, Region.AB, Path(), Path(), Path(), patient, images=images)

    pairs = [pair("1", "B", "mr1", "ct1"), pair("2", "C", "mr2", "ct2"), pair("3", "A", "mr3", "ct1"),
             pair("4", "A", "mr4", "ct2"), pair("5", "D", "mr2", "other"), pair("6", "E", "mr6", "ct6")]  # fmt: skip
    assert [p.patient for p in merge_duplicates(pairs)] == ["B"] * 5 + ["E"]


def test_a_duplicate_is_found_behind_its_registration(mixed: Path, tmp_path: Path) -> None:
    """By the source where the registered CTs differ by a bit, and by the delivered images where both differ."""
    shutil.copytree(mixed / "Task1" / "AB", tmp_path / "Task1" / "AB")
    folder = tmp_path / "Task1" / "AB"
    ct = read_volume(folder / "1ABB900" / "ct.mha")
    ct.array[0, 0, 0] += 1
    write_volume(ct, folder / "1ABB900" / "ct.mha")
    for case_id in ("1ABA000", "1ABA001"):
        write_json(folder / case_id / "pair.json", {"patient": case_id, "inputs": {"source": case_id, "ct": "same"}})
    patients = {p.id: p.patient for p in load_cohort(tmp_path, Task.MRI).pairs}
    assert patients["1ABB900"] == patients["1ABA002"]
    assert patients["1ABA001"] == patients["1ABA000"] != patients["1ABA002"]


def test_cases_simulated_from_one_ct_stay_one_patient_once_registered(tmp_path: Path) -> None:
    """An older registration wrote the case id where it didn't know the patient."""
    write_json(tmp_path / "pair.json", {"patient": "1ABR000"})
    write_json(tmp_path / "truth" / "truth.json", {"options": {"ct": "/data/CT1.nii.gz"}})
    assert patient_of(tmp_path, "1ABR000") == "data/CT1.nii.gz"
    write_json(tmp_path / "pair.json", {"patient": "data/CT1.nii.gz"})
    shutil.rmtree(tmp_path / "truth")
    assert patient_of(tmp_path, "1ABR000") == "data/CT1.nii.gz"
    assert patient_of(tmp_path / "nothing", "1ABR000") == "1ABR000"


def test_registration_and_target_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "Task1" / "AB" / "1ABA000"
    _write(folder)
    write_json(folder / "pair.json", {"method": "impact", "convention": "source_to_ct"})
    (folder / "truth").mkdir()
    shutil.copy(folder / "ct.mha", folder / "truth" / "ct_aligned.mha")
    write_json(folder / "truth" / "truth.json", {"options": {"ct": "/data/patient.nii.gz"}})
    registered, truth = (find_pairs(tmp_path, Task.MRI, target=t)[0][0] for t in ("ct", "truth"))
    assert dict(registered.registration) == {"method": "impact", "convention": "source_to_ct"}
    assert dict(truth.registration)["method"] == "simulated-aligned"
    assert truth.target.name == "ct_aligned.mha"
    assert truth.patient == "data/patient.nii.gz"  # the end of the path only


def test_excluded_cases_are_left_out_and_typos_refused(mixed: Path, tmp_path: Path) -> None:
    """Cases that can't be used may stand in the list, too: nobody needs to be told of them."""
    (tmp_path / "list.txt").write_text("1ABA001 by hand\nTask1/AB/1ABA103\n")
    cohort = load_cohort(mixed, Task.MRI, exclude=tmp_path / "list.txt")
    assert cohort.excluded == {"Task1/AB/1ABA001": "excluded: by hand", "Task1/AB/1ABA103": "excluded"}
    assert "1ABA001" not in {p.id for p in cohort.pairs}
    assert set(cohort.left_out) == {f"Task1/AB/1ABA10{k}" for k in (0, 1, 2, 4)}
    (tmp_path / "list.txt").write_text("1ABA001\n1ABA01\n")
    with pytest.raises(InputError, match=r"list\.txt: 1 of 2 entries fit no case \('1ABA01'\)"):
        load_cohort(mixed, Task.MRI, exclude=tmp_path / "list.txt")


def test_one_list_may_serve_both_tasks(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "both")
    other = tmp_path / "both" / "Task2" / "TH" / "2THA000"
    shutil.copytree(mixed / "Task1" / "AB" / "1ABA000", other)
    (other / "mr.mha").rename(other / "cbct.mha")
    (tmp_path / "list.txt").write_text("2THA000\n1ABA000\n")
    assert set(load_cohort(tmp_path / "both", Task.MRI, exclude=tmp_path / "list.txt").excluded) == {"Task1/AB/1ABA000"}


def test_case_folders_without_a_source_are_named(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "copy")
    (tmp_path / "copy" / "Task1" / "AB" / "1ABA000" / "mr.mha").unlink()
    assert "no mr" in load_cohort(tmp_path / "copy", Task.MRI).left_out["Task1/AB/1ABA000"]


def test_regions_that_are_not_wanted_lack_nothing(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "copy")
    (tmp_path / "copy" / "Task1" / "HN" / "1HNA001").mkdir(parents=True)
    assert "Task1/HN/1HNA001" in load_cohort(tmp_path / "copy", Task.MRI).left_out
    assert "Task1/HN/1HNA001" not in load_cohort(tmp_path / "copy", Task.MRI, regions=[Region.AB]).left_out


def test_the_registrations_verdict_is_heeded(mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "copy")
    folder = tmp_path / "copy" / "Task1" / "AB"
    for case_id, verdict, reasons in (
        ("1ABA000", "failed", ["4 % of the field folds"]),
        ("1ABA001", "doubtful", ["the edges are apart"]),
        ("1ABA002", "trusted", []),
    ):
        write_json(folder / case_id / "quality.json", {**MEASURES, "verdict": verdict, "reasons": reasons})
    write_json(folder / "1ABB900" / "quality.json", {"verdict": "perfect"})
    cohort = load_cohort(tmp_path / "copy", Task.MRI)
    assert cohort.left_out["Task1/AB/1ABA000"] == "its registration failed: 4 % of the field folds"
    assert cohort.doubtful == {"Task1/AB/1ABA001": "its registration is doubtful: the edges are apart"}
    assert "verdict" in cohort.left_out["Task1/AB/1ABB900"]  # damaged: nobody knows what it would have said
    assert [p.id for p in cohort.pairs] == ["1ABA001", "1ABA002"]
    record = CohortRecord.of(cohort)
    record.write(tmp_path / "cohort.json")
    assert CohortRecord.read(tmp_path / "cohort.json") == record
    used = load_cohort(tmp_path / "copy", Task.MRI, failed="use")
    assert used.doubtful == {"Task1/AB/1ABA000": "its registration failed: 4 % of the field folds"} | cohort.doubtful
    assert [p.id for p in used.pairs] == ["1ABA000", "1ABA001", "1ABA002"]


@pytest.mark.parametrize(("shift", "ok"), [(0.003, True), (0.3, True), (0.6, False)])
def test_a_mask_may_lie_off_the_image_as_much_as_prediction_takes(mixed: Path, tmp_path: Path, shift: float, ok: bool):
    """One tolerance for one question: a tenth of the smallest voxel edge, as `fit_mask`."""
    shutil.copytree(mixed, tmp_path / "copy")
    path = tmp_path / "copy" / "Task1" / "AB" / "1ABA000" / "mask.mha"
    mask = read_volume(path)
    moved = replace(mask.geometry, origin_xyz=tuple(o + shift for o in mask.geometry.origin_xyz))
    write_volume(Volume(mask.array, moved), path)
    assert ("Task1/AB/1ABA000" not in load_cohort(tmp_path / "copy", Task.MRI).left_out) is ok


def test_records_of_an_earlier_release_get_their_keys(tmp_path: Path) -> None:
    case = {"region": "AB", "centre": "A", "patient": "p", "digest": "d"}
    old = {"folder": "x", "digest": "d", "registrations": [], "left_out": {}, "cases": {"1ABA000": case}}
    write_json(tmp_path / "cohort.json", old)
    record = CohortRecord.read(tmp_path / "cohort.json").with_keys(Task.MRI)
    assert list(record.cases) == ["Task1/AB/1ABA000"]
    assert record.cases["Task1/AB/1ABA000"].patient == "p"
