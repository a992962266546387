"""export.sh: the weights tarball has the layout that /opt/ml/model is read with."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "made" / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir(parents=True)
        folder.joinpath("bundle.json").write_text("{}")
        folder.joinpath("fold_0.safetensors").write_bytes(b"weights")
        folder.joinpath("fold_0.safetensors").chmod(0o600)
    return folders


def export(output: Path, *bundles: Path) -> subprocess.CompletedProcess[str]:
    command = [ROOT / "export.sh", "--weights-only", "--output", output, *bundles]
    return subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", timeout=60)


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as opened:
        return {info.name.removeprefix("./"): info for info in opened if info.isfile()}


def test_one_bundle_lies_at_the_root(bundles, tmp_path):
    assert export(tmp_path, bundles[0]).returncode == 0
    files = members(tmp_path / "model.tar.gz")
    assert set(files) == {"bundle.json", "fold_0.safetensors"}
    # The container's user is another one.
    assert all(info.mode & 0o044 == 0o044 for info in files.values())


def test_several_bundles_lie_in_folders(bundles, tmp_path):
    assert export(tmp_path, *bundles).returncode == 0
    assert set(members(tmp_path / "model.tar.gz")) == {
        f"{bundle.name}/{name}" for bundle in bundles for name in ("bundle.json", "fold_0.safetensors")
    }


def test_a_folder_without_a_bundle_is_refused(bundles, tmp_path):
    done = export(tmp_path / "out", bundles[0], tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path}: no bundle.json" in done.stderr
    assert not (tmp_path / "out").exists()
