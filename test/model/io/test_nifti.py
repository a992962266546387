"""NIfTI behind checks: what ITK repairs in silence is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

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
    volume = read_volume(nifti(tmp_path / "a.nii", units=(123, "<B", (code,)))) if scale == 1 else None
    if volume is not None:
        np.testing.assert_allclose(volume.geometry.spacing_xyz, (0.5, 1.25, 3))
    else:
        spacing = tuple(v / scale for v in (0.5, 1.25, 3))
        path = nifti(
            tmp_path / "a.nii", units=(123, "<B", (code,)), pixdim=(80, "<3f", spacing), codes=(252, "<2h", (1, 0))
        )
        np.testing.assert_allclose(read_volume(path).geometry.spacing_xyz, (0.5, 1.25, 3), rtol=1e-5)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_headers_without_a_transform_have_their_spacing(tmp_path: Path, endian: str) -> None:
    import nibabel

    header = nibabel.Nifti1Header(endianness=endian)
    made = nibabel.Nifti1Image(np.arange(60).reshape(5, 4, 3).astype(endian + "i2"), None, header)
    made.header.set_zooms((0.5, 1.25, 3))
    made.header.set_data_dtype(endian + "i2")
    nibabel.save(made, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.geometry.spacing_xyz, (0.5, 1.25, 3))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, np.arange(60).reshape(5, 4, 3).transpose(2, 1, 0))


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
