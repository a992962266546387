"""A case on disk keeps its promises."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.cli import app
from sctlab.simulation.case import simulate_case, streams
from sctlab.simulation.settings import case_id
from sctlab_model.cases import Region, Task, find_cohort
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import AIR_HU, resample

from .conftest import SMALL


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_layout_is_the_contract(small_case):
    names = set(files(small_case))
    truth = {
        "ct_aligned.mha",
        "labels_source.mha",
        "labels_ct.mha",
        "deformation.h5",
        "content_changed.mha",
        "truth.json",
    }
    assert {"mr.mha", "ct.mha", "mask.mha", "labels.mha", "overview.png", *(f"truth/{t}" for t in truth)} == names
    (case,) = find_cohort(small_case.parents[2])
    assert (case.id, case.task, case.region) == ("1ABS001", Task.MRI, Region.AB)
    for name in ("mr.mha", "ct.mha", "truth/ct_aligned.mha"):
        assert read_volume(small_case / name).array.dtype == np.int16


def test_the_transform_carries_the_ct_onto_the_truth(small_case):
    """Where content did not change, the moved CT is the aligned truth but for interpolation."""
    ct, aligned = read_volume(small_case / "ct.mha"), read_volume(small_case / "truth/ct_aligned.mha")
    changed = read_volume(small_case / "truth/content_changed.mha").array > 0
    mask = read_volume(small_case / "mask.mha").array > 0
    transform = sitk.ReadTransform(str(small_case / "truth/deformation.h5"))
    moved = resample(ct, aligned.geometry, outside=AIR_HU, transform=transform)
    use = mask & ~changed & (moved.array > AIR_HU)
    use[[0, 1, -2, -1]] = False
    error = moved.array[use].astype(float) - aligned.array[use]
    unmoved = resample(ct, aligned.geometry, outside=AIR_HU).array[use].astype(float) - aligned.array[use]
    assert abs(error.mean()) < 4
    assert np.abs(error).mean() < 0.45 * np.abs(unmoved).mean()
    # away from edges there is nothing to interpolate
    gradient = np.linalg.norm(np.gradient(aligned.array.astype(float)), axis=0)[use]
    assert np.abs(error)[gradient < np.percentile(gradient, 40)].mean() < 12


def test_labels_follow_the_same_transform(small_case):
    labels = read_volume(small_case / "truth/labels_ct.mha")
    expected = read_volume(small_case / "truth/labels_source.mha")
    transform = sitk.ReadTransform(str(small_case / "truth/deformation.h5"))
    moved = resample(labels, expected.geometry, interpolation="nearest", transform=transform).array
    inner = np.s_[2:-2]
    both = (moved[inner] > 0) | (expected.array[inner] > 0)
    assert np.mean(moved[inner][both] == expected.array[inner][both]) > 0.7
    assert read_volume(small_case / "labels.mha").geometry.same_grid(read_volume(small_case / "ct.mha").geometry)


def test_truth_states_direction_amplitude_and_phase(small_case):
    truth = json.loads((small_case / "truth/truth.json").read_text())
    assert "points of the source grid to points of ct.mha" in truth["direction"]
    assert truth["motion"]["amplitude_mm"] > 0
    assert truth["motion"]["smallest_jacobian"] > 0
    assert "exhal" in truth["breathing_phase"]


def test_zero_amplitude_aligns_perfectly(tmp_path):
    folder = tmp_path / "1ABS001"
    simulate_case(folder, Task.MRI, Region.AB, 0, SMALL.model_copy(update={"amplitude_mm": 0.0}))
    ct, aligned = read_volume(folder / "ct.mha"), read_volume(folder / "truth/ct_aligned.mha")
    assert ct.geometry.same_grid(aligned.geometry)
    assert np.array_equal(ct.array, aligned.array)
    assert not read_volume(folder / "truth/content_changed.mha").array.any()


def test_random_numbers_depend_on_the_case_alone():
    first = streams(1, Task.MRI, Region.AB, 3)["motion"].random()
    assert first == streams(1, Task.MRI, Region.AB, 3)["motion"].random()
    others = [
        streams(*k)["motion"].random()
        for k in (
            (2, Task.MRI, Region.AB, 3),
            (1, Task.CBCT, Region.AB, 3),
            (1, Task.MRI, Region.TH, 3),
            (1, Task.MRI, Region.AB, 4),
        )
    ]
    assert len({first, *others}) == 5
    assert case_id(Task.CBCT, Region.HN, 11) == "2HNS012"


ARGUMENTS = ["--regions", "HN", "--cases", "3", "--seed", "3", "--spacing", "6,6,8", "--size", "50,50,24"]


def run(*arguments) -> int:
    return app.main(["simulate", *map(str, arguments)], standalone_mode=False)


@pytest.mark.heavy
@pytest.mark.parametrize("task", list(Task))
def test_a_seed_gives_identical_bytes_on_any_number_of_jobs(tmp_path, task):
    run(tmp_path / "one", "--task", task, *ARGUMENTS, "--jobs", 1)
    run(tmp_path / "four", "--task", task, *ARGUMENTS, "--jobs", 4)
    one, four = files(tmp_path / "one"), files(tmp_path / "four")
    assert len(one) == 33
    assert one.keys() == four.keys()
    # HDF5 stamps the time of writing into its headers: the transform is compared by its numbers
    assert [n for n in one if one[n] != four[n] and not n.endswith(".h5")] == []
    for name in (n for n in one if n.endswith(".h5")):
        a, b = (
            sitk.DisplacementFieldTransform(sitk.ReadTransform(str(tmp_path / side / name))).GetDisplacementField()
            for side in ("one", "four")
        )
        assert np.array_equal(sitk.GetArrayFromImage(a), sitk.GetArrayFromImage(b))


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    arguments = ["--task", "mri", "--regions", "HN", "--spacing", "8,8,10", "--size", "36,36,16"]
    assert run(tmp_path, *arguments, "--cases", 1) == 0
    first = tmp_path / "Task1/HN/1HNS001"
    before = {n: (first / n).stat().st_mtime_ns for n in ("mr.mha", "ct.mha")}
    (tmp_path / "Task1/HN/.1HNS002.0123abcd.part").mkdir()  # what a killed run leaves
    assert run(tmp_path, *arguments, "--cases", 2) == 0
    assert before == {n: (first / n).stat().st_mtime_ns for n in before}
    assert sorted(p.name for p in (tmp_path / "Task1/HN").iterdir()) == ["1HNS001", "1HNS002"]
    from sctlab_model.errors import InputError

    with pytest.raises(InputError, match="a case made with"):
        run(tmp_path, *arguments, "--cases", 1, "--seed", 5)


@pytest.mark.parametrize(
    ("option", "value"), [("--regions", "XX"), ("--spacing", "1,1"), ("--spacing", "0,1,1"), ("--size", "a")]
)
def test_bad_options_are_named(tmp_path, option, value):
    from sctlab_model.errors import InputError

    with pytest.raises(InputError, match=option):
        run(tmp_path, option, value)
