"""The command line: cohorts, single pairs, applying, reports; local processes and Ray; and what it says about mistakes."""

import json
import os
import re

import numpy as np
import pytest

from sctlab.cli import main
from sctlab.registration import case as case_module
from sctlab.registration import cohort as cohort_module
from sctlab.registration.methods import MethodResult
from sctlab.registration.report import write_report
from sctlab.transforms.elastix_writing import write_elastix
from sctlab.transforms.itk_files import write_itk
from sctlab.workflow.outcomes import Outcome
from sctlab_model.cases import Task, read_json
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["--debug", "register", *map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture
def truth_as_method(monkeypatch, cbct_sample, mr_sample):
    def method(pair, settings):
        return MethodResult((mr_sample if pair.task == "mri" else cbct_sample).truth)

    monkeypatch.setattr(case_module, "register_pair", method)


def test_cohort_goes_on_past_a_failure_and_ends_with_one(cohort, tmp_path, truth_as_method, capfd):
    out = tmp_path / "out"
    assert run(cohort, out, "--method", "impact") == 1
    output, error = capfd.readouterr()
    assert "impact on cpu" in output
    assert "3 cases" in output
    assert "1 of 3 cases failed" in error
    assert "2THA002" in error
    for folder in ("Task1/AB/1ABA001", "Task2/TH/2THA001"):
        assert (out / "impact" / folder / "pair.json").is_file()
    failure = read_json(out / "impact/Task2/TH/2THA002/failure.json")
    assert "every voxel is 0" in failure["error"]
    assert "2THA002" in read_json(out / "impact/exclusions.json")["exclude"]
    page = (out / "impact/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r"(src|href)='(?!data:|#)", page)  # nothing is loaded from elsewhere

    assert run(cohort, out, "--method", "impact", "--task", "mri") == 0
    assert "1 of 1 cases were finished before" in capfd.readouterr().out
    (out / "impact/report.html").unlink()
    assert run("report", out / "impact") == 0
    assert (out / "impact/report.html").is_file()

    # what training and evaluation look for in it
    from sctlab.cohort.exclusions import read_exclusions
    from sctlab.cohort.pairs import find_pairs

    pairs, left_out = [], {}
    for task in Task:
        found, lacking = find_pairs(out / "impact", task)
        left_out |= lacking
        pairs += found
    assert set(left_out) == {"Task2/TH/2THA002"}  # its registration failed
    assert {p.id for p in pairs} == {"1ABA001", "2THA001"}
    assert all(dict(p.registration) == {"method": "impact", "convention": "ct_to_source"} for p in pairs)
    assert all(p.field_of_view is not None for p in pairs)
    assert "2THA002" in read_exclusions(out / "impact/exclusions.json")


@pytest.fixture
def small_cohort(tmp_path, samples, cbct_sample):
    """A sound case; one with two CTs, one without a CT, one without a source; and a folder that is no case."""
    root = tmp_path / "small"
    samples[1](cbct_sample, root / "Task2/TH/2THA001")
    (root / "Task2/TH/overviews").mkdir()
    for name, images in (
        ("2THA002", ("cbct.mha", "ct.mha", "ct.nii.gz")),
        ("2THA003", ("cbct.mha",)),
        ("2THA004", ("ct.mha",)),
    ):
        for image in images:
            write_volume(cbct_sample.ct, root / "Task2/TH" / name / image)
    return root


def test_what_a_case_lacks_is_its_own_failure(small_cohort, tmp_path, truth_as_method, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "out/impact/Task2/TH/2THA003/thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("years of work")
    left = tmp_path / "out/impact/.partial-2THA001-0123"  # of a run that was killed
    left.mkdir()
    os.utime(left, (0, 0))
    assert run("small", "out") == 1
    error = capfd.readouterr().err
    assert "3 of 4 cases failed" in error
    results = tmp_path / "out/impact/Task2/TH"
    assert (results / "2THA001/pair.json").is_file()
    assert "several images named ct" in read_json(results / "2THA002/failure.json")["error"]
    assert [p.name for p in foreign.parent.iterdir()] == ["thesis.txt"]
    assert "a folder with other files" in error
    assert "no CBCT" in read_json(results / "2THA004/failure.json")["error"]
    assert set(read_json(results.parents[1] / "exclusions.json")["exclude"]) >= {"2THA002", "2THA004"}
    assert not list(results.parents[1].glob(".*"))
    assert run("small", "out", "--cases", 1) == 0


def test_a_case_whose_worker_died_is_recorded(cohort, tmp_path, truth_as_method, monkeypatch):
    out = tmp_path / "out"
    run(cohort, out, "--task", "mri")

    def dying(function, work, **options):
        return tuple(Outcome(name, error="worker ended", broken=True) for name, _ in work)

    monkeypatch.setattr(cohort_module, "run_cases", dying)
    assert run(cohort, out, "--seed", 1) == 1
    for folder in ("Task1/AB/1ABA001", "Task2/TH/2THA001", "Task2/TH/2THA002"):
        assert [p.name for p in (out / "impact" / folder).iterdir()] == ["failure.json"]
        assert read_json(out / "impact" / folder / "failure.json")["error"] == "worker ended"


def test_registered_pairs_are_not_registered_over_themselves(small_cohort, tmp_path, truth_as_method, capfd):
    run(small_cohort, tmp_path, "--cases", 1)
    before = sorted(p for p in (tmp_path / "impact/Task2").rglob("*"))
    assert run(tmp_path / "impact/Task2", tmp_path) == 2
    assert "the case's own" in capfd.readouterr().err
    assert sorted(p for p in (tmp_path / "impact/Task2").rglob("*")) == before


def test_one_pair(cohort, tmp_path, truth_as_method, capfd):
    case = cohort / "Task2/TH/2THA001"
    out = tmp_path / "pair"
    arguments = (out, "--fixed", case / "cbct.mha", "--moving", case / "ct.mha", "--fixed-mask", case / "mask.mha",
                 "--moving-labels", case / "labels.mha", "--fixed-labels", case / "truth/labels_source.mha")  # fmt: skip
    assert run(*arguments) == 0
    told = capfd.readouterr()
    text = told.out
    assert "task cbct" in text  # found out from the values
    assert "NMI" in text
    assert read_json(out / "quality.json")["verdict"] in ("trusted", "doubtful")
    assert "90 % interval" in told.out + told.err
    assert run("report", out) == 0
    assert (out / "report.html").read_text(encoding="utf-8").count("<figure id=") == 1
    assert read_json(out / "exclusions.json")["cases"] == 1
    assert read_json(out / "quality.json")["overlap"]["after"]["label_dice"]["mean"] > 0.97
    assert run(*arguments) == 0
    assert "already registered" in capfd.readouterr().out


@pytest.mark.parametrize("wrong", ["turned by 90°", "moved by 40 mm"])
def test_one_pair_that_failed_ends_with_one_says_why_and_stays_failed(wrong, cohort, tmp_path, truth_as_method, capfd):
    """A header that the registration did not put right: its transform is that of the right one."""
    case = cohort / "Task2/TH/2THA001"
    image = read_volume(case / "ct.mha")
    grid = image.geometry
    shift, turn = np.array([32.0, 24.0, 0.0]), np.eye(3)
    if wrong == "turned by 90°":
        shift, turn = np.zeros(3), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    centre = np.array(grid.centre_xyz)
    origin = centre + turn @ (np.array(grid.origin_xyz) - centre) + shift
    moved = Geometry(grid.size_xyz, grid.spacing_xyz, tuple(origin), tuple((turn @ grid.axes).ravel()))
    write_volume(Volume(image.array, moved), tmp_path / "ct.mha")
    arguments = (
        tmp_path / "out",
        "--fixed",
        case / "cbct.mha",
        "--moving",
        tmp_path / "ct.mha",
        "--fixed-mask",
        case / "mask.mha",
    )
    assert run(*arguments) == 1
    told = capfd.readouterr().err
    quality = read_json(tmp_path / "out/quality.json")
    assert quality["verdict"] == quality["judgement"]["verdict"] == "failed"
    assert quality["reasons"]
    assert all(reason in " ".join(told.split()) for reason in quality["reasons"])
    assert run(*arguments) == 1  # it is finished, and still wrong
    assert run("report", tmp_path / "out") == 0
    assert len(read_json(tmp_path / "out/exclusions.json")["exclude"]) == 1


MISTAKES = {
    "nothing": ((), 2),
    "no cohort": (("{out}/none", "{out}"), 2),
    "not a cohort": (("{out}", "{out}/o"), 2),
    "one folder": (("{cohort}",), 2),
    "out is the cohort": (("{cohort}", "{cohort}"), 2),
    "unknown method": (("{cohort}", "{out}/o", "--method", "magic"), 2),
    "unknown preset": (("{cohort}", "{out}/o", "--preset", "magic"), 2),
    "preset of another method": (("{cohort}", "{out}/o", "--method", "mi", "--preset", "mind"), 2),
    "unknown device": (("{cohort}", "{out}/o", "--device", "tpu"), 2),
    "no such gpu": (("{cohort}", "{out}/o", "--device", "cuda:7"), 2),
    "unknown executor": (("{cohort}", "{out}/o", "--executor", "slurm"), 2),
    "fixed without moving": (("{out}/o", "--fixed", "{cohort}/Task2/TH/2THA001/ct.mha"), 2),
    "missing image": (("{out}/o", "--fixed", "{out}/none.mha", "--moving", "{out}/none.mha"), 2),
    "mask with a cohort": (("{cohort}", "{out}/o", "--fixed-mask", "{out}/m.mha"), 2),
    "no report": (("report", "{out}"), 2),
    "no transform": (("apply", "{out}/t.txt", "{cohort}/Task2/TH/2THA001/ct.mha", "{out}/r.mha"), 2),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "code"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_end_with_code_two_and_one_line(cohort, tmp_path, arguments, code, capfd):
    assert run(*[a.format(out=tmp_path, cohort=cohort) for a in arguments]) in ((0, code) if not arguments else (code,))
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_apply_transform_to_image_labels_and_points(cohort, tmp_path, cbct_sample, capfd):
    case = cohort / "Task2/TH/2THA001"
    text = write_elastix(cbct_sample.truth, tmp_path / "chain", cbct_sample.source.geometry, default_value=-1000)[-1]
    composite = write_itk(cbct_sample.truth, tmp_path / "t.h5")
    assert run("apply", text, case / "ct.mha", tmp_path / "a.nii.gz") == 0
    assert "-1000 elsewhere" in capfd.readouterr().out
    assert run("apply", composite, case / "ct.mha", tmp_path / "b.mha", "--like", case / "cbct.mha") == 0
    a, b = read_volume(tmp_path / "a.nii.gz"), read_volume(tmp_path / "b.mha")
    inside = b.array > -1000
    assert np.abs(a.array[inside].astype(int) - b.array[inside]).max() <= 1
    assert a.geometry.same_grid(cbct_sample.source.geometry)

    assert run("apply", text, case / "labels.mha", tmp_path / "l.mha", "--labels") == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "l.mha").array, cbct_sample.source_labels.array)

    (tmp_path / "p.csv").write_text("x,y,z\n10,5,-3\n-20,0,8\n")
    assert run("apply", composite, tmp_path / "p.csv", tmp_path / "q.csv") == 0
    moved = np.loadtxt(tmp_path / "q.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(moved, cbct_sample.truth(np.array([[10, 5, -3], [-20, 0, 8.0]])), atol=1e-5)
    assert run("apply", composite, tmp_path / "q.csv", tmp_path / "r.csv", "--inverse", "--like", case / "ct.mha") == 0
    np.testing.assert_allclose(
        np.loadtxt(tmp_path / "r.csv", delimiter=",", skiprows=1), [[10, 5, -3], [-20, 0, 8]], atol=0.2
    )


def test_apply_takes_the_exact_grid_for_a_rounded_header(cohort, tmp_path, cbct_sample):
    case = cohort / "Task2/TH/2THA001"
    path = write_elastix(cbct_sample.truth, tmp_path, cbct_sample.source.geometry)[-1]
    path.write_text(re.sub(r"\(Origin [^)]*\)", "(Origin -88.0000076 -72.0000038 -47.9999962)", path.read_text()))
    assert run("apply", path, case / "ct.mha", tmp_path / "r.mha", "--like", case / "cbct.mha") == 0
    assert read_volume(tmp_path / "r.mha").geometry == cbct_sample.source.geometry


@pytest.mark.parametrize(
    "damage", ["cut", "itk without a grid", "beside the image", "bad points", "unknown interpolation"]
)
def test_apply_writes_nothing_when_refused(cohort, tmp_path, cbct_sample, damage, capfd):
    ct = cohort / "Task2/TH/2THA001/ct.mha"
    out = tmp_path / "out.mha"
    path = write_elastix(cbct_sample.truth, tmp_path / "chain", cbct_sample.source.geometry)[-1]
    more: tuple = ()
    if damage == "cut":
        path.write_text(path.read_text()[:-700])
    elif damage == "itk without a grid":
        path = write_itk(cbct_sample.truth, tmp_path / "t.tfm")
    elif damage == "beside the image":
        from dataclasses import replace

        far = replace(cbct_sample.ct.geometry, origin_xyz=(9000, 0, 0))
        ct = write_volume(replace(cbct_sample.ct, geometry=far), tmp_path / "far.mha")
    elif damage == "bad points":
        ct = tmp_path / "p.csv"
        ct.write_text("1,2,3\n4,5\n")
    else:
        more = ("--interpolation", "sinc")
    assert run("apply", path, ct, out, *more) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert not out.exists()


@pytest.mark.heavy
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_two_workers_run_the_real_rigid_method(tmp_path, samples, executor, monkeypatch):
    """The truth is a rigid motion: both workers find it, and a broken case between them stops neither."""
    if executor == "ray":
        pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_sample, write_sample, _ = samples
    root = tmp_path / "cohort"
    for number in range(2):
        sample = make_sample(amplitude_mm=0.01, shift_mm=6.0, seed=number, size_xyz=(44, 36, 28))
        write_sample(sample, root / f"Task2/TH/2THA00{number}")
    write_sample(sample, root / "Task2/TH/2THA009")
    write_volume(sample.mask.with_array(np.zeros_like(sample.mask.array)), root / "Task2/TH/2THA009/mask.mha")
    assert run(root, tmp_path / "out", "--method", "rigid", "--jobs", 2, "--executor", executor) == 1
    for number in range(2):
        quality = json.loads((tmp_path / f"out/rigid/Task2/TH/2THA00{number}/quality.json").read_text())
        assert quality["truth"]["tre_mm"]["body"]["mean"] < 2.0
    assert "empty mask" in read_json(tmp_path / "out/rigid/Task2/TH/2THA009/failure.json")["error"]
    assert set(write_report(tmp_path / "out/rigid")) >= {"2THA009"}
