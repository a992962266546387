"""Folds: spread evenly, drawn by patient, kept by key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab.cohort.pairs import Pair
from sctlab.cohort.parameters import strata_of
from sctlab.cohort.splits import FoldsRecord, make_folds
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json


def _pairs(count: int, *, patients: int = 0) -> list[Pair]:
    found = []
    for number in range(count):
        region, centre = list(Region)[number % 3], "ABC"[(number // 3) % 3]
        case_id = f"1{region}{centre}{number:03d}"
        patient = f"p{number % patients}" if patients else case_id
        found.append(Pair(case_id, Task.MRI, region, Path(), Path(), Path(), patient, centre, digest=str(number)))
    return found


def _id(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def test_folds_spread_every_region_and_centre_evenly() -> None:
    pairs = _pairs(180)
    folds = make_folds(pairs, 5, seed=1, held_out=0.15)
    strata = {p.key: p.stratum for p in pairs}
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


def test_folds_spread_a_parameter_of_the_scan_evenly(tmp_path: Path) -> None:
    pairs = _pairs(54)
    strengths = {p.id: "0.35" if k < 12 else "1.5" for k, p in enumerate(pairs)}
    (tmp_path / "overviews").mkdir()
    rows = "\n".join(f"{name},{value}" for name, value in strengths.items())
    (tmp_path / "overviews" / "1_all_parameters.csv").write_text(f"ID,MagneticFieldStrength\n{rows}\n")
    groups = strata_of(pairs, ("field_strength",), tmp_path)
    assert set(groups.values()) == {"0.35", "1.5"}
    folds = make_folds(pairs, 4, groups=groups)
    counts = [sum(groups[key] == "0.35" for key in keys) for keys in folds.validation]
    assert sum(counts) == 12
    assert max(counts) - min(counts) <= 1
    assert strata_of(pairs, (), tmp_path / "nowhere") == {}
    with pytest.raises(InputError, match="no parameter 'colour'"):
        strata_of(pairs, ("colour",), tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_patients_with_many_cases_push_no_other_region_out_of_a_fold(seed: int) -> None:
    folds = make_folds(_of_three_regions(), 5, seed=seed)
    counts = [[sum(f"/{region}/" in key for key in ids) for region in ("AB", "HN", "TH")] for ids in folds.validation]
    assert counts == [[2, 10, 2], [2, 10, 2], [2, 0, 2], [2, 0, 2], [2, 0, 2]]


def test_one_fold_shows_every_region_and_is_near_a_fifth() -> None:
    pairs = [p for p in _of_three_regions() if p.region != Region.HN]
    pairs += [
        Pair(f"1HNA{k:03d}", Task.MRI, Region.HN, Path(), Path(), Path(), f"p{max(0, k - 20)}", "A") for k in range(30)
    ]
    (ids,) = make_folds(pairs, 1).validation
    assert {key.split("/")[1] for key in ids} == {"AB", "HN", "TH"}
    assert len(ids) < 10  # the patient with 21 cases is trained on


def test_folds_of_one_case_a_patient_stay_as_they_always_were() -> None:
    folds = make_folds(_pairs(12), 3, seed=7, held_out=0.2)
    assert [_id(key) for key in folds.held_out] == ["1ABB003", "1HNC007"]
    assert tuple(tuple(map(_id, keys)) for keys in folds.validation) == (
        ("1ABA009", "1HNA010", "1THA002", "1THC008"),
        ("1ABA000", "1HNA001", "1THA011"),
        ("1ABC006", "1HNB004", "1THB005"),
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_training_and_validation_share_no_patient(count: int) -> None:
    pairs = _pairs(60, patients=17)
    folds = make_folds(pairs, count, seed=3, held_out=0.2)
    for fold in range(count):
        sets = (folds.training_keys(fold), folds.validation[fold], folds.held_out)
        owners = [{folds.patients[i] for i in ids} for ids in sets]
        assert all(owners)
        assert sum(map(len, owners)) == len(set().union(*owners))


def test_folds_depend_on_the_seed_alone(tmp_path: Path) -> None:
    pairs = _pairs(30)
    folds = make_folds(pairs, 5, seed=4)
    assert make_folds(pairs[::-1], 5, seed=4).validation == folds.validation
    assert make_folds(pairs, 5, seed=5).validation != folds.validation
    folds.write(tmp_path / "folds.json")
    assert FoldsRecord.read(tmp_path / "folds.json") == folds


def test_folds_that_share_a_patient_are_refused(tmp_path: Path) -> None:
    folds = make_folds(_pairs(12, patients=6), 3)
    first = folds.validation[0][0]
    validation = (folds.validation[0], (*folds.validation[1], first), folds.validation[2])
    broken = folds.model_copy(update={"validation": validation})
    broken.write(tmp_path / "folds.json")
    with pytest.raises(InputError, match="each patient in one"):
        FoldsRecord.read(tmp_path / "folds.json")


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="at least a patient a fold"):
        make_folds(_pairs(12, patients=3), 5)


def test_one_id_in_two_regions_is_two_cases_of_one_patient() -> None:
    pairs = _pairs(12)
    pairs.append(Pair(pairs[0].id, Task.MRI, Region.HN, Path(), Path(), Path(), pairs[0].patient, "A", digest="x"))
    folds = make_folds(pairs, 3)
    both = {"Task1/AB/1ABA000", "Task1/HN/1ABA000"}
    assert both <= set(folds.patients)
    assert sum(both <= set(keys) for keys in folds.validation) == 1


def test_folds_of_an_earlier_release_get_their_keys(tmp_path: Path) -> None:
    old = {"validation": [["1ABA000"], ["1THA001"]], "held_out": ["1HNA002"], "seed": 3}
    old["patients"] = {"1ABA000": "p", "1THA001": "q", "1HNA002": "1HNA002"}
    write_json(tmp_path / "folds.json", old)
    keys = {"1ABA000": "Task1/AB/1ABA000", "1THA001": "Task1/TH/1THA001", "1HNA002": "Task1/HN/1HNA002"}
    folds = FoldsRecord.read(tmp_path / "folds.json").with_keys(keys)
    assert folds.validation == (("Task1/AB/1ABA000",), ("Task1/TH/1THA001",))
    assert folds.held_out == ("Task1/HN/1HNA002",)
    assert folds.patients["Task1/AB/1ABA000"] == "p"
    assert (folds.version, folds.seed) == (1, 3)


def test_what_is_no_fold_file_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "folds.json", {"validation": "all", "patients": {}})
    with pytest.raises(InputError, match=r"folds\.json: validation"):
        FoldsRecord.read(tmp_path / "folds.json")
