"""Pairs that are used, pairs that are left out, and folds."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest

from sctlab.cohort import pairs as cohort_module
from sctlab.cohort.pairs import (
    Folds,
    Pair,
    check_pair,
    find_pairs,
    load_cohort,
    make_folds,
    patient_of,
    read_exclusions,
)
from sctlab_model.cases import Region, Task, read_json
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_json, write_volume
from sctlab_model.volume import Geometry, Volume

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
    assert set(cohort.left_out) == {"1ABA100", "1ABA101", "1ABA102", "1ABA103", "1ABA104"}
    for case_id, word in {"100": "grid", "101": "empty mask", "102": "overlap", "103": "no ct", "104": "NaN"}.items():
        assert word in cohort.left_out[f"1ABA{case_id}"]


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

    monkeypatch.setattr(cohort_module, "check_pair", failing)
    with pytest.raises(InputError, match=r"1 of 8 cases weren't finished \(1ABA001"):
        load_cohort(mixed, Task.MRI, remember=checks)
    remembered = read_json(checks)
    assert "1ABA001" not in remembered
    assert "grid" in remembered["1ABA100"]["error"]  # what was found out is kept
    monkeypatch.setattr(cohort_module, "check_pair", check)
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
        assert sum({"1ABA002", "1ABB900"} <= set(ids) for ids in folds.validation) == 1


def test_cases_that_share_an_image_are_one_patient_also_by_way_of_others() -> None:
    def pair(case_id: str, patient: str, *images: str) -> Pair:
        return Pair(case_id, Task.MRI, Region.AB, Path(), Path(), Path(), patient, images=images)

    pairs = [pair("1", "B", "mr1", "ct1"), pair("2", "C", "mr2", "ct2"), pair("3", "A", "mr3", "ct1"),
             pair("4", "A", "mr4", "ct2"), pair("5", "D", "mr2", "other"), pair("6", "E", "mr6", "ct6")]  # fmt: skip
    assert [p.patient for p in cohort_module._merge_duplicates(pairs)] == ["B"] * 5 + ["E"]


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


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.txt",
            "1ABA000 misregistered\n# comment\n1ABA001\n",
            {"1ABA000": "excluded: misregistered", "1ABA001": "excluded"},
        ),
        ("a.json", '["1ABA000"]', {"1ABA000": "excluded"}),
        ("a.json", '{"1ABA000": "folded"}', {"1ABA000": "excluded: folded"}),
        ("a.json", '{"exclude": [{"id": "1ABA000", "reason": "folded"}]}', {"1ABA000": "excluded: folded"}),
    ],
)
def test_exclusion_lists(tmp_path: Path, name: str, text: str, expected: dict[str, str]) -> None:
    (tmp_path / name).write_text(text)
    assert read_exclusions(tmp_path / name) == expected


def test_excluded_cases_are_left_out_and_wrong_lists_refused(mixed: Path) -> None:
    cohort = load_cohort(mixed, Task.MRI, exclusions={"1ABA001": "excluded: by hand"})
    assert cohort.left_out["1ABA001"] == "excluded: by hand"
    assert "1ABA001" not in {p.id for p in cohort.pairs}
    with pytest.raises(InputError, match="none of the ids"):
        load_cohort(mixed, Task.MRI, exclusions={"9XXX": "excluded"})


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


def _pairs(count: int, *, patients: int = 0) -> list[Pair]:
    found = []
    for number in range(count):
        region, centre = list(Region)[number % 3], "ABC"[(number // 3) % 3]
        case_id = f"1{region}{centre}{number:03d}"
        patient = f"p{number % patients}" if patients else case_id
        found.append(Pair(case_id, Task.MRI, region, Path(), Path(), Path(), patient, centre, digest=str(number)))
    return found


def test_folds_spread_every_region_and_centre_evenly() -> None:
    pairs = _pairs(180)
    folds = make_folds(pairs, 5, seed=1, held_out=0.15)
    strata = {p.id: p.stratum for p in pairs}
    assert len(folds.held_out) == pytest.approx(27, abs=1)
    for name in set(strata.values()):
        counts = [sum(strata[i] == name for i in ids) for ids in folds.validation]
        assert max(counts) - min(counts) <= 1
    everyone = sorted([*folds.held_out, *(i for ids in folds.validation for i in ids)])
    assert everyone == sorted(strata)


def _of_three_regions() -> list[Pair]:
    """Ten patients of AB and of TH; HN is twenty cases of two patients."""
    return [
        Pair(f"1{region}A{k:03d}", Task.MRI, Region(region), Path(), Path(), Path(), f"{region}{k // share}", "A")
        for region, count, share in (("AB", 10, 1), ("HN", 20, 10), ("TH", 10, 1))
        for k in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_patients_with_many_cases_push_no_other_region_out_of_a_fold(seed: int) -> None:
    folds = make_folds(_of_three_regions(), 5, seed=seed)
    counts = [[sum(i[1:3] == region for i in ids) for region in ("AB", "HN", "TH")] for ids in folds.validation]
    assert counts == [[2, 10, 2], [2, 10, 2], [2, 0, 2], [2, 0, 2], [2, 0, 2]]


def test_one_fold_shows_every_region_and_is_near_a_fifth() -> None:
    pairs = [p for p in _of_three_regions() if p.region != Region.HN]
    pairs += [
        Pair(f"1HNA{k:03d}", Task.MRI, Region.HN, Path(), Path(), Path(), f"p{max(0, k - 20)}", "A") for k in range(30)
    ]
    (ids,) = make_folds(pairs, 1).validation
    assert {i[1:3] for i in ids} == {"AB", "HN", "TH"}
    assert len(ids) < 10  # the patient with 21 cases is trained on


def test_folds_of_one_case_a_patient_stay_as_they_always_were() -> None:
    folds = make_folds(_pairs(12), 3, seed=7, held_out=0.2)
    assert folds.held_out == ("1ABB003", "1HNC007")
    assert folds.validation == (
        ("1ABA009", "1HNA010", "1THA002", "1THC008"),
        ("1ABA000", "1HNA001", "1THA011"),
        ("1ABC006", "1HNB004", "1THB005"),
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_training_and_validation_share_no_patient(count: int) -> None:
    pairs = _pairs(60, patients=17)
    folds = make_folds(pairs, count, seed=3, held_out=0.2)
    for fold in range(count):
        sets = (folds.training_ids(fold), folds.validation[fold], folds.held_out)
        owners = [{folds.patients[i] for i in ids} for ids in sets]
        assert all(owners)
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_folds_depend_on_the_seed_alone(tmp_path: Path) -> None:
    pairs = _pairs(30)
    folds = make_folds(pairs, 5, seed=4)
    assert make_folds(pairs[::-1], 5, seed=4).validation == folds.validation
    assert make_folds(pairs, 5, seed=5).validation != folds.validation
    folds.write(tmp_path / "folds.json")
    assert Folds.read(tmp_path / "folds.json") == folds


def test_folds_that_share_a_patient_are_refused(tmp_path: Path) -> None:
    folds = make_folds(_pairs(12, patients=6), 3)
    first = folds.validation[0][0]
    broken = Folds((folds.validation[0], (*folds.validation[1], first), folds.validation[2]), (), 0, folds.patients)
    broken.write(tmp_path / "folds.json")
    with pytest.raises(InputError, match="each patient in one"):
        Folds.read(tmp_path / "folds.json")


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="at least a patient a fold"):
        make_folds(_pairs(12, patients=3), 5)
