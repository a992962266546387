"""The command line: every kind of input, and what lies in the output folder afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
from command_line_workplace import Workplace

from sctlab_model.cases import OUTPUT_FOLDER
from sctlab_model.cohort import _Run
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import CaseResult, PredictionRecord, ResultRecord, read_predictions
from sctlab_model.volume import Volume


def test_a_challenge_case(case: Workplace, cbct: Volume, outline: Volume) -> None:
    code, text = case.run("--report", case.output / "../run.json")
    assert code == 0, text
    assert "warning" not in text
    assert "cpu" in text
    assert "not for clinical use" in text
    assert case.files() == [f"{OUTPUT_FOLDER}/case-1.mha", "results.json"]

    image = sitk.ReadImage(str(case.result))
    assert image.GetPixelID() == sitk.sitkInt16
    result = read_volume(case.result)
    assert result.geometry == cbct.geometry
    assert (result.array[~outline.array] == -1024).all()
    assert result.array.min() >= -1024
    assert result.array.max() <= 3071
    assert b"CompressedData = True" in case.result.read_bytes()[:1000]

    (entry,) = json.loads((case.output / "results.json").read_text())
    assert entry["outputs"] == [{"type": "metaio_image", "filename": str(case.result)}]
    assert [i["filename"] for i in entry["inputs"]] == [
        str(case.source),
        str(case.input / "images/body/mask-1.mha"),
        str(case.input / "region.json"),
    ]
    assert entry["error_messages"] == []

    report = PredictionRecord.read(case.output / "../run.json")
    ((name, bundle),) = report.bundles.items()
    assert bundle.registration["convention"] == "aligned"
    assert len({f.weights_sha256 for f in bundle.folds}) == 2
    ((key, result),) = report.cases.items()
    assert key == "Task2/AB/case-1"
    assert result.bundle == name
    assert set(result.software.versions) >= {"torch", "numpy", "SimpleITK"}
    assert result.software.device.startswith("cpu")
    assert set(result.seconds) >= {"read", "prepare", "predict", "restore", "write", "network"}
    assert result.output_sha256 == hashlib.sha256(case.result.read_bytes()).hexdigest()

    assert case.err == ""  # the platform marks a job that writes to stderr
    # Nothing but the sCT lies in its folder, so its own header says where it comes from.
    assert image.GetMetaData("sCT_Weights") == name
    assert image.GetMetaData("sCT_SourceSHA256") == hashlib.sha256(case.source.read_bytes()).hexdigest()
    assert "not for clinical use" in image.GetMetaData("sCT_Demonstration")
    assert "case-1" not in str([image.GetMetaData(k) for k in image.GetMetaDataKeys()])


def test_uncertainty_lies_outside_the_folder_of_the_result(case: Workplace, cbct: Volume, outline: Volume) -> None:
    code, text = case.run("--uncertainty")
    assert code == 0, text
    assert case.files() == [f"{OUTPUT_FOLDER}/case-1.mha", "results.json", "uncertainty/case-1.mha"]
    spread = read_volume(case.output / "uncertainty/case-1.mha")
    assert spread.geometry == cbct.geometry
    assert (spread.array[~outline.array] == 0).all()
    assert spread.array[outline.array].mean() > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("case-1.nii.gz", "case-1.nii.gz"),
        ("case-1.nii", "case-1.mha"),
        ("case-1.nrrd", "case-1.mha"),
        ("case-1.mhd", "case-1.mha"),
    ],
)
def test_other_formats(case: Workplace, cbct: Volume, name: str, expected: str) -> None:
    source = case.source
    image = sitk.ReadImage(str(source))
    source.unlink()
    sitk.WriteImage(image, str(source.with_name(name)))
    code, text = case.run()
    assert code == 0, text
    assert case.files() == [f"{OUTPUT_FOLDER}/{expected}", "results.json"]
    assert read_volume(case.output / OUTPUT_FOLDER / expected).geometry.same_grid(cbct.geometry)


def test_a_mask_is_computed_when_there_is_none(case: Workplace, outline: Volume) -> None:
    shutil.rmtree(case.input / "images/body")
    assert case.run()[0] == 0
    assert "no body mask was given: one was computed" in case.err  # one is expected there: a warning
    inside = read_volume(case.result).array > -1024
    assert (inside & ~outline.array).sum() < 0.1 * outline.array.sum()


def test_a_cohort_keeps_going_and_tells(empty: Workplace, cbct: Volume, outline: Volume) -> None:
    root = empty.input
    for name in ("2ABA001", "2ABA002", "2THB003"):
        folder = root / f"Task2/{name[1:3]}/{name}"
        write_volume(cbct.with_array(cbct.array.astype(np.int16)), folder / "cbct.mha")
        write_volume(outline, folder / "mask.mha")
    (root / "Task2/AB/2ABA002/cbct.mha").write_bytes(b"NDims = 3\n")
    code, text = empty.run("--zip")
    assert code == 1
    assert "2ABA002" in text
    assert "ElementDataFile" in " ".join(text.split())
    assert "2 of 3 cases done, 1 failed" in text
    assert "2ABA002" in empty.err
    assert empty.files() == [
        "AB/2ABA001.mha",
        "AB/2ABA001.record.json",
        "TH/2THB003.mha",
        "TH/2THB003.record.json",
        "predictions.json",
        "predictions.zip",
    ]
    with zipfile.ZipFile(empty.output / "predictions.zip") as archive:
        assert sorted(archive.namelist()) == ["sct_2ABA001.mha", "sct_2THB003.mha"]
    (root / "Task2/AB/2ABA002/cbct.mha").write_bytes((root / "Task2/AB/2ABA001/cbct.mha").read_bytes())
    stamp = (empty.output / "AB/2ABA001.mha").stat().st_mtime_ns
    code, text = empty.run("--skip-existing")
    assert code == 0
    assert (empty.output / "AB/2ABA001.mha").stat().st_mtime_ns == stamp
    assert (empty.output / "AB/2ABA002.mha").is_file()


def test_a_resumed_folder_keeps_the_record_of_what_was_there(
    empty: Workplace, cbct: Volume, outline: Volume, make_bundle
) -> None:
    for name in ("2ABA001", "2ABA002"):
        folder = empty.input / f"Task2/AB/{name}"
        write_volume(cbct.with_array(cbct.array.astype(np.int16)), folder / "cbct.mha")
        write_volume(outline, folder / "mask.mha")
    assert empty.run()[0] == 0
    first = read_predictions(empty.output)
    (empty.output / "AB/2ABA002.mha").unlink()
    for _ in range(2):  # one case anew, then none
        code, text = empty.run("--skip-existing")
        assert code == 0
        record = read_predictions(empty.output)
        assert record.bundles == first.bundles
        assert {k: r.folds for k, r in record.cases.items()} == {k: r.folds for k, r in first.cases.items()}
        assert "was there already: skipped" in " ".join(text.split())
    (empty.output / "AB/2ABA001.mha").unlink()  # made again, and interrupted before the other one's turn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Run, "_attempt", lambda *_: CaseResult(state="failed", error="broken"))
        patch.setattr(_Run, "_skipped", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert empty.run("--skip-existing")[0] == 130
    record = read_predictions(empty.output)
    assert record.cases["Task2/AB/2ABA002"].folds == first.cases["Task2/AB/2ABA002"].folds != []
    files = empty.files()
    empty.bundle = make_bundle(folds=1)
    code, text = empty.run("--skip-existing")
    assert code == 2
    assert "other weights" in text
    assert empty.files() == files


def test_weights_that_a_cohort_lacks_are_missed_before_its_first_case(
    empty: Workplace, cbct: Volume, outline: Volume
) -> None:
    for folder, name in (("Task2/AB/2ABA001", "cbct"), ("Task1/AB/1ABA001", "mr")):
        write_volume(cbct.with_array(cbct.array.astype(np.int16)), empty.input / folder / f"{name}.mha")
    empty.refused("task mri", code=3)


@pytest.mark.parametrize("kind", ["image", "folder"])
def test_results_never_replace_their_input(empty: Workplace, cbct: Volume, outline: Volume, kind: str) -> None:
    path = empty.input / "scan.mha"
    write_volume(cbct.with_array(cbct.array.astype(np.int16)), path)
    write_volume(outline, empty.input / "scan_mask.mha")
    before = path.read_bytes()
    empty.output = empty.input
    code, text = empty.run("--task", "cbct", "--region", "AB", given=path if kind == "image" else empty.input)
    assert code == 2
    assert "scan.mha: the result would replace this input image" in " ".join(text.split())
    assert path.read_bytes() == before
    assert empty.files() == ["scan.mha", "scan_mask.mha"]


def test_a_device_that_is_not_there_is_no_case_s_fault(empty: Workplace, cbct: Volume) -> None:
    for name in ("anna", "bert"):
        write_volume(cbct.with_array(cbct.array.astype(np.int16)), empty.input / f"{name}.mha")
    empty.refused("--device", options=("--task", "cbct", "--device", "cuda:63"))


def test_a_flat_folder(empty: Workplace, cbct: Volume, outline: Volume) -> None:
    for name in ("anna", "bert"):
        write_volume(cbct.with_array(cbct.array.astype(np.int16)), empty.input / f"{name}.nii.gz")
    write_volume(outline, empty.input / "anna_mask.mha")
    (empty.input / "anna.json").write_text('"Thorax"')
    code, text = empty.run("--task", "cbct")
    assert code == 0, text
    assert [n for n in empty.files() if "record" not in n] == ["anna.nii.gz", "bert.nii.gz", "predictions.json"]
    assert "no body mask was given" in " ".join(text.split())


def test_a_single_image(case: Workplace, cbct: Volume) -> None:
    code, text = case.run("--task", "cbct", "--mask", case.input / "images/body/mask-1.mha", given=case.source)
    assert code == 0, text
    assert case.files() == ["case-1.mha", "case-1.record.json"]
    record = (case.output / "case-1.record.json").read_text()
    assert str(case.input) not in record  # no paths
    written = ResultRecord.read(case.output / "case-1.record.json")
    assert written.demonstration
    assert written.result.limits == "absolute"  # the bundle has no statistics of its validation, and that is said
    assert "absolute limits only" in text
    code, text = case.run("--task", "CBCT", given=case.source)  # as people have it, without a mask
    assert code == 0, text
    assert "note: no body mask was given: one was computed" in case.out
    assert case.err == ""
