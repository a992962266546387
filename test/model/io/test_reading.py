"""Guarded reading: what every format has in common, and NRRD."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_mask, read_volume

CAP = 1 << 16
SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha"]


def image(pixel: int = sitk.sitkInt16) -> sitk.Image:
    made = sitk.Cast(sitk.GetImageFromArray(np.arange(60.0).reshape(3, 4, 5)), pixel)
    made.SetSpacing((0.5, 1.25, 3))
    made.SetOrigin((-10, 20, 30.5))
    made.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    return made


def written(path: Path, made: sitk.Image | None = None) -> Path:
    sitk.WriteImage(made or image(), str(path))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "pixel", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkFloat32, sitk.sitkFloat64]
)
def test_formats_agree(tmp_path: Path, suffix: str, pixel: int) -> None:
    path = written(tmp_path / f"a{suffix}", image(pixel))
    volume, expected = read_volume(path), image(pixel)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(expected))
    assert volume.array.dtype == sitk.GetArrayFromImage(expected).dtype
    np.testing.assert_allclose(volume.geometry.spacing_xyz, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.origin_xyz, expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(volume.geometry.direction, expected.GetDirection(), atol=1e-6)
    assert volume.name == str(path)


def test_masks_are_everything_above_zero(tmp_path: Path) -> None:
    mask = read_mask(written(tmp_path / "a.mha", image(sitk.sitkFloat32)))
    assert mask.array.dtype == bool
    assert mask.array.sum() == 59


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("made", "word"),
    [
        (sitk.Image(4, 4, sitk.sitkInt16), "3 dimensions"),
        (sitk.Image([4, 4, 4, 2], sitk.sitkInt16), "3 dimensions"),
        (sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 3), "colour"),
        (sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 2), "channel"),
        (sitk.Image([99, 99, 99], sitk.sitkUInt8), "voxels"),
    ],
)
def test_images_of_another_kind_are_refused(tmp_path: Path, suffix: str, made: sitk.Image, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        read_volume(written(tmp_path / f"a{suffix}", made), max_voxels=CAP)
    assert f"a{suffix}" in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("left", [0, 1, 10, 100, 0.5, 0.9, -1])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, left: float) -> None:
    path = written(tmp_path / f"a{suffix}", sitk.GetImageFromArray(np.random.default_rng(0).random((9, 20, 20))))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(left * len(raw)) if isinstance(left, float) else left])
    if left == -1 and suffix == ".nii.gz":
        return  # the last byte of gzip's trailer: every voxel is there and its checksum agreed
    with pytest.raises(InputError):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_that_are_no_numbers_are_counted(tmp_path: Path, suffix: str) -> None:
    made = image(sitk.sitkFloat32)
    made[0, 0, 0], made[1, 0, 0], made[2, 0, 0] = float("nan"), float("inf"), float("-inf")
    with pytest.raises(InputError, match="3 voxels are NaN or infinite"):
        read_volume(written(tmp_path / f"a{suffix}", made))


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_volume(
            written(
                tmp_path / "a.nii", sitk.RealAndImaginaryToComplex(image(sitk.sitkFloat32), image(sitk.sitkFloat32))
            )
        )


@pytest.mark.parametrize(
    "line",
    [
        "data file: secret.raw",
        "data file: ../secret.raw",
        "datafile: LIST\nsecret.raw",
        "data file: /dev/zero",
        "line skip: -1\ndata file: secret.raw",
    ],
)
def test_nrrd_data_in_another_file_is_refused(tmp_path: Path, line: str) -> None:
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n{line}\n\n"
    (tmp_path / "a.nrrd").write_text(header)
    (tmp_path / "secret.raw").write_bytes(bytes(120))
    with pytest.raises(InputError, match="another file"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("sizes", ["99999 99999 99999", "-5 4 3", "0 4 3", "5 4", "5 4 3 1"])
def test_malformed_nrrd_sizes(tmp_path: Path, sizes: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: raw\n\n".encode() + bytes(120)
    )
    with pytest.raises(InputError):
        read_volume(tmp_path / "a.nrrd")


# --- files in general ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["absent.mha", "folder.mha", "a.txt", "a.gz", "a"])
def test_files_that_are_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.mha").mkdir()
    for other in ("a.txt", "a.gz", "a"):
        (tmp_path / other).write_text("text")
    with pytest.raises(InputError, match=name):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_content_under_an_image_name(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"text\n", os.urandom(5000), b"\x1f\x8b" + bytes(50), b"%PDF-1.7"):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(InputError):
            read_volume(tmp_path / f"a{suffix}")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mha")
    with pytest.raises(InputError, match="no such file"):
        read_volume(tmp_path / "a.mha")
