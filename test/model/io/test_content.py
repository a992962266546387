"""A file that is something else than its name says gets that said, with what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.errors import InputError
from sctlab_model.io.paths import expand_home
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


@pytest.fixture
def nifti(tmp_path: Path) -> bytes:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    return write_volume(Volume(array, Geometry((4, 3, 2), (1, 1, 2))), tmp_path / "good.nii").read_bytes()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_volume(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_other_names_of_images(tmp_path: Path, nifti: bytes) -> None:
    packed = gzip.compress(nifti)
    assert refusal(tmp_path / "a.nii", packed) == (
        "compressed NIfTI; expected what its name says (.nii); call it a.nii.gz"
    )
    assert refusal(tmp_path / "a.nii.gz", nifti).startswith(
        "NIfTI; expected what its name says (.nii.gz); call it a.nii"
    )
    assert refusal(tmp_path / "a.gz", packed).endswith("it is compressed NIfTI: call it a.nii.gz")
    assert refusal(tmp_path / "scan", packed).startswith("a name without suffix; expected one of")
    assert refusal(tmp_path / "scan", nifti).endswith("it is NIfTI: call it scan.nii")
    assert refusal(tmp_path / "a.mha", b"NRRD0004\n").endswith("call it a.nrrd")
    (tmp_path / "voxels.mhd").write_bytes(b"NDims = 3\n")
    assert refusal(tmp_path / "voxels.raw", bytes(500)).endswith("give its header, voxels.mhd")
    pair = bytearray(nifti)
    pair[344:348] = b"ni1\0"
    assert "the header of a NIfTI pair" in refusal(tmp_path / "a.hdr", bytes(pair))
    pair[344:348] = bytes(4)
    assert "an Analyze header" in refusal(tmp_path / "a.nii", bytes(pair))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file; expected what its name says"),
        (b"<!DOCTYPE html><html>not found", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "a zip archive; expected what its name says"),
        (b"\x89PNG" + bytes(40), "a picture"),
        (bytes(128) + b"DICM" + bytes(40), "dcm2niix"),
    ],
)
def test_what_is_no_image(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path / name, content)


def test_a_damaged_image_is_called_damaged(tmp_path: Path, nifti: bytes) -> None:
    """And not something else."""
    packed = gzip.compress(nifti)
    assert "stops early" in refusal(tmp_path / "a.nii.gz", packed[:30])
    assert "damaged compressed data" in refusal(tmp_path / "a.nii.gz", packed[:40] + bytes(8) + packed[48:])
    assert "neither 348 nor 540" in refusal(tmp_path / "a.nii.gz", gzip.compress(b"x" + nifti[1:]))


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell doesn't expand `--out=~/x`: results went into a folder called `~`."""
    monkeypatch.setenv("HOME", "/home/anna")
    words = ["--input", "~/mr.nii.gz", "--output=~/out", "a~b", "--correct-offset", "-5"]
    expected = ["--input", "/home/anna/mr.nii.gz", "--output=/home/anna/out", "a~b", "--correct-offset", "-5"]
    assert expand_home(words) == expected
