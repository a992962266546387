"""The command line: every refusal is one line, and leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import SimpleITK as sitk
from command_line_workplace import Workplace

import process


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "0"], "--batch: '0' is not"),
        (["--task", "pet"], "--task: 'pet'; expected mri or cbct"),
        (["--region", "Knee"], "--region: unknown region 'Knee'; expected AB"),
        (["--nonsense"], "unrecognized arguments: --nonsense ("),
        (["--inptu", "mr.mha"], "is '--input' meant?"),
        (["mr.mha", "--task", "mri"], "is it meant for --input?"),
    ],
)
def test_usage_errors_are_one_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        process.main(options)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


def test_an_image_s_name_is_no_output_folder(case: Workplace, tmp_path: Path) -> None:
    source = ("--input", str(case.source), "--task", "cbct")
    assert process.main([*source, "--output", str(tmp_path / "sct.nii.gz")]) == 2
    assert not (tmp_path / "sct.nii.gz").exists()


def test_inputs_that_are_not_there(case: Workplace, tmp_path: Path) -> None:
    case.refused("absent", "no such file", given=tmp_path / "absent")
    case.refused("--task", "mri or cbct", given=case.source)
    (tmp_path / "hollow").mkdir()
    case.refused("--task", given=tmp_path / "hollow")
    case.refused("no image", given=tmp_path / "hollow", options=("--task", "cbct"))
