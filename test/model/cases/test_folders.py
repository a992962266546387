"""Cases from cohorts, flat folders and single files."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases_files import touch

from sctlab_model.cases import (
    Case,
    CaseKey,
    CaseList,
    Layout,
    Region,
    Selection,
    Task,
    find_cases,
    find_cohort,
    find_flat,
    find_image,
    is_challenge,
    is_cohort,
    list_images,
    register,
    result_name,
    single_case,
)
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


def test_cohort(cohort: Path) -> None:
    assert is_cohort(cohort)
    assert not is_challenge(cohort)
    cases = {case.id: case for case in find_cohort(cohort)}
    assert list(cases) == ["1ABA001", "1ABA002", "1THB001", "2HNC001"]
    first, second = cases["1ABA001"], cases["1ABA002"]
    assert first.mask is None
    assert first.target is not None
    assert first.target.name == "ct_def.nii.gz"
    assert first.output_name == "AB/1ABA001.nii.gz"
    assert (second.task, second.region, second.output_name) == (Task.MRI, Region.AB, "AB/1ABA002.mha")
    assert second.folder == cohort / "Task1/AB/1ABA002"
    assert cases["2HNC001"].task is Task.CBCT


def test_parts_of_a_cohort(cohort: Path) -> None:
    assert [c.id for c in find_cohort(cohort, task=Task.CBCT)] == ["2HNC001"]
    assert [c.id for c in find_cohort(cohort, region=Region.TH)] == ["1THB001"]
    assert is_cohort(cohort / "Task1")
    assert [c.id for c in find_cohort(cohort / "Task2")] == ["2HNC001"]
    with pytest.raises(InputError, match="no cases"):
        find_cohort(cohort, task=Task.CBCT, region=Region.AB)
    with pytest.raises(InputError, match="no such folder"):
        find_cohort(cohort / "absent")


def test_half_written_cases_are_none(cohort: Path) -> None:
    before = find_cohort(cohort)
    touch(cohort, "Task2/HN/.2HNC002.part/cbct.mha")
    assert find_cohort(cohort) == before


def test_one_image_of_a_name(cohort: Path) -> None:
    touch(cohort, "Task2/HN/2HNC001/cbct.nii.gz")
    with pytest.raises(InputError, match="several images named cbct"):
        find_cohort(cohort)
    assert find_image(cohort, "nothing") is None


def test_flat_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a.mha", "a_mask.nii.gz", "b.nrrd", ".hidden.mha", "notes.txt")
    (tmp_path / "a.json").write_text('"TH"')
    first, second = find_flat(tmp_path, Task.MRI, Region.AB)
    assert (first.id, first.region, first.output_name) == ("a", Region.TH, "a.mha")
    assert first.mask == tmp_path / "a_mask.nii.gz"
    assert (second.id, second.region, second.mask, second.output_name) == ("b", Region.AB, None, "b.mha")
    assert [p.name for p in list_images(tmp_path)] == ["a.mha", "a_mask.nii.gz", "b.nrrd"]


def test_results_of_a_flat_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    touch(tmp_path, "a.mha", "a.nrrd", "b.mha")
    first, second, good = find_flat(tmp_path, Task.MRI)
    assert "several images named a: a.mha, a.nrrd" in str(first.problem)
    assert second.problem is not None
    assert good.problem is None


def test_one_bad_region_is_that_image_s_problem(tmp_path: Path) -> None:
    touch(tmp_path, "a.mha", "b.mha")
    (tmp_path / "b.json").write_text('"Pelvis"')
    first, second = find_flat(tmp_path, Task.MRI, Region.AB)
    assert first.problem is None
    assert "Pelvis" in str(second.problem)


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    touch(tmp_path, "a.MHA", "a_mask.NII.GZ")
    (case,) = find_flat(tmp_path, Task.MRI)
    assert case.mask == tmp_path / "a_mask.NII.GZ"


def test_flat_folder_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "a_mask.mha")
    with pytest.raises(InputError, match=r"a_mask\.mha.*<name>_mask"):
        find_flat(tmp_path, Task.MRI)


def test_single_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii")
    assert single_case(tmp_path / "a.nii", Task.MRI).output_name == "a.mha"
    with pytest.raises(InputError, match="no such file"):
        single_case(tmp_path / "b.nii", Task.MRI)
    with pytest.raises(InputError, match="no such file"):
        single_case(tmp_path / "a.nii", Task.MRI, tmp_path / "b.nii")


def test_a_name_that_is_not_utf8_is_told_from_a_locale_that_is_not(tmp_path: Path) -> None:
    """With LC_ALL=C and without Python's UTF-8 mode, `grün.mha` was called no UTF-8, to be renamed."""
    program = (
        "import sys; from pathlib import Path; from sctlab_model.cases import Task\n"
        "from sctlab_model.cases.image import single_case\n"
        "for name in sorted(Path(sys.argv[1]).iterdir()): print(ascii(str(single_case(name, Task.MRI).problem)))\n"
    )
    for name in ("grün.mha".encode(), b"z\xff.mha"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, env=environment, check=True)
    green, other = ended.stdout.decode().splitlines()
    assert "gr\\xfcn.mha: a file name that ascii, the locale's encoding, has no letters for" in green
    assert "LC_ALL=C.UTF-8" in green
    assert "not UTF-8; expected another name; rename it" in other


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.mha", "a.mha"),
        ("a.nii.gz", "a.nii.gz"),
        ("a.nii", "a.mha"),
        ("x.y.mhd", "x.y.mha"),
        ("a.NII.GZ", "a.nii.gz"),
    ],
)
def test_result_names(name: str, expected: str) -> None:
    assert result_name(Path(name)) == expected


def test_links_in_a_cohort_are_followed_and_named(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "mr.mha"
    (cohort / "Task1/AB/1ABA002/mr.mha").rename(outside)
    (cohort / "Task1/AB/1ABA002/mr.mha").symlink_to(outside)
    found = find_cases(cohort)
    assert "1ABA002" in {c.id for c in found.cases}
    assert "1ABA002/mr.mha" in found.notes[0]


@pytest.mark.parametrize(("place", "count"), [("Task1", 3), ("Task1/AB", 2), ("Task1/AB/1ABA001", 1)])
def test_a_part_of_a_cohort_may_be_called_here(cohort: Path, monkeypatch, place: str, count: int) -> None:
    monkeypatch.chdir(cohort / place)
    cases = find_cases(".").cases
    assert len(cases) == count
    assert cases[0].key == CaseKey(Task.MRI, Region.AB, "1ABA001")


def test_one_bad_case_folder_is_that_case_s_problem(cohort: Path) -> None:
    touch(cohort, "Task2/HN/2HNC001/cbct.nii.gz")
    problems = {c.id: c.problem for c in find_cases(cohort).cases}
    assert "several images" in str(problems.pop("2HNC001"))
    assert set(problems.values()) == {None}


@pytest.mark.parametrize("names", [["scan.dcm"], ["series/IM0001", "series/IM0002"], ["p/s/e/IM1"]])
def test_dicom_is_called_by_its_name(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(InputError, match=r"DICOM.*dcm2niix"):
        find_cases(tmp_path, Selection(Task.MRI))
    if names == ["scan.dcm"]:
        with pytest.raises(InputError, match=r"DICOM.*dcm2niix"):
            find_cases(tmp_path / "scan.dcm", Selection(Task.MRI))


def test_what_a_flat_folder_leaves_out_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.Mha", "b_mask.mha", "c.tif", "notes.txt", "below/d.mha")
    (tmp_path / "e.mha").symlink_to(tmp_path / "nowhere")
    found = find_cases(tmp_path, Selection(Task.MRI))
    assert [c.id for c in found.cases] == ["a"]
    assert {item.where for item in found.left_out} == {"b_mask.mha", "c.tif", "below", "e.mha"}


def test_labels_and_masks_beside_images_are_left_out(tmp_path: Path) -> None:
    """They were converted as MRs. A name that only sounds like labels is no reason, nor is a file that can't be read."""
    noise = np.random.default_rng(0).normal(300, 50, (6, 20, 20)).astype(np.int16)
    box = np.zeros((6, 20, 20), np.uint8)
    box[2:5, 4:16, 4:16] = 1
    grid = Geometry((20, 20, 6), (2, 2, 3))
    for name, array in (
        ("MR.NII.GZ", noise),
        ("MR_MASK.NII.GZ", box),
        ("body-mask.mha", box),
        ("labels.nii.gz", box + box * (np.arange(20) > 10)),
        ("tumour.mha", noise),
    ):
        write_volume(Volume(array, grid), tmp_path / name.lower()).rename(tmp_path / name)
    touch(tmp_path, "seg.mha")
    found = find_cases(tmp_path, Selection(Task.MRI))
    assert [c.id for c in found.cases] == ["MR", "seg", "tumour"]
    assert found.cases[0].mask == tmp_path / "MR_MASK.NII.GZ"
    assert [str(item) for item in found.left_out] == [
        "body-mask.mha: a mask, no image; the body mask of <name>.mha is called <name>_mask.mha",
        "labels.nii.gz: 3 labels, no image",
    ]
    for path in (*tmp_path.glob("MR*"), tmp_path / "seg.mha", tmp_path / "tumour.mha"):
        path.unlink()
    with pytest.raises(InputError, match=r"labels or masks only \(body-mask\.mha, labels\.nii\.gz\)"):
        find_cases(tmp_path, Selection(Task.MRI))


def test_a_new_layout_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        name, files = "series", ()

        def read(self) -> Volume:
            return Volume(np.zeros((2, 2, 2)), Geometry((2, 2, 2)))

    module = importlib.import_module("sctlab_model.cases.layouts")  # the package has a function of that name
    monkeypatch.setattr(module, "_layouts", dict(module._layouts))

    @register
    class Marked(Layout):
        name, order = "marked", 1

        def recognises(self, root: Path) -> bool:
            return (root / "marked").exists()

        def find(self, root: Path, selection: Selection) -> CaseList:
            return CaseList((Case("a", Task.MRI, Source()),))

    touch(tmp_path, "marked")
    found = find_cases(tmp_path)
    assert found.layout == "marked"
    assert found.cases[0].read_source().array.shape == (2, 2, 2)
    assert found.cases[0].input_files == ()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("Task1/AB/loose.mha", "Task1/AB/loose.mha"),
        ("Task1/loose.nii.gz", "Task1/loose.nii.gz"),
        ("loose.MHA", "loose.MHA"),
        ("Task1/ab/1ABA009/mr.mha", "Task1/ab"),
        ("Task3/AB/3ABA001/mr.mha", "Task3"),
        ("task2/AB/2ABA001/cbct.mha", "task2"),
    ],
)
def test_what_a_cohort_leaves_out_is_named(tmp_path: Path, name: str, where: str) -> None:
    touch(tmp_path, "Task1/AB/1ABA001/mr.mha", "Task1/AB/1ABA001/mask.mha", name)
    listed = find_cases(tmp_path)
    assert [case.id for case in listed.cases] == ["1ABA001"]
    assert [one.where for one in listed.left_out] == [where]


def test_results_among_a_cohort_are_no_input(tmp_path: Path) -> None:
    touch(tmp_path, "Task1/AB/1ABA001/mr.mha", "Task1/AB/1ABA001.mha", "Task1/AB/1ABA001.record.json")
    assert not find_cases(tmp_path).left_out


def test_images_in_a_case_folder_whatever_the_capitals(tmp_path: Path) -> None:
    touch(tmp_path, "Task1/AB/1ABA001/MR.MHA", "Task1/AB/1ABA001/Mask.nii.gz")
    (case,) = find_cases(tmp_path).cases
    assert (case.source_file.name, case.mask_file and case.mask_file.name) == ("MR.MHA", "Mask.nii.gz")
    touch(tmp_path, "Task1/AB/1ABA001/mask.nii.gz")
    (case,) = find_cases(tmp_path).cases
    assert "several images named mask" in str(case.problem)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("task1/AB/1ABA001/mr.mha", "expected Task1"),
        ("data/Task1/AB/1ABA001/mr.mha", "data"),
        ("a/images/mri/x.mha", "give "),
    ],
)
def test_a_cohort_that_is_spelt_or_placed_otherwise_is_recognised(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(InputError, match=text):
        find_cases(tmp_path)
