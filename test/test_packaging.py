"""The wheel: every package is in it, and what it installs converts with the weights that it brings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
FOLDERS = ("model", "sctlab", "weights")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel of this checkout was installed, without its requirements."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*FILES, *(p.name for p in ROOT.glob("requirements*.txt"))):
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, *words: str | Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], cwd=installed.parent, env=environment, capture_output=True, encoding="utf-8"
    )


@pytest.mark.heavy
def test_every_module_and_data_file_is_in_the_wheel(installed: Path) -> None:
    for folder, package in (("model", "sctlab_model"), ("sctlab", "sctlab"), ("weights", "sctlab_model/weights")):
        files = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*") if p.is_file()}
        wanted = {p for p in files if "__pycache__" not in p.parts}
        assert not {str(p) for p in wanted if not (installed / package / p).is_file()}, package
    assert not {p.name for p in installed.iterdir()} & {"model", "test", "benchmarks", "docs", "weights"}


@pytest.mark.heavy
def test_an_installed_wheel_converts_with_its_own_weights(installed: Path, tmp_path: Path) -> None:
    shipped = run(installed, "-c", "from sctlab_model.bundle import SHIPPED_WEIGHTS; print(SHIPPED_WEIGHTS)")
    assert Path(shipped.stdout.strip()) == installed / "sctlab_model" / "weights", shipped.stderr
    command = (installed / "bin" / "synthetic-ct", "--input", ROOT / "test/cases/mri", "--output", tmp_path)
    ended = run(installed, *command)
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "images" / "synthetic-ct").glob("*.mha"))


@pytest.mark.heavy
def test_the_installed_laboratory_lists_its_bundles(installed: Path) -> None:
    ended = run(installed, installed / "bin" / "sctlab", "info")
    assert ended.returncode == 0, ended.stderr
    assert "demo-mri" in ended.stdout
    assert "demo-cbct" in ended.stdout
