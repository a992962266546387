"""Guarded reading of NIfTI and NRRD, and what every format has in common."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import InputError
from model.reading import read_mask, read_volume

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


def nifti(path: Path, **fields: tuple[int, str, tuple]) -> Path:
    """A NIfTI file with header fields overwritten: `name=(offset, format, values)`."""
    raw = bytearray(written(path.with_name("plain.nii")).read_bytes())
    for offset, form, values in fields.values():
        struct.pack_into(form, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
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


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    "field",
    [
        (80, "<3f", (0.0, 1.0, 1.0)),  # spacing
        (80, "<3f", (float("nan"), 1.0, 1.0)),
        (80, "<3f", (float("inf"), 1.0, 1.0)),
        (80, "<3f", (1e9, 1.0, 1.0)),
        (42, "<3h", (-5, 4, 3)),  # size
        (42, "<3h", (0, 4, 3)),
        (42, "<3h", (32767, 32767, 32767)),
        (40, "<h", (9,)),  # number of dimensions
        (70, "<h", (999,)),  # element type
        (108, "<f", (1e30,)),  # where the voxels start
        (108, "<f", (float("nan"),)),
    ],
)
def test_malformed_nifti_headers(tmp_path: Path, name: str, field: tuple) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(nifti(tmp_path / name, field=field))
    assert "\n" not in str(caught.value)


def test_sheared_nifti_is_refused(tmp_path: Path) -> None:
    """An sform that isn't a rotation with scales can't be told by direction and spacing."""
    rows = (0.5, 0.3, 0, 1, 0, 1.25, 0, 2, 0, 0, 3, 3)
    path = nifti(tmp_path / "a.nii", codes=(252, "<2h", (0, 1)), sform=(280, "<12f", rows))
    with pytest.raises(InputError, match="orthonormal"):
        read_volume(path)


def test_qform_and_sform_that_disagree_are_refused(tmp_path: Path) -> None:
    """Tools differ in which one they believe: a wrong guess would flip the patient."""
    rows = (-0.5, 0, 0, 1, 0, 1.25, 0, 2, 0, 0, 3, 3)
    path = nifti(tmp_path / "a.nii", codes=(252, "<2h", (1, 1)), sform=(280, "<12f", rows))
    with pytest.raises(InputError, match="qform"):
        read_volume(path)


def test_scaled_nifti_is_read_in_its_units(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", slope=(112, "<2f", (2.0, -1024.0)))
    np.testing.assert_allclose(read_volume(path).array.ravel(), np.arange(60) * 2 - 1024)


@pytest.mark.parametrize("line", ["data file: secret.raw", "data file: ../secret.raw", "datafile: LIST\nsecret.raw", "data file: /dev/zero",
                                  "line skip: -1\ndata file: secret.raw"])  # fmt: skip
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


@settings(max_examples=150)
@given(data=st.data())
def test_injured_headers_give_one_line_or_a_sane_volume(tmp_path: Path, data: st.DataObject) -> None:
    """NIfTI headers with bytes flipped: refused, or finite with a sane grid."""
    path = written(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        volume = read_volume(path, max_voxels=CAP)
    except InputError as error:
        message = str(error)
    else:
        message = str(path)
        assert volume.array.size <= CAP
        assert np.isfinite(volume.array.astype(np.float64)).all()
        assert min(volume.geometry.spacing_xyz) > 0
        np.testing.assert_allclose(volume.geometry.axes.T @ volume.geometry.axes, np.eye(3), atol=3e-3)
    assert message.startswith(str(path))
    assert "\n" not in message


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
