"""Weights by name: what is not the published file is refused, and a first fetch records the hashes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from published_weights import PATHS, MakeRegistry, fetch

from sctlab.weights.install import FirstHashes, install
from sctlab.weights.registry import read_registry
from sctlab_model.bundle import read_bundle
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.monitor import Monitor


def test_another_file_is_refused_and_leaves_nothing(published: Path, registry: MakeRegistry, home: Path) -> None:
    with pytest.raises(WeightsError, match="isn't the published file"):
        fetch(registry(wrong=True), "--from", str(published))
    assert not home.exists() or not list(home.iterdir())
    with pytest.raises(InputError, match=r"no models/Task_1/CV_0\.pt"):
        fetch(registry(), "--from", str(published.parent))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>Please sign in</html>", "a web page"),
    ],
)
@pytest.mark.parametrize("hashed", [True, False])
def test_what_clones_and_portals_leave_is_named(
    published: Path, registry: MakeRegistry, tmp_path: Path, content: bytes, words: str, hashed: bool
) -> None:
    folder = shutil.copytree(published, tmp_path / "clone")
    (folder / PATHS[1]).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"CV_1\.pt: {words}.*git lfs pull"):
        fetch(registry(hashed=hashed), "--from", str(folder))


@pytest.mark.parametrize("as_mirror", [False, True])
def test_half_a_file_that_nobody_verified_does_not_hold(
    published: Path, registry: MakeRegistry, tmp_path: Path, home: Path, as_mirror: bool
) -> None:
    """Its hash is recorded when it was read: the whole file would be refused ever after."""
    folder = tmp_path / "copy" / "them" / "theirs" / "resolve" / ("d" * 40)
    shutil.copytree(published, folder)
    origin = (tmp_path / "copy").as_uri() if as_mirror else str(folder)
    whole = (folder / PATHS[1]).read_bytes()
    (folder / PATHS[1]).write_bytes(whole[: len(whole) // 2])
    entry = read_registry(registry(hashed=False)).find("short")
    with pytest.raises(WeightsError, match="can't be read"):
        install(entry, revision="d" * 40, origin=origin)
    assert not list(home.glob("*.json"))
    (folder / PATHS[1]).write_bytes(whole)
    assert read_bundle(install(entry, revision="d" * 40, origin=origin)).name == "long-name"
    assert (home / "long-name.hashes.json").is_file()


def test_unknown_hashes_are_recorded_once_and_hold(published: Path, registry: MakeRegistry, home: Path) -> None:
    lines: list[str] = []

    class Listening(Monitor):
        def warning(self, text: str) -> None:
            lines.append(text)

    entry = read_registry(registry(hashed=False)).find("short")
    with pytest.raises(InputError, match="--revision with the 40 digits"):
        install(entry)
    with pytest.raises(InputError, match="a branch may change"):
        install(entry, revision="main", origin=str(published))
    folder = install(entry, revision="d" * 40, origin=str(published), monitor=Listening())
    assert "no hash was known" in lines[0]
    record = FirstHashes.read(home / "long-name.hashes.json")
    assert record.sha256 == {p: file_sha256(published / p) for p in PATHS}
    (folder / "bundle.json").unlink()
    FirstHashes(revision="d" * 40, sha256={p: "1" * 64 for p in PATHS}).write(home / "long-name.hashes.json")
    with pytest.raises(WeightsError, match="1111"):
        install(entry, revision="d" * 40, origin=str(published))
