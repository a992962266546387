"""Atomic writing: killed, out of space or failing, there is no partial file under the final name."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path, write_json, write_text
from sctlab_model.io.paths import split_suffix
from sctlab_model.io.reading import read_header, read_values, read_volume
from sctlab_model.io.writing import write_array, write_volume
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((20, 16, 12), (1, 2, 3), (4, 5, 6), (0, 1, 0, 1, 0, 0, 0, 0, -1))
ROOT = Path(__file__).parents[3]


def noise(dtype: type = np.int16, grid: Geometry = GRID) -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 100, grid.shape_zyx).astype(dtype), grid)


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz", "a.nrrd", "deep/er/a.mha"])
@pytest.mark.parametrize("compress", [True, False])
def test_a_volume_comes_back(tmp_path: Path, name: str, compress: bool) -> None:
    volume = noise()
    assert write_volume(volume, tmp_path / name, compress=compress) == tmp_path / name
    back = read_volume(tmp_path / name)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.same_grid(GRID)
    assert [p.name for p in (tmp_path / name).parent.iterdir()] == ["a" + split_suffix(name)[1]]


@pytest.mark.parametrize(
    ("given", "stored"), [(np.float64, "f4"), (np.float16, "f4"), (bool, "u1"), (np.uint8, "u1"), (np.float32, "f4")]
)
def test_element_types(tmp_path: Path, given: type, stored: str) -> None:
    write_volume(noise(given), tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").array.dtype == np.dtype(stored)


def test_mha_geometry_is_exact(tmp_path: Path) -> None:
    grid = Geometry((3, 4, 5), (1 / 3, 0.9765625, np.pi), (-123.456789012345, 1e-7, 1e5 / 7))
    write_volume(noise(grid=grid), tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").geometry == grid


@pytest.mark.parametrize("name", ["a.mha", "a.nii", "a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize("vectors", [False, True])
def test_other_readers_agree(tmp_path: Path, name: str, vectors: bool) -> None:
    """ITK reads the same voxels in the same place, with metadata in the header; the same image gives the same bytes."""
    array = np.random.default_rng(0).normal(size=(3, *GRID.shape_zyx)[0 if vectors else 1 :]).astype(np.float32)
    metadata = {"sCT_weights": "demo = 1: x", "sCT_revision": "abc"}
    write_array(array, GRID, tmp_path / name, metadata=metadata)
    image = sitk.ReadImage(str(tmp_path / name))
    expected = np.moveaxis(array, 0, -1) if vectors else array
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    np.testing.assert_allclose(image.GetSpacing(), GRID.spacing_xyz, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), GRID.origin_xyz, atol=1e-5)
    np.testing.assert_allclose(image.GetDirection(), GRID.direction, atol=1e-6)
    if ".nii" not in name:
        assert {k: image.GetMetaData(k) for k in metadata} == metadata
    header = read_header(tmp_path / name, components=3 if vectors else 1)
    np.testing.assert_array_equal(read_values(header), array)
    before = (tmp_path / name).read_bytes()
    assert b"demo = 1: x" in (gzip.decompress(before) if name.endswith("gz") else before)
    write_array(array, GRID, tmp_path / name, metadata=metadata)
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    "metadata",
    [{"NDims": "2"}, {"a key": "x"}, {"key\n": "x"}, {"": "x"}, {"a": "two\nlines"}, {"a": "ä"}, {"a": "x" * 2000}],
)
def test_metadata_that_a_header_cannot_hold(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(InputError, match="metadata"):
        write_volume(noise(), tmp_path / "a.mha", metadata=metadata)


@pytest.mark.parametrize("name", [b"k\xf6rper.mha", b"\xff.nii.gz", b"\xfe.nrrd"])
def test_file_names_that_are_no_utf8(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    write_volume(noise(), path)
    np.testing.assert_array_equal(read_volume(path).array, noise().array)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="suffix"):
        write_volume(noise(), tmp_path / "a.tiff")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_text(tmp_path / "file/a.txt", "text")


# --- no room -------------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from sctlab_model.errors import ResourceError
from sctlab_model.volume import Geometry, Volume
from sctlab_model.io.atomic import write_text
from sctlab_model.io.writing import write_volume

path, compress = Path(sys.argv[1]), sys.argv[2] == "True"
volume = Volume(np.random.default_rng(0).integers(-1000, 1000, (40, 100, 100)).astype(np.int16), Geometry((100, 100, 40)))
write = lambda: write_volume(volume, path, compress=compress) if path.suffix != ".txt" else write_text(path, "x" * 300_000)
write()
size = path.stat().st_size
path.unlink()
for limit in (size - 1, size - 20, size - 5000, size // 2, 100, 0):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write()
        sys.exit(f"{limit} bytes were enough for {size}")
    except ResourceError as error:
        assert "can't be written" in str(error), error
        assert str(path) in str(error), error
    assert list(path.parent.iterdir()) == []
print("refused")
"""


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.mha", True),
        ("a.mha", False),
        ("a.nii.gz", True),
        ("a.nii", False),
        ("a.nrrd", True),
        ("a.nrrd", False),
        ("a.txt", False),
    ],
)
def test_no_room(tmp_path: Path, name: str, compress: bool) -> None:
    """A limit on the file size fails a write anywhere, as a full disk does."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / name), str(compress)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout == "refused\n"
    assert list(tmp_path.iterdir()) == []


# --- killed ---------------------------------------------------------------------------------------------------------------

ENDLESS = """
import sys
import numpy as np
from sctlab_model.volume import Geometry, Volume
from sctlab_model.io.writing import write_volume
volume = Volume(np.random.default_rng(0).integers(-1000, 1000, (60, 256, 256)).astype(np.int16), Geometry((256, 256, 60)))
print("ready", flush=True)
while True:
    write_volume(volume, sys.argv[1])
"""


def start_endless(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(folder / "a.mha")], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.4, None])
def test_killed_at_any_moment(tmp_path: Path, delay: float | None) -> None:
    """Whenever it is killed, the final name holds a whole image or nothing; None: while a write is under way."""
    folder = tmp_path / "out"
    process = start_endless(folder)
    if delay is None:
        deadline = time.monotonic() + 30
        while not any(p.name.startswith(".a.") for p in folder.iterdir()):
            assert time.monotonic() < deadline
    else:
        time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    if (folder / "a.mha").exists():
        expected = np.random.default_rng(0).integers(-1000, 1000, (60, 256, 256)).astype(np.int16)
        np.testing.assert_array_equal(read_volume(folder / "a.mha").array, expected)
    assert {p.name[:3] for p in folder.iterdir()} <= {"a.m", ".a."}
