"""The command line: masks, values and geometry that are strange, failures while writing, and the output gate."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from command_line_workplace import Workplace
from scipy.spatial.transform import Rotation

import process
from sctlab_model.errors import ExitCode
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.predictions import ResultRecord
from sctlab_model.volume import Geometry, Volume

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
    ended = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert ended.returncode == ExitCode.BAD_INPUT
    assert "bad.mha" in ended.stderr.splitlines()[-1]
    imported = {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time")}
    assert "numpy" in imported
    assert not {"torch", "segmentation_models_pytorch"} & imported


# --- the output gate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_damaged_weight_does_not_become_a_ct(case: Workplace, make_bundle, value: float) -> None:
    from safetensors.torch import save

    from sctlab_model.bundle import HashedFile, load_fold, read_bundle, write_bundle

    case.bundle = make_bundle(folds=1)
    bundle = read_bundle(case.bundle)
    fold = bundle.groups[0].folds[0]
    state = load_fold(case.bundle, fold)
    name = next(n for n in state if n.endswith("weight") and state[n].dim() == 4)
    state[name].view(-1)[0] = value
    data = save(state)  # by hand: no bundle is written with such weights
    (case.bundle / fold.weights.file).write_bytes(data)
    entry = HashedFile(file=fold.weights.file, sha256=hashlib.sha256(data).hexdigest())
    fold = fold.model_copy(update={"weights": entry, "storage": "float32"})
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
