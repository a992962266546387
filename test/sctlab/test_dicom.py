"""DICOM series by slice position: order, gaps, tilt; and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.dicom import is_dicom_folder, read_dicom_series
from sctlab_model.errors import InputError, ProductError

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_series(
    folder, positions, *, normal=(0.0, 0.0, 1.0), series="1.2.3.4", modality="CT", value=None, shape=(20, 24)
):
    """Slices whose HU is their position along z plus a ramp along y; files named in another order."""
    folder.mkdir(parents=True, exist_ok=True)
    row = np.array([1.0, 0, 0])
    column = np.cross(np.array(normal), row)
    for k, position in enumerate(positions):
        y, x = np.mgrid[: shape[0], : shape[1]]
        point = np.asarray(position)[None, None] + x[..., None] * 2 * row + y[..., None] * 2 * column
        hu = point[..., 2] * 3 + point[..., 1] if value is None else np.full(shape, value)
        image = sitk.GetImageFromArray(np.rint(hu).astype(np.int16)[None])
        image.SetSpacing((2.0, 2.0, 1.0))
        tags = {
            "0020|0032": "\\".join(f"{v:.6f}" for v in position), "0020|0037": "\\".join(f"{v:.6f}" for v in (*row, *column)),
            "0020|000e": series, "0020|000d": "1.2.3", "0008|0060": modality, "0020|0013": str(k), "0028|0030": "2\\2",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        }  # fmt: skip
        for key, text in tags.items():
            image.SetMetaData(key, text)
        image.SetOrigin(tuple(position))
        image.SetDirection((row[0], column[0], normal[0], row[1], column[1], normal[1], row[2], column[2], normal[2]))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{(k * 7) % 100:02d}.dcm"))
        writer.Execute(image)
    return folder


def expected(volume):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.geometry.size_xyz], indexing="ij"), -1)
    p = volume.geometry.to_physical(index).transpose(2, 1, 0, 3)
    return p[..., 2] * 3 + p[..., 1]


def test_even_slices_are_kept_voxel_by_voxel(tmp_path):
    positions = [(-10, 5, z) for z in (30, 33, 27, 24, 36)]
    volume = read_dicom_series(write_series(tmp_path / "s", positions))
    assert volume.geometry.size_xyz == (24, 20, 5)
    assert np.allclose(volume.geometry.spacing_xyz, (2, 2, 3))
    assert np.allclose(volume.geometry.origin_xyz, (-10, 5, 24))
    assert np.abs(volume.array - expected(volume)).max() <= 0.51
    assert is_dicom_folder(tmp_path / "s")


def test_uneven_gaps_are_resampled_by_position(tmp_path):
    # the gap of 4 mm is twice the usual one, but beside one of 3 mm nothing says that a slice was lost in it
    positions = [(0, 0, z) for z in (0, 2, 4, 6, 9, 13, 15)]
    volume = read_dicom_series(write_series(tmp_path / "s", positions))
    assert np.isclose(volume.geometry.spacing_xyz[2], 2)
    assert volume.geometry.size_xyz[2] == 8
    assert np.abs(volume.array - expected(volume)).max() < 1.5


def test_a_second_pitch_is_the_protocol_s(tmp_path):
    positions = [(0, 0, z) for z in (0, 2, 4, 6, 8, 12, 16, 20)]
    volume = read_dicom_series(write_series(tmp_path / "s", positions))
    assert volume.geometry.size_xyz[2] == 11
    assert np.abs(volume.array - expected(volume)).max() < 1.5


@pytest.mark.parametrize("lost", [{5}, {5, 6}, {1}, {8}, {3, 5}, {2, 7, 8}])
def test_lost_slices_are_refused(tmp_path, lost):
    positions = [(0, 0, 0.625 * z) for z in range(10) if z not in lost]
    with pytest.raises(InputError, match="slices are missing"):
        read_dicom_series(write_series(tmp_path / "s", positions))


def test_a_gap_near_twice_the_pitch_is_no_loss(tmp_path):
    positions = [(0, 0, z) for z in (0, 2, 4, 6, 9.8, 11.8, 13.8)]
    assert read_dicom_series(write_series(tmp_path / "s", positions)).geometry.size_xyz[2] == 7


def test_gantry_tilt_is_straightened(tmp_path):
    angle = np.deg2rad(18)
    normal = (0.0, np.sin(angle), np.cos(angle))
    volume = read_dicom_series(write_series(tmp_path / "s", [(0, 0, z) for z in range(0, 24, 3)], normal=normal))
    axes = volume.geometry.axes
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    inner = np.s_[:, 6:-6]  # rows that slices on both sides show
    assert np.abs(volume.array - expected(volume))[inner].max() < 1.5
    assert (volume.array[0, -1] == -1024).all()  # the first slice slid away from here


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": [(0, 0, z) for z in (0, 2, 4, 6, 20, 22)]}, "slices are missing"),
        ({"positions": [(0, 0, z) for z in (0, 2, 4, 4, 6)]}, "at one position"),
        ({"modality": "MR"}, "modality MR"),
        ({"positions": [(0, 0, 0), (0, 0, 2)]}, "2 slices"),
    ],
)
def test_what_cannot_be_a_series_is_refused(tmp_path, change, words):
    arguments = {"positions": [(0, 0, z) for z in range(0, 10, 2)]} | change
    with pytest.raises(InputError, match=words):
        read_dicom_series(write_series(tmp_path / "s", **arguments))


def test_two_series_in_one_folder_are_refused(tmp_path):
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in range(0, 10, 2)])
    other = write_series(tmp_path / "t", [(0, 0, z) for z in range(20, 30, 2)], series="1.2.3.5")
    for path in other.iterdir():
        path.rename(folder / f"other_{path.name}")
    with pytest.raises(
        InputError, match=r"2 series: 5 files such as 00\.dcm, 5 files such as other_00\.dcm; expected one"
    ):
        read_dicom_series(folder)


def test_copies_of_slices_are_taken_once(tmp_path):
    """And noted; a disk's index is no slice. Another file at one position is refused."""
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    for path in list(folder.iterdir())[:2]:
        (folder / f"copy of {path.name}").write_bytes(path.read_bytes())
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    volume = read_dicom_series(folder)
    assert volume.geometry.size_xyz[2] == 4
    assert volume.notes == ("2 files left out: copies of other slices",)
    other = write_series(tmp_path / "t", [(0, 0, z) for z in (0, 2, 4, 6)], value=7)
    next(other.iterdir()).rename(folder / "other.dcm")
    with pytest.raises(InputError, match="at one position, with other contents"):
        read_dicom_series(folder)


def test_slices_that_were_lost_in_copying_are_not_passed_over(tmp_path):
    folder = write_series(tmp_path / "above" / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    (folder / "04.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"04\.dcm: no DICOM file.*copy the series again"):
        read_dicom_series(folder)
    (folder / "04.dcm").unlink()
    (folder / "05.DCM").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"05\.DCM: a link to nothing"):
        read_dicom_series(folder)
    (folder / "05.DCM").unlink()
    with pytest.raises(InputError, match=r"no DICOM file, but some in s;.*give .*/above/s"):
        read_dicom_series(folder.parent)


def changed(folder, tag, text):
    """Give an element of every slice another value (implicit little endian, as `write_series` writes)."""
    key = b"".join(part.to_bytes(2, "little") for part in tag)
    for path in folder.iterdir():
        raw = path.read_bytes()
        at = raw.index(key, 132)
        length = int.from_bytes(raw[at + 4 : at + 8], "little")
        value = text if isinstance(text, bytes) else text.encode() + b" " * (len(text) % 2)
        path.write_bytes(raw[: at + 4] + len(value).to_bytes(4, "little") + value + raw[at + 8 + length :])
    return folder


@pytest.mark.parametrize(
    ("tag", "text", "words"),
    [
        ((0x28, 0x30), "", "PixelSpacing ''"),
        ((0x28, 0x30), "0\\0", "PixelSpacing"),
        ((0x28, 0x30), "nan\\nan", "PixelSpacing"),
        ((0x28, 0x1052), "abc", "RescaleIntercept 'abc'"),
        ((0x28, 0x1053), "nan", "RescaleSlope 'nan'"),
        ((0x28, 0x1053), "0", "RescaleSlope '0'"),
        ((0x28, 0x1053), "1e300", "check rescale slope"),
        ((0x28, 0x04), "MONOCHROME1", r"shown inverted \(MONOCHROME1\)"),
        ((0x28, 0x10), (60000).to_bytes(2, "little"), "expected 24x60000 pixels of 16 bits"),
    ],
)
def test_what_the_library_makes_up_is_refused(tmp_path, tag, text, words):
    """Without PixelSpacing it says 1 mm; a slope that is no number it leaves out; missing rows it takes from anywhere."""
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    with pytest.raises(InputError, match=words):
        read_dicom_series(changed(folder, tag, text))


@pytest.mark.parametrize("without", ["preamble", "file meta information"])
def test_files_without_a_preamble_are_read(tmp_path, without):
    """As programs of before 1993 wrote them, and some do still."""
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    before = read_dicom_series(folder)
    for path in folder.iterdir():
        raw = path.read_bytes()
        length = int.from_bytes(raw[140:144], "little")
        path.write_bytes(raw[132:] if without == "preamble" else raw[144 + length :])
    assert is_dicom_folder(folder)
    volume = read_dicom_series(folder)
    assert np.array_equal(volume.array, before.array)
    assert volume.geometry == before.geometry
    (folder / "other.dcm").write_bytes(b"\x08\x00" + bytes(200))
    with pytest.raises(InputError, match=r"other\.dcm: no DICOM file"):
        read_dicom_series(folder)


def test_metal_beyond_16_bits_is_kept(tmp_path):
    """65,000 HU came out as -536."""
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)], value=30_000)
    volume = read_dicom_series(changed(folder, (0x28, 0x1053), "2"))
    assert (volume.array == 60_000).all()


def test_colour_is_one_sentence(tmp_path):
    for k in range(3):
        image = sitk.GetImageFromArray(np.zeros((1, 12, 10, 3), np.uint8), isVector=True)
        tags = {"0020|0032": f"0\\0\\{3 * k}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|000e": "1.2", "0008|0060": "CT",
                "0028|0030": "2\\2", "0008|0016": "1.2.840.10008.5.1.4.1.1.2"}  # fmt: skip
        for key, text in tags.items():
            image.SetMetaData(key, text)
        image.SetOrigin((0.0, 0.0, 3.0 * k))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(tmp_path / f"{k}.dcm"))
        writer.Execute(image)
    with pytest.raises(InputError, match="a picture in colour"):
        read_dicom_series(tmp_path)


def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(InputError, match="no DICOM file"):
        read_dicom_series(tmp_path)


def test_names_that_are_no_utf8(tmp_path):
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    for path in list(folder.iterdir()):
        path.rename(folder / os.fsdecode(b"\xff" + path.name.encode()))
    folder = folder.rename(tmp_path / os.fsdecode(b"k\xf6rper"))
    assert read_dicom_series(folder).geometry.size_xyz == (24, 20, 4)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    """Bytes changed at random, and cut: an answer or one sentence, from one child for all."""
    folder = write_series(tmp_path / "s", [(0, 0, z) for z in (0, 2, 4, 6)])
    path = sorted(folder.iterdir())[1]
    raw, random = path.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(raw)
        for place in random.integers(132, 1200, 4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged if number % 3 else damaged[: int(random.integers(132, len(raw)))])
        try:
            volume = read_dicom_series(folder)
        except ProductError as error:
            message = str(error)
        else:
            message = str(folder)
            assert np.isfinite(volume.array).all()
        assert message.startswith(str(folder))
        assert "\n" not in message
    path.write_bytes(raw)
    assert read_dicom_series(folder).geometry.size_xyz == (24, 20, 4)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real images beside the checkout")
def test_real_series_even_and_tilted():
    even = read_dicom_series(SHARED / "abdomen_ct_dicom/series")
    assert even.geometry.size_xyz == (512, 512, 20)
    assert np.isclose(even.geometry.spacing_xyz[2], 2, atol=0.01)
    tilted = read_dicom_series(SHARED / "head_ct_dicom/series")
    assert np.isclose(tilted.geometry.spacing_xyz[2], 4.0, atol=0.05)  # 4 and 7 mm gaps
    top = (28 - 1, 157.776 - 5.836)
    assert np.isclose(tilted.geometry.spacing_xyz[2] * (tilted.geometry.size_xyz[2] - 1), top[1] * 0.94832, atol=4.1)
    assert 20 < np.median(tilted.array[(tilted.array > 0) & (tilted.array < 80)]) < 45  # brain
