"""Guarded reading: what every format has in common."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab_model import limits
from sctlab_model.errors import InputError, ResourceError
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
    with pytest.raises(InputError, match="a pipe or a device"):
        read_volume(tmp_path / "a.mha")


# --- compressed streams -----------------------------------------------------------------------------------------------


def noise(path: Path) -> bytes:
    """An image whose voxels compress badly, so that most flipped bits still inflate."""
    made = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, (9, 20, 20)).astype(np.int16))
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.Execute(made)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_no_flipped_bit_passes_in_compressed_voxels(tmp_path: Path, suffix: str) -> None:
    """Every byte of checksum and length, and many of the data; gzip's own header (10 bytes) holds nothing of the image."""
    path = tmp_path / f"a{suffix}"
    raw = noise(path)
    whole = read_volume(path).array
    random = np.random.default_rng(1)
    start = len(raw) - 5000
    for place in [*range(len(raw) - 8, len(raw)), *random.integers(start, len(raw) - 8, 200)]:
        broken = bytearray(raw)
        broken[place] ^= 1 << int(random.integers(8))
        path.write_bytes(broken)
        with pytest.raises(InputError):
            read_volume(path)
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_volume(path).array, whole)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("tail", [b"x", b"\0" * 512, b"\x1f\x8b", b"\x1f\x8b\x08" + bytes(7)])
def test_data_behind_the_end_is_refused(tmp_path: Path, suffix: str, tail: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(noise(path) + tail)
    with pytest.raises(InputError):
        read_volume(path)


def test_members_of_a_gzip_file_are_one_stream(tmp_path: Path) -> None:
    """`pigz --independent` and bgzip write members of 64 kB and less; the last one of bgzip is empty."""
    path = tmp_path / "a.nii.gz"
    inflated = gzip.decompress(noise(path))
    expected = read_volume(path).array
    path.write_bytes(
        b"".join(gzip.compress(inflated[i : i + 1000]) for i in range(0, len(inflated), 1000)) + gzip.compress(b"")
    )
    np.testing.assert_array_equal(read_volume(path).array, expected)
    path.write_bytes(path.read_bytes() + gzip.compress(b"more"))
    with pytest.raises(InputError, match="more data"):
        read_volume(path)


def test_memory_is_asked_for_before_anything_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii"
    written(path)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3h", raw, 42, 800, 800, 800)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(raw[:352]) + bytes(800**3 * 2 // 1000)) + bytes(1_200_000))
    monkeypatch.setattr(limits, "available_memory", lambda: 500 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ResourceError, match=r"800x800x800 voxels needs about 1\.5 GB.*at most 0\.5 GB") as caught:
            read_volume(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.exit_code == 6
    monkeypatch.setattr(limits, "available_memory", lambda: 5 << 30)
    with pytest.raises(ResourceError, match=r"needs about 22\."):  # what comes after reading counts
        read_volume(path, working_bytes=lambda grid: 40 * grid.size_xyz[0] ** 3)
