"""The command line: every kind of input, every refusal, and what lies in the output folder afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import process
from sctlab_model.cases import OUTPUT_FOLDER
from sctlab_model.cohort import _Run
from sctlab_model.errors import ExitCode
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import CaseResult, PredictionRecord, ResultRecord, read_predictions
from sctlab_model.volume import Geometry, Volume


class Workplace:
    """A Grand Challenge input folder that a test can spoil, and an output folder."""

    def __init__(self, root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.input, self.output, self.bundle, self.capsys = root / "input", root / "output", bundle, capsys

    def fill(self, source: Volume, mask: Volume | None, folder: str = "cbct", region: object = "Abdomen") -> Workplace:
        write_volume(source.with_array(source.array.astype(np.int16)), self.input / f"images/{folder}/case-1.mha")
        if mask is not None:
            write_volume(mask, self.input / "images/body/mask-1.mha")
        if region is not None:
            (self.input / "region.json").write_text(json.dumps(region))
        return self

    @property
    def source(self) -> Path:
        return next(self.input.glob("images/*/case-1.*"))

    @property
    def result(self) -> Path:
        return self.output / OUTPUT_FOLDER / "case-1.mha"

    def run(self, *options: object, given: object = None) -> tuple[int, str]:
        """Exit code and everything that was printed; `err` and `out` keep the two streams apart."""
        self.capsys.readouterr()
        code = process.main(
            [
                "--input",
                str(given or self.input),
                "--output",
                str(self.output),
                "--weights",
                str(self.bundle),
                "--device",
                "cpu",
                *map(str, options),
            ]
        )
        self.out, self.err = self.capsys.readouterr()
        return code, self.out + self.err

    def files(self) -> list[str]:
        """Every file in the output folder, hidden ones included."""
        return sorted(str(p.relative_to(self.output)) for p in self.output.rglob("*") if p.is_file())

    def refused(self, *words: str, code: int = 2, options: tuple[object, ...] = (), given: object = None) -> None:
        """The run fails with one line that holds `words`, and leaves nothing."""
        found, text = self.run(*options, given=given)
        assert found == code, text
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert self.err.rstrip().splitlines()[-1] == errors[0]
        for word in words:
            assert word in errors[0]
        assert self.files() == []


@pytest.fixture
def case(
    tmp_path: Path, cbct_bundle: Path, cbct: Volume, outline: Volume, capsys: pytest.CaptureFixture[str]
) -> Workplace:
    """A good CBCT case."""
    return Workplace(tmp_path, cbct_bundle, capsys).fill(cbct, outline)


@pytest.fixture
def empty(tmp_path: Path, cbct_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Workplace:
    """Folders to be filled."""
    place = Workplace(tmp_path, cbct_bundle, capsys)
    place.input.mkdir()
    return place


# --- good input --------------------------------------------------------------------------------------------------------


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
    code, text = case.run()
    assert code == 0
    assert "no body mask was given: one was computed" in text
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


# --- refusals ----------------------------------------------------------------------------------------------------------


def spoil_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_header(path: Path) -> None:
    path.write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 9999999 9999999 9999999\nElementType = MET_DOUBLE\nElementDataFile = LOCAL\n"
    )


def spoil_dimension(path: Path) -> None:
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkInt16), str(path))


def spoil_colour(path: Path) -> None:
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(path))


def spoil_constant(path: Path) -> None:
    sitk.WriteImage(sitk.Image([60, 48, 10], sitk.sitkInt16), str(path))


def spoil_nan(path: Path) -> None:
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    image[3, 3, 3] = float("nan")
    image[3, 3, 4] = float("-inf")
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (spoil_truncated, "truncated"),
        (spoil_header, "voxels"),
        (spoil_dimension, "3 dimensions"),
        (spoil_colour, "colour"),
        (spoil_constant, "every voxel is 0"),
        (spoil_nan, "2 voxels are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("which", ["source", "mask"])
def test_a_bad_file_is_refused(case: Workplace, spoil: Callable[[Path], None], word: str, which: str) -> None:
    path = case.source if which == "source" else case.input / "images/body/mask-1.mha"
    spoil(path)
    if which == "mask" and spoil is spoil_constant:
        word = "empty mask"
    case.refused(path.name, word)


def test_no_image(case: Workplace) -> None:
    case.source.unlink()
    case.refused("0 source images", "images/mri", "images/cbct", "mask-1.mha")


def test_several_images(case: Workplace) -> None:
    (case.input / "images/mri").mkdir()
    shutil.copy(case.source, case.input / "images/mri/other.mha")
    case.refused("2 source images", "other.mha", "case-1.mha")


def test_several_masks(case: Workplace) -> None:
    shutil.copy(case.input / "images/body/mask-1.mha", case.input / "images/body/mask-2.mha")
    case.refused("2 masks", "mask-1.mha", "mask-2.mha")


def test_no_region(case: Workplace) -> None:
    (case.input / "region.json").unlink()
    case.refused("region.json", "no such file", "Head and Neck", "case-1.mha")


@pytest.mark.parametrize("value", ['"Knee"', "3", "[", '{"a": "Abdomen"}', "null", ""])
def test_unknown_region(case: Workplace, value: str) -> None:
    (case.input / "region.json").write_text(value)
    case.refused("region.json")


def test_a_task_that_the_weights_do_not_serve(case: Workplace) -> None:
    (case.input / "images/cbct").rename(case.input / "images/mri")
    case.refused("task mri", "tiny-cbct (cbct)", code=3)


def test_a_region_that_the_weights_do_not_serve(case: Workplace, make_bundle) -> None:
    from sctlab_model.cases import Region

    case.bundle = make_bundle(groups=((Region.HN,), (Region.TH,)), folds=1)
    case.refused("region AB", "HN, TH")
    case.refused("no region", "HN, TH", options=("--task", "cbct"), given=case.source)


def test_missing_weights(case: Workplace, tmp_path: Path) -> None:
    case.bundle = tmp_path / "nowhere"
    case.refused("nowhere", "no weights bundle", code=3)


def test_altered_weights(case: Workplace, make_bundle) -> None:
    case.bundle = make_bundle(folds=1)
    (weights,) = case.bundle.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    from hashlib import sha256

    expected = json.loads((case.bundle / "bundle.json").read_text())["groups"][0]["folds"][0]["weights"]["sha256"]
    case.refused(weights.name, expected, sha256(data).hexdigest(), code=3)


def test_a_case_that_every_fold_was_trained_on(case: Workplace, make_bundle) -> None:
    case.bundle = make_bundle(training_cases=(("case-1",), ("case-1", "b")))
    case.refused("case-1", "trained on this case", code=3)


def test_a_case_that_one_fold_was_trained_on(case: Workplace, make_bundle) -> None:
    case.bundle = make_bundle(training_cases=(("case-1",), ("b",)))
    code, text = case.run()
    assert code == 0
    assert "only folds [1] were used" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mask", "x.mha"), ("--mask",)),
        (("--device", "tpu"), ("--device", "tpu")),
        (("--device", "cuda:7"), ("--device", "cuda:7")),
    ],
)
def test_options_that_make_no_sense(case: Workplace, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    case.refused(*words, options=options)


@pytest.mark.parametrize("options", [["--batch", "0"], ["--task", "pet"], ["--region", "Knee"], ["--nonsense"]])
def test_usage_errors(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        process.main(options)
    assert caught.value.code == 2


def test_inputs_that_are_not_there(case: Workplace, tmp_path: Path) -> None:
    case.refused("absent", "no such file", given=tmp_path / "absent")
    case.refused("--task", "mri or cbct", given=case.source)
    (tmp_path / "hollow").mkdir()
    case.refused("--task", given=tmp_path / "hollow")
    case.refused("no image", given=tmp_path / "hollow", options=("--task", "cbct"))


# --- masks ---------------------------------------------------------------------------------------------------------------


def put_mask(case: Workplace, mask: Volume) -> None:
    write_volume(mask, case.input / "images/body/mask-1.mha")


def test_a_mask_of_another_size_is_resampled(case: Workplace, outline: Volume) -> None:
    put_mask(
        case,
        Volume(outline.array[:, ::2, ::2], replace(outline.geometry, size_xyz=(30, 24, 10), spacing_xyz=(12, 12, 6))),
    )
    code, text = case.run()
    assert code == 0, text
    assert "was resampled" in text
    assert "30x24x10" in text


def test_a_mask_elsewhere_is_refused(case: Workplace, outline: Volume) -> None:
    put_mask(case, Volume(outline.array, replace(outline.geometry, origin_xyz=(5000, 0, 0))))
    case.refused("mask-1.mha", "doesn't overlap")


def test_a_shifted_mask_is_told(case: Workplace, outline: Volume) -> None:
    put_mask(case, outline.with_array(np.roll(outline.array, 8, axis=2)))  # 48 of 300 mm
    code, text = case.run()
    assert code == 0
    assert "% of the body" in text


def test_a_flipped_mask_is_told(case: Workplace, outline: Volume) -> None:
    put_mask(case, outline.with_array(outline.array[:, ::-1]))
    code, text = case.run()
    assert code == 0
    assert "% of the body" in text


# --- values and geometry -------------------------------------------------------------------------------------------------


def test_a_cbct_far_from_hu_is_told(case: Workplace, cbct: Volume) -> None:
    write_volume(cbct.with_array((cbct.array + 1024).clip(0).astype(np.int16)), case.source)
    code, text = case.run()
    assert code == 0, text
    assert "VALUES LOOK LIKE HU + 1" in case.err
    assert "mask" not in case.err  # the mask has nothing to do with it
    code, text = case.run("--correct-offset")
    assert code == 0, text
    assert "VALUES LOOK LIKE" not in text
    assert "was subtracted" in case.err


def test_an_mr_with_negative_values_is_told(
    tmp_path: Path, mr_bundle: Path, cbct: Volume, mr: Volume, outline: Volume, capsys
) -> None:
    case = Workplace(tmp_path, mr_bundle, capsys).fill(cbct, outline, folder="mri")
    code, text = case.run()
    assert code == 0, text
    assert "unlike an MR" in text
    shutil.rmtree(case.input)
    code, text = case.fill(mr, outline, folder="mri").run()
    assert code == 0, text
    assert "warning" not in text


@pytest.mark.parametrize("angles", [(0, 0, 180), (90, 0, 0), (5, 3, -4), (40, 20, 30)])
def test_any_orientation_comes_back_on_its_own_grid(
    case: Workplace, cbct: Volume, outline: Volume, angles: tuple
) -> None:
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    grid = replace(cbct.geometry, direction=tuple(matrix.ravel()), origin_xyz=(-100, 30, 7.5), spacing_xyz=(6, 5, 4))
    write_volume(Volume(cbct.array.astype(np.int16), grid), case.source)
    put_mask(case, Volume(outline.array, grid))
    code, text = case.run()
    assert code == 0, text
    result = read_volume(case.result)
    assert result.geometry.same_grid(grid)
    assert (result.array[~outline.array] == -1024).all()


@pytest.mark.parametrize("size", [(60, 48, 1), (7, 5, 2), (1, 1, 1), (33, 2, 9)])
def test_small_volumes(case: Workplace, size: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(-900, 900, size[::-1]).astype(np.int16)
    volume = Volume(array, Geometry(size, (6, 6, 6)))
    write_volume(volume, case.source)
    put_mask(case, volume.with_array(np.ones(size[::-1], bool)))
    if size == (1, 1, 1):
        case.refused("every voxel is")
        return
    code, text = case.run()
    assert code == 0, text
    assert read_volume(case.result).geometry == volume.geometry


# --- failures while writing -----------------------------------------------------------------------------------------------


def test_an_output_that_cannot_be_written(case: Workplace) -> None:
    case.output.mkdir()
    (case.output / "images").write_text("a file where a folder belongs")
    code, text = case.run()
    assert code == 2
    assert "can't be written" in text
    assert case.files() == ["images"]


def test_an_internal_error_is_one_line(case: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sctlab_model.case_input.check_source", broken)
    case.refused("internal error: ZeroDivisionError: a bug", "--debug", code=4)
    code, text = case.run("--debug")
    assert code == 4
    assert "Traceback" in text


def test_a_damaged_header_is_refused_before_pytorch_is_imported(tmp_path: Path) -> None:
    """Its import takes seconds; the process ends without it."""
    (tmp_path / "bad.mha").write_text("not a MetaImage\n")
    command = [sys.executable, "-X", "importtime", process.__file__, "--task", "mri", "--region", "AB"]
    command += ["--input", str(tmp_path / "bad.mha"), "--output", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "bad.mha" in ended.stderr.splitlines()[-1]
    imported = {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time")}
    assert "numpy" in imported
    assert not {"torch", "segmentation_models_pytorch"} & imported


# --- the output gate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_damaged_weight_does_not_become_a_ct(case: Workplace, make_bundle, value: float) -> None:
    from sctlab_model.bundle import load_fold, read_bundle, save_fold, write_bundle

    case.bundle = make_bundle(folds=1)
    bundle = read_bundle(case.bundle)
    fold = bundle.groups[0].folds[0]
    state = load_fold(case.bundle, fold)
    name = next(n for n in state if n.endswith("weight") and state[n].dim() == 4)
    state[name].view(-1)[0] = value
    fold = fold.model_copy(update={"weights": save_fold(state, case.bundle, fold.weights.file, "float32")})
    group = bundle.groups[0].model_copy(update={"folds": (fold,)})
    write_bundle(bundle.model_copy(update={"groups": (group,)}), case.bundle)
    case.refused("not finite", code=5)
    case.refused("not finite", code=5, options=("--accept-implausible",))


def test_an_implausible_result_is_refused_unless_it_is_wanted(
    case: Workplace, cbct: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sctlab_model.gates as gates

    monkeypatch.setattr(gates, "SOFT_TISSUE_AT_LEAST", (101.0, 101.0))
    case.refused("soft tissue", "--accept-implausible", code=5, options=("--task", "cbct"), given=case.source)
    code, text = case.run("--task", "cbct", "--accept-implausible", given=case.source)
    assert code == 0, text
    record = ResultRecord.read(case.output / "case-1.record.json")
    assert "soft tissue" in record.result.implausible[0]
    assert sitk.ReadImage(str(case.output / "case-1.mha")).GetMetaData("sCT_Implausible") == "accepted by the user"
    shutil.rmtree(case.output)
    code, text = case.run()  # in a challenge a refused case scores worst
    assert code == 0, text
    assert "soft tissue" in case.err


def test_a_report_that_cannot_be_written_is_found_before_the_case(case: Workplace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for report in (tmp_path / "file/run.json", tmp_path):
        code, text = case.run("--report", report)
        assert code == 2
        assert str(report) in text or "file" in text
        assert not list(case.output.rglob("*.mha"))
