"""NIfTI behind checks: what ITK repairs in silence is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume

CAP = 1 << 16


def written(path: Path) -> Path:
    """A good image."""
    made = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    made.SetSpacing((0.5, 1.25, 3))
    made.SetOrigin((-10, 20, 30.5))
    made.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(made, str(path))
    return path


def nifti(path: Path, **fields: tuple[int, str, tuple]) -> Path:
    """A NIfTI file with header fields overwritten: `name=(offset, format, values)`."""
    raw = bytearray(written(path.with_name("plain.nii")).read_bytes())
    for offset, form, values in fields.values():
        struct.pack_into(form, raw, offset, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if path.suffix == ".gz" else bytes(raw))
    return path


def nibabel_image(endian: str) -> nibabel.Nifti1Image:
    """An image that nibabel makes, 5 x 4 x 3 voxels of 0.5 x 1.25 x 3 mm."""
    header = nibabel.Nifti1Header(endianness=endian)
    header.set_data_dtype(f"{endian}i2")
    affine = np.diag([0.5, 1.25, 3, 1])
    image = nibabel.Nifti1Image(np.arange(60).reshape(5, 4, 3).astype(f"{endian}i2"), affine, header)
    image.header.set_qform(affine, 1)
    return image


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


@pytest.mark.parametrize(("code", "scale"), [(1, 1000), (2, 1), (3, 0.001), (0, 1)])
def test_units(tmp_path: Path, code: int, scale: float) -> None:
    spacing = tuple(v / scale for v in (0.5, 1.25, 3))
    path = nifti(
        tmp_path / "a.nii", units=(123, "<B", (code,)), pixdim=(80, "<3f", spacing), codes=(252, "<2h", (1, 0))
    )
    np.testing.assert_allclose(read_volume(path).geometry.spacing_xyz, (0.5, 1.25, 3), rtol=1e-5)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_both_byte_orders(tmp_path: Path, endian: str, name: str) -> None:
    made = nibabel_image(endian)
    nibabel.save(made, tmp_path / name)
    volume = read_volume(tmp_path / name)
    np.testing.assert_allclose(volume.geometry.spacing_xyz, (0.5, 1.25, 3))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, np.arange(60).reshape(5, 4, 3).transpose(2, 1, 0))
    assert volume.notes == ()


def test_headers_without_an_orientation_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", codes=(252, "<2h", (0, 0)))
    with pytest.raises(InputError, match=r"no orientation.*left and right.*set a code"):
        read_volume(path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "field",
    [
        (280, "<I", (0x7FA00000,)),  # a signalling NaN: converting it is an invalid operation
        (112, "<2f", (3e38, 3e38)),  # the scaled voxels overflow, or not: they are float64
    ],
)
def test_numbers_that_make_numpy_warn_are_judged_without_a_word(tmp_path: Path, field: tuple) -> None:
    try:
        volume = read_volume(nifti(tmp_path / "a.nii", field=field))
    except InputError as error:
        message = str(error)
    else:
        message = str(tmp_path)
        assert np.isfinite(volume.array).all()
    assert message.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ((108, "<f", (368.0,)), "vox_offset 368.*ends at 352"),
        ((108, "<f", (0.0,)), "vox_offset 0"),
        ((108, "<f", (352.5,)), "vox_offset 352.5"),
        ((80, "<3f", (-0.5, 1.25, 3)), "pixdim -0.5"),
        ((80, "<3f", (0.5, 0, 3)), "pixdim"),
        ((80, "<3f", (0.6, 1.25, 3)), "pixdim|qform"),
        ((76, "<f", (0.5,)), "qfac"),
        ((72, "<h", (32,)), "bitpix"),
        ((256, "<f", (float("nan"),)), "quaternion"),
        ((260, "<f", (2.0,)), "quaternion"),
        ((268, "<f", (float("inf"),)), "quaternion"),
        ((280, "<f", (float("nan"),)), "sform"),
        ((252, "<2h", (77, 1)), "qform_code"),
        ((123, "<B", (7,)), "xyzt_units"),
        ((112, "<2f", (2.0, float("nan"))), "scl_slope"),
        ((112, "<2f", (float("inf"), 0)), "scl_slope"),
        ((344, "<4s", (b"ni1\0",)), "magic"),
    ],
)
def test_undefined_headers_are_refused_by_name(tmp_path: Path, field: tuple, word: str) -> None:
    with pytest.raises(InputError, match=word):
        read_volume(nifti(tmp_path / "a.nii", field=field))


@pytest.mark.parametrize("text", [b"", b"a note", b"x" * 5000])
def test_header_extensions_are_passed_over(tmp_path: Path, text: bytes) -> None:
    made = nibabel_image("<")
    if text:
        made.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, text))
    nibabel.save(made, tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").array.ravel()[-1] == 59


def test_one_frame_of_four_dimensions_is_a_volume(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii", dim=(40, "<6h", (5, 5, 4, 3, 1, 1))))
    np.testing.assert_array_equal(volume.array.ravel(), np.arange(60))


def sform(angle: float) -> tuple[int, str, tuple]:
    """An sform whose y axis leans towards x by `angle` (radians)."""
    return (280, "<12f", (-0.5, -1.25 * np.sin(angle), 0, 1, 0, -1.25 * np.cos(angle), 0, 2, 0, 0, 3, 3))


def test_a_nearly_orthonormal_sform_is_made_so_and_said(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", codes=(252, "<2h", (0, 1)), sform=sform(8e-4))
    volume = read_volume(path)
    axes = volume.geometry.axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    affine = np.diag([-1, -1, 1, 1]) @ nibabel.load(path).affine
    corners = np.array(np.meshgrid((0, 4), (0, 3), (0, 2))).reshape(3, -1)
    stated = (affine[:3, :3] @ corners).T + affine[:3, 3]
    shift = np.linalg.norm(volume.geometry.to_physical(corners.T) - stated, axis=1).max()
    assert 0.001 < shift < 0.01
    assert len(volume.notes) == 1
    assert f"up to {shift:.3f} mm" in volume.notes[0]


def test_qform_and_sform_a_little_apart_are_said(tmp_path: Path) -> None:
    image = nibabel_image("<")
    affine = image.affine.copy()
    affine[0, 3] += 0.04
    image.header.set_sform(affine, 1)
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), path)
    assert "differ by up to 0.040 mm" in read_volume(path).notes[0]


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
