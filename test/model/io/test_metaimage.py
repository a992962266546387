"""The MetaImage guard: agrees with SimpleITK on what it accepts, and refuses the rest without harm."""

from __future__ import annotations

import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sctlab_model.errors import InputError
from sctlab_model.io.metaimage import ELEMENT_TYPES, MAX_HEADER_BYTES
from sctlab_model.io.reading import read_volume

WORKING_BYTES = 40 << 20  # header buffer, file block and inflated piece
CAP = 1 << 16  # voxels; as small as the tests' images, so that a broken bound shows
MINIMAL = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 2 2 2\nElementType = MET_SHORT\n"
EIGHT_SHORTS = np.arange(8, dtype="<i2").tobytes()
INERT = re.compile(
    rb"^[ \t]*(CenterOfRotation|Color|ID|ParentID|SequenceID|ElementMin|ElementMax|ObjectSubType|TransformType"
    rb"|Name|Comment|Modality|DistanceUnits|AnatomicalOrientation)[ \t]*[=:].*\n",
    re.MULTILINE,
)


def compare_with_sitk(path: Path) -> None:
    """What the guard accepted is what SimpleITK reads: voxels, element type and geometry."""
    volume = read_volume(path, max_voxels=CAP)
    # Keys that say nothing about grid or voxels are ours to ignore; ITK parses them, and trips over bad ones.
    cleaned = path.with_name(f"cleaned{path.suffix}")
    cleaned.write_bytes(INERT.sub(b"Comment = -\n", path.read_bytes()))
    try:
        image = sitk.ReadImage(str(cleaned))
    except RuntimeError:
        return  # ITK is stricter in places; it doesn't read the file differently
    expected = sitk.GetArrayFromImage(image)
    assert volume.array.dtype == expected.dtype
    np.testing.assert_array_equal(volume.array, expected)
    geometry = volume.geometry
    assert geometry.size_xyz == image.GetSize()
    np.testing.assert_allclose(geometry.spacing_xyz, image.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(geometry.origin_xyz, image.GetOrigin(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(geometry.direction, image.GetDirection(), atol=2e-3)  # ITK orthogonalises


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False).map(lambda v: round(v, 6))


@st.composite
def metaimages(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A valid image as (header without its last line, value of ElementDataFile, voxel bytes)."""
    size = [draw(st.integers(1, 5)) for _ in range(3)]
    element = draw(st.sampled_from(sorted(ELEMENT_TYPES)))
    big_endian, compressed = draw(st.booleans()), draw(st.booleans())
    dtype = np.dtype(ELEMENT_TYPES[element]).newbyteorder(">" if big_endian else "<")
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    voxels = (random.normal(0, 50, size) + 100).clip(0, 127).astype(dtype).tobytes()
    lines = ["ObjectType = Image", "NDims = 3"]
    optional = [
        "BinaryData = True",
        f"{draw(st.sampled_from(['BinaryDataByteOrderMSB', 'ElementByteOrderMSB']))} = {big_endian}",
        f"CompressedData = {compressed}",
        f"{draw(st.sampled_from(['Offset', 'Position', 'Origin']))} = "
        + " ".join(str(draw(numbers(-500, 500))) for _ in range(3)),
        f"{draw(st.sampled_from(['ElementSpacing', 'ElementSize']))} = "
        + " ".join(str(draw(numbers(0.05, 20))) for _ in range(3)),
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        "0008|0070 = a maker: with = and : in its name",
    ]
    if draw(st.booleans()):
        matrix = Rotation.from_euler("xyz", [draw(numbers(-180, 180)) for _ in range(3)], degrees=True).as_matrix()
        key = draw(st.sampled_from(["TransformMatrix", "Rotation", "Orientation"]))
        optional.append(f"{key} = " + " ".join(f"{v:.12g}" for v in matrix.ravel()))
    if compressed:
        level = draw(st.integers(0, 9))
        voxels = zlib.compress(voxels, level)
        optional.append(f"CompressedDataSize = {len(voxels)}")
    lines += draw(st.permutations(optional))
    lines += [f"DimSize = {' '.join(map(str, size))}", f"ElementType = {element}"]
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    local = draw(st.booleans())
    data_file = draw(st.sampled_from(["LOCAL", "local"])) if local else "voxels.raw"
    return (newline.join(lines) + newline).encode(), data_file.encode(), voxels


def store(folder: Path, header: bytes, data_file: bytes, voxels: bytes) -> Path:
    """Write an image as `.mha`, or as `.mhd` with its raw file."""
    whole = header + b"ElementDataFile = " + data_file + b"\n"
    if data_file.lower() == b"local":
        path = folder / "image.mha"
        path.write_bytes(whole + voxels)
    else:
        path = folder / "image.mhd"
        path.write_bytes(whole)
        (folder / "voxels.raw").write_bytes(voxels)
    return path


@settings(max_examples=300)
@given(image=metaimages())
def test_valid_images_agree_with_sitk(image: tuple[bytes, bytes, bytes], tmp_path: Path) -> None:
    compare_with_sitk(store(tmp_path, *image))


NASTY = [b"", b"0", b"-1", b"1", b"3", b"2 2", b"2 2 2 2", b"0 0 0", b"-2 2 2", b"65536 65536 65536", b"99999999999999999999 1 1",
         b"4294967296 1 1", b"1e3 1 1", b"0x2 2 2", b"nan nan nan", b"inf 1 1", b"1e400 1 1", b"1e-320 1 1", b"1,2,3",
         b"1 0 0 0 1 0 0 0 0", b"1 1 0 0 1 0 0 0 1", b"2 0 0 0 2 0 0 0 2", b"-1 0 0 0 1 0 0 0 1", b"True", b"False", b"T", b"yes",
         b"MET_OTHER", b"MET_SHORT", b"MET_UCHAR", b"MET_DOUBLE", b"MET_SHORT_ARRAY", b"LIST", b"LIST 2", b"../image.mha",
         b"/etc/passwd", b"voxels%d.raw 1 3 1", b"image.mha", b"LOCAL", b"local ", b"voxels.raw extra", b"\xff\xfe", b"A" * 5000,
         b"Image", b"Tube", b"2 2 2;", b"2\t2\t2", b"2.0 2.0 2.0", b"+2 +2 +2"]  # fmt: skip
KEYS = [b"ObjectType", b"NDims", b"BinaryData", b"BinaryDataByteOrderMSB", b"ElementByteOrderMSB", b"CompressedData",
        b"CompressedDataSize", b"TransformMatrix", b"Rotation", b"Orientation", b"Offset", b"Position", b"Origin",
        b"ElementSpacing", b"ElementSize", b"DimSize", b"ElementType", b"ElementNumberOfChannels", b"HeaderSize",
        b"ElementDataFile", b"Comment", b"ObjectSubType", b"TransformType", b"ID", b"ParentID", b"Name", b"Color",
        b"ElementMin", b"ElementMax", b"Modality", b"SequenceID", b"DistanceUnits", b"AnatomicalOrientation",
        b"ElementToIntensityFunctionSlope", b"ElementToIntensityFunctionOffset"]  # fmt: skip


def mutate(draw: st.DrawFn, raw: bytes) -> bytes:
    """One random injury to a file."""
    place = draw(st.integers(0, max(0, len(raw) - 1)))
    kind = draw(st.sampled_from(["byte", "cut", "insert", "truncate", "append", "repeat", "value", "key", "line"]))
    lines = raw.split(b"\n")
    line = draw(st.integers(0, max(0, min(len(lines), 16) - 1)))
    if kind == "byte":
        return raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    if kind == "cut":
        return raw[:place] + raw[place + draw(st.integers(1, 40)) :]
    if kind == "insert":
        return raw[:place] + draw(st.binary(min_size=1, max_size=8)) + raw[place:]
    if kind == "truncate":
        return raw[:place]
    if kind == "append":
        return raw + draw(st.binary(min_size=1, max_size=64))
    if kind == "repeat":
        return b"\n".join([*lines[: line + 1], lines[line], *lines[line + 1 :]])
    separator = draw(
        st.sampled_from([b" = ", b" = ", b" = ", b"=", b" : ", b":", b" ", b" == ", b"\t=\t", b" = \t", b"\n= "])
    )
    if kind == "value":
        lines[line] = lines[line].split(b"=")[0].strip() + separator + draw(st.sampled_from(NASTY))
    elif kind == "key":
        lines[line] = draw(st.sampled_from(KEYS)) + separator + lines[line].partition(b"=")[2].strip()
    else:
        lines.insert(line, draw(st.sampled_from(KEYS)) + separator + draw(st.sampled_from(NASTY)))
    return b"\n".join(lines)


@st.composite
def injured(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """(file name, its bytes, bytes of the raw file) with one to three injuries."""
    header, data_file, voxels = draw(metaimages())
    whole = header + b"ElementDataFile = " + data_file + b"\n"
    local = data_file.lower() == b"local"
    if local:
        whole += voxels
    for _ in range(draw(st.integers(1, 3))):
        if local or draw(st.integers(0, 3)):
            whole = mutate(draw, whole)
        else:
            voxels = mutate(draw, voxels)
    return ("image.mha" if local else "image.mhd"), whole, voxels


@settings(max_examples=1000)
@given(image=injured())
def test_injured_images_never_crash_and_never_pass_wrong(image: tuple[str, bytes, bytes], tmp_path: Path) -> None:
    name, raw, voxels = image
    path = tmp_path / name
    path.write_bytes(raw)
    (tmp_path / "voxels.raw").write_bytes(voxels)
    accepted, message = None, ""
    tracemalloc.start()
    try:
        accepted = read_volume(path, max_voxels=CAP)
    except InputError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= CAP * 8 + WORKING_BYTES
    if accepted is None:
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < len(str(path)) + 300
    else:
        assert accepted.array.size <= CAP
        compare_with_sitk(path)


@pytest.mark.parametrize(
    "text", [b"Offset", b"Offset\r", b"Offset\t", b" Offset \r 0.0 0.0\r", b"ElementSpacing\r", b"NDims", b"Color"]
)
@pytest.mark.parametrize("behind", [b"Comment = -\n", b"Comment =\r\n", b"free = text\n"])
def test_a_key_without_separator_is_refused(tmp_path: Path, text: bytes, behind: bytes) -> None:
    """ITK reads on for a value, and passes over the spacing behind some of these."""
    header = MINIMAL + text + b"\n" + behind + b"ElementSpacing = 1 1 0.5\n"
    with pytest.raises(InputError, match=f"{text.split()[0].decode()} without '='"):
        read_volume(store(tmp_path, header, b"LOCAL", EIGHT_SHORTS))


def test_valid_images_are_read_by_sitk_too(tmp_path: Path) -> None:
    """`compare_with_sitk` passes over what SimpleITK refuses: make sure that plain images aren't among it."""
    path = store(tmp_path, MINIMAL, b"LOCAL", EIGHT_SHORTS)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).ravel().tolist() == list(range(8))
    compare_with_sitk(path)


@pytest.mark.parametrize(
    "pixel",
    [
        sitk.sitkInt8,
        sitk.sitkUInt8,
        sitk.sitkInt16,
        sitk.sitkUInt16,
        sitk.sitkInt32,
        sitk.sitkUInt32,
        sitk.sitkInt64,
        sitk.sitkUInt64,
        sitk.sitkFloat32,
        sitk.sitkFloat64,
    ],
)
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_images_that_sitk_writes_are_read(tmp_path: Path, pixel: int, name: str, compress: bool) -> None:
    image = sitk.Cast(sitk.GetImageFromArray(np.arange(60.0).reshape(3, 4, 5)), pixel)
    image.SetSpacing((0.5, 1.25, 3))
    image.SetOrigin((-10, 20, 30.5))
    image.SetDirection(Rotation.from_euler("xyz", [170, 20, -95], degrees=True).as_matrix().ravel())
    image.SetMetaData("0008|103e", "free = text: with signs")
    sitk.WriteImage(image, str(tmp_path / name), compress)
    compare_with_sitk(tmp_path / name)


@pytest.mark.parametrize("element", ["MET_LONG", "MET_ULONG"])
def test_long_is_four_bytes_everywhere(element: str) -> None:
    """MetaIO fixed the size of `long` at 4 bytes, whatever the machine's compiler says."""
    assert np.dtype(ELEMENT_TYPES[element]).itemsize == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"ElementNumberOfChannels = 3", "colour"),
        (b"DimSize = 4 4 4", "twice"),
        (b"ElementSpacing = 0 1 1", "spacing"),
        (b"ElementSize = -1 1 1", "spacing"),
        (b"ElementSpacing = nan 1 1", "3 finite numbers"),
        (b"ElementSpacing = 1e-9 1 1", "spacing"),
        (b"Offset = 1 2", "3 finite numbers"),
        (b"Offset = 1 2 3\nOrigin = 4 5 6", "different values"),
        (b"TransformMatrix = 1 0.3 0 0 1 0 0 0 1", "orthonormal"),
        (b"TransformMatrix = 0 0 0 0 0 0 0 0 0", "orthonormal"),
        (b"BinaryDataByteOrderMSB = True\nElementByteOrderMSB = False", "different values"),
        (b"CompressedData = True", "CompressedDataSize"),
        (b"ElementToIntensityFunctionSlope = 2", "Slope"),
        (b"HeaderSize = 30", "HeaderSize"),
        (b"stray text\nElementSpacing = 2 2 2", "without '='"),
    ],
)
def test_refusals_name_the_fault(tmp_path: Path, line: bytes, message: str) -> None:
    path = store(tmp_path, MINIMAL + line + b"\n", b"LOCAL", EIGHT_SHORTS)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../voxels.raw", "/etc/hostname", "a/b.raw", "..", "LIST", "v%03d.raw 1 2 1", "", "~/x", "missing.raw"]
)
def test_data_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "voxels.raw").write_bytes(EIGHT_SHORTS)
    folder = tmp_path / "sub"
    folder.mkdir()
    (folder / "image.mhd").write_bytes(MINIMAL + b"ElementDataFile = " + name.encode() + b"\n")
    with pytest.raises(InputError):
        read_volume(folder / "image.mhd")


@pytest.mark.parametrize("name", ["it's.raw", "a, b.raw", "#1.raw", "Schädel.raw", "a b (1)+x.zraw"])
def test_names_of_data_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(EIGHT_SHORTS)
    (tmp_path / "image.mhd").write_bytes(MINIMAL + b"ElementDataFile = " + name.encode() + b"\r\n")
    assert read_volume(tmp_path / "image.mhd").array.ravel().tolist() == list(range(8))


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    path = store(tmp_path, MINIMAL, b"LOCAL", EIGHT_SHORTS).rename(tmp_path / "IMAGE.MHA")
    assert read_volume(path).array.size == 8


def test_a_direction_that_is_not_quite_perpendicular_is_made_so_and_said(tmp_path: Path) -> None:
    path = store(
        tmp_path,
        MINIMAL + b"TransformMatrix = 1 0 0 0.0009 1 0 0 0 1\nElementSpacing = 9 9 9\n",
        b"LOCAL",
        EIGHT_SHORTS,
    )
    volume = read_volume(path)
    np.testing.assert_allclose(volume.geometry.axes.T @ volume.geometry.axes, np.eye(3), atol=1e-12)
    assert "moves voxels by up to 0.00" in volume.notes[0]


@pytest.mark.parametrize(
    ("data", "expected"), [(EIGHT_SHORTS[:-1], "truncated"), (EIGHT_SHORTS + b"x", "disagree"), (b"", "truncated")]
)
def test_payload_of_another_size_is_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_volume(store(tmp_path, MINIMAL, b"LOCAL", data))


@pytest.mark.parametrize("header_size", [b"7", b"-1"])
def test_raw_files_may_have_a_header(tmp_path: Path, header_size: bytes) -> None:
    path = store(tmp_path, MINIMAL + b"HeaderSize = " + header_size + b"\n", b"voxels.raw", b"1234567" + EIGHT_SHORTS)
    compare_with_sitk(path)
    assert read_volume(path).array.ravel().tolist() == list(range(8))


def peak_while_refusing(path: Path) -> int:
    """Bytes that were allocated at most until the file was refused."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read_volume(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("size", "lines", "data"),
    [
        (b"800 800 800", b"", b"tiny"),
        (b"800 800 800", b"CompressedData = True\nCompressedDataSize = 4\n", b"tiny"),
        (b"800 800 800", b"CompressedData = True\nCompressedDataSize = 9999999999\n", b"tiny"),
        (b"2147483647 2147483647 2147483647", b"", b"tiny"),
        (b"65536 65536 1", b"", b"tiny"),
    ],
)
def test_a_small_file_that_promises_gigabytes_costs_nothing(
    tmp_path: Path, size: bytes, lines: bytes, data: bytes
) -> None:
    header = MINIMAL.replace(b"2 2 2", size).replace(b"SHORT", b"DOUBLE") + lines
    assert peak_while_refusing(store(tmp_path, header, b"LOCAL", data)) < 4 << 20


def test_a_decompression_bomb_stops_at_the_declared_size(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(200 << 20))  # 200 MB in 200 kB
    header = MINIMAL + f"CompressedData = True\nCompressedDataSize = {len(bomb)}\n".encode()
    assert peak_while_refusing(store(tmp_path, header, b"LOCAL", bomb)) < WORKING_BYTES


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.mha"
    path.write_bytes(MINIMAL + b"Comment = " + b"x" * MAX_HEADER_BYTES + b"\nElementDataFile = LOCAL\n" + EIGHT_SHORTS)
    assert peak_while_refusing(path) < WORKING_BYTES
