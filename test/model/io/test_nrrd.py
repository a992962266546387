"""NRRD parsed in Python: agrees with pynrrd and ITK on what it accepts, and refuses the rest by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from sctlab_model.errors import InputError
from sctlab_model.io.nrrd import TYPES
from sctlab_model.io.reading import read_header, read_values, read_volume

VOXELS = np.arange(60, dtype="<i2")
FIELDS = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "5 4 3",
    "space directions": "(0,0.5,0) (-1.25,0,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-10,20,30.5)",
}


def store(
    path: Path,
    *,
    data: bytes | None = None,
    extra: str = "",
    newline: str = "\n",
    magic: str = "NRRD0004",
    **fields: str | None,
) -> Path:
    """A NRRD file; underscores in the names of fields stand for spaces, None leaves a field out."""
    values = FIELDS | {k.replace("_", " "): v for k, v in fields.items()}
    lines = [magic, *(f"{k}: {v}" for k, v in values.items() if v is not None)]
    head = "".join(line + newline for line in lines) + extra
    path.write_bytes(os_bytes(head + newline) + (VOXELS.tobytes() if data is None else data))
    return path


def os_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def agrees_with_itk_and_pynrrd(path: Path) -> None:
    volume = read_volume(path)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.geometry.spacing_xyz, image.GetSpacing(), rtol=1e-9)
    np.testing.assert_allclose(volume.geometry.origin_xyz, image.GetOrigin(), atol=1e-9)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-9)
    array, _ = nrrd.read(str(path), index_order="C")
    np.testing.assert_array_equal(volume.array, array.reshape(volume.array.shape))


@pytest.mark.parametrize("name", sorted(TYPES))
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_every_type(tmp_path: Path, name: str, endian: str, encoding: str) -> None:
    dtype = np.dtype({"little": "<", "big": ">"}[endian] + TYPES[name])
    data = np.arange(60).astype(dtype).tobytes()
    path = store(
        tmp_path / "a.nrrd",
        data=gzip.compress(data) if encoding == "gzip" else data,
        type=name,
        endian=endian,
        encoding=encoding,
    )
    assert read_volume(path).array.dtype == dtype.newbyteorder("=")
    agrees_with_itk_and_pynrrd(path)


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", "LAS", "RAS", "lps"])
def test_frames_of_the_patient(tmp_path: Path, space: str) -> None:
    agrees_with_itk_and_pynrrd(store(tmp_path / "a.nrrd", space=space))


@pytest.mark.parametrize(
    "changes",
    [
        {"newline": "\r\n"},
        {"magic": "NRRD0001"},
        {"extra": "# a comment\nkey:=a value with: colons\n"},
        {"extra": "#" + "A" * 100_000 + "\n"},
        {"extra": "DWMRI_b-value:=" + "9" * 5000 + "\n"},
        {"centers": "cell cell cell", "content": "a name", "space_units": '"mm" "mm" "mm"'},
        {"measurement_frame": "(1,0,0) (0,1,0) (0,0,1)", "thicknesses": "nan nan nan", "labels": '"x" "y" "z"'},
        {"kinds": None},
        {"byte_skip": "0", "line_skip": "0"},
        {"dimension": "4", "sizes": "5 4 3 1", "space_directions": FIELDS["space directions"] + " none",
         "kinds": "domain domain domain list"},
    ],
)  # fmt: skip
def test_headers_that_say_the_same(tmp_path: Path, changes: dict[str, str]) -> None:
    expected = read_volume(store(tmp_path / "b.nrrd"))
    volume = read_volume(store(tmp_path / "a.nrrd", **changes))
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.geometry == expected.geometry
    assert volume.notes == ()


def test_spacings_alone_are_read_and_said(tmp_path: Path) -> None:
    path = store(
        tmp_path / "a.nrrd", space=None, space_directions=None, space_origin=None, spacings="0.5 1.25 3", kinds=None
    )
    agrees_with_itk_and_pynrrd(path)
    assert "no space" in read_volume(path).notes[0]


@pytest.mark.parametrize("name", ["a.raw", "it's, a #1 fall.raw", "Schädel.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".nrrd"])
@pytest.mark.parametrize("skip", ["0", "-1", "7"])
def test_detached_voxels_in_the_same_folder(tmp_path: Path, name: str, suffix: str, skip: str) -> None:
    path = store(tmp_path / f"a{suffix}", data=b"", data_file=name, byte_skip=skip)
    (tmp_path / name).write_bytes((b"" if skip == "0" else b"7 bytes") + VOXELS.tobytes())
    np.testing.assert_array_equal(read_volume(path).array.ravel(), VOXELS)


@pytest.mark.parametrize(
    "name", ["../secret.raw", "/dev/zero", "LIST", "s%d.raw 1 2 1", "secret/a", "..", "a\\b", "link.raw"]
)
@pytest.mark.parametrize("field", ["data file", "datafile"])
def test_voxels_elsewhere_are_refused(tmp_path: Path, name: str, field: str) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    with pytest.raises(InputError, match=r"another file|not there"):
        read_volume(store(folder / "a.nrrd", data=b"", **{field.replace(" ", "_"): name}))


@pytest.mark.parametrize("hiding", ["# x\rdata file: secret.raw\n", "#\n" * (1 << 19) + "data file: secret.raw\n"])
def test_nothing_hides_behind_what_other_readers_take_for_a_line(tmp_path: Path, hiding: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(120))
    with pytest.raises(InputError):
        read_volume(store(tmp_path / "a.nrrd", extra=hiding))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kinds": "A" * 1000}, "kinds"),
        ({"kinds": "A" * 10_000}, "kinds"),
        ({"sizes": "99999 99999 99999"}, "voxels"),
        ({"sizes": "-5 4 3"}, "sizes"),
        ({"sizes": "0 4 3"}, "voxels"),
        ({"sizes": "5 4"}, "dimension"),
        ({"type": "block"}, "type"),
        ({"type": None}, "no type"),
        ({"endian": None}, "endian"),
        ({"encoding": "bzip2"}, "encoding: bzip2"),
        ({"encoding": "ascii"}, "encoding: ascii"),
        ({"space": "scanner-xyz"}, "space: scanner-xyz"),
        ({"space": "right-anterior-superior-time"}, "space"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "space directions"),
        ({"space_directions": "(1,0,0) (0.3,1,0) (0,0,1)"}, "orthonormal"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "spacing"),
        ({"space_directions": None}, "no space directions"),
        ({"space_origin": "(1,2)"}, "space origin"),
        ({"space_origin": "(1e300,0,0)"}, "origin"),
        ({"space_units": '"cm" "cm" "cm"'}, "space units"),
        ({"spacings": "1 1 1"}, "spacings"),
        ({"axis_mins": "5 5 5"}, "axis mins"),
        ({"line_skip": "2"}, "line skip"),
        ({"byte_skip": "-2"}, "byte skip"),
        ({"kinds": "3-color domain domain"}, "colour"),
        ({"kinds": "domain domain time"}, "channels"),
        ({"extra": "unheard of: 3\n"}, "unheard of"),
        ({"extra": "sizes: 5 4 3\n"}, "twice"),
        ({"extra": "no colon\n"}, "no colon"),
        ({"extra": "Data File: a.raw\n"}, "Data File"),
        ({"extra": "content:x\n"}, "content:x"),
        ({"extra": "space:=left-anterior-superior\n"}, "space:="),
        ({"magic": "NRRD0009"}, "NRRD000x"),
        ({"data": b""}, "0 bytes of voxel data"),
        ({"data": bytes(121)}, "121 bytes"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path: Path, changes: dict[str, str], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        read_volume(store(tmp_path / "a.nrrd", **changes))
    assert str(caught.value).startswith(str(tmp_path / "a.nrrd"))
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize("suffix", [".tif", ".mrc", ".nii", ".mha", ".hdf5"])
def test_other_formats_under_this_name_are_refused(tmp_path: Path, suffix: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.reshape(3, 4, 5)), str(tmp_path / f"a{suffix}"))
    path = tmp_path / "a.nrrd"
    path.write_bytes((tmp_path / f"a{suffix}").read_bytes())
    if suffix not in (".nii", ".mha"):  # ITK picks its reader by content for the others
        assert sitk.ReadImage(str(path)).GetSize() == (5, 4, 3)
    with pytest.raises(InputError, match=r"NRRD000x|what its name says \(\.nrrd\)"):
        read_volume(path)


@pytest.mark.parametrize("last", [False, True])
def test_vectors(tmp_path: Path, last: bool) -> None:
    vectors = np.arange(180, dtype="<f4").reshape(3, 4, 5, 3)  # z, y, x, component
    sizes, kinds, directions = ["5 4 3", "domain domain domain", FIELDS["space directions"]]
    if last:
        data, parts = np.moveaxis(vectors, -1, 0), (f"{sizes} 3", f"{kinds} vector", f"{directions} none")
    else:
        data, parts = vectors, (f"3 {sizes}", f"vector {kinds}", f"none {directions}")
    path = store(
        tmp_path / "a.nrrd", type="float", dimension="4", data=data.tobytes(),
        sizes=parts[0], kinds=parts[1], space_directions=parts[2],
    )  # fmt: skip
    header = read_header(path, components=3)
    np.testing.assert_array_equal(read_values(header), np.moveaxis(vectors, -1, 0))
    with pytest.raises(InputError, match="3 channels"):
        read_volume(path)
