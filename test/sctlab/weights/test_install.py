"""Weights by name: from checkpoints that the reference framework wrote to a bundle that `--weights NAME` finds."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from published_weights import PATHS, MakeRegistry, fetch

from sctlab.weights.install import install
from sctlab.weights.registry import read_registry
from sctlab_model.bundle import choose_bundle, load_fold, read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.io.hashing import file_sha256
from sctlab_model.monitor import Monitor


def test_one_command_and_the_name_is_a_value_of_weights(published: Path, registry: MakeRegistry, home: Path) -> None:
    folder = fetch(registry(), "--from", str(published))
    assert choose_bundle(Task.MRI, "short") == folder == home / "short"
    bundle = read_bundle(folder)
    assert (bundle.name, bundle.regions, len(bundle.groups[0].folds)) == ("short", ("AB", "TH"), 2)
    assert bundle.registration.convention == "source_to_ct"
    origin = bundle.provenance["published"]
    assert (origin["repository"], origin["revision"]) == ("them/theirs", "c" * 40)
    assert origin["files"] == {p: file_sha256(published / p) for p in PATHS}
    wanted = torch.load(published / PATHS[1], weights_only=True)["Model"]["Synthesis"]
    loaded = load_fold(folder, bundle.groups[0].folds[1])
    key = "encoder.conv1.weight"
    assert torch.equal(next(v for k, v in loaded.items() if k.endswith(key)), wanted[f"model.{key}"])
    assert (published / PATHS[0]).is_file()  # a local folder is left as it is
    assert [p.name for p in home.iterdir()] == ["short"]


@pytest.mark.parametrize("place", ["as published", "under the repository's name", "the last folder alone"])
def test_a_local_folder_however_it_was_copied(
    published: Path, registry: MakeRegistry, tmp_path: Path, place: str
) -> None:
    root = tmp_path / "copy"
    target = {"as published": root, "under the repository's name": root / "them" / "theirs"}.get(place, root)
    for path in PATHS:
        copy = target / (Path(path).name if place == "the last folder alone" else path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(published / path)
    assert read_bundle(fetch(registry(), "--from", str(root))).name == "short"


def test_a_mirror(published: Path, registry: MakeRegistry, tmp_path: Path, home: Path) -> None:
    """Any place that serves the hub's addresses; downloads are gone when the bundle is there."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve" / ("c" * 40)
    mirror.parent.mkdir(parents=True)
    mirror.symlink_to(published)
    fetch(registry(), "--from", (tmp_path / "mirror").as_uri())
    assert [p.name for p in home.iterdir() if p.name != ".downloads"] == ["short"]
    assert not list(home.rglob("*.pt"))


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("place", ["cache", "cache/models--them--theirs"])
def test_a_cache_of_the_hubs_client(
    published: Path, registry: MakeRegistry, tmp_path: Path, place: str, hashed: bool
) -> None:
    """Files are links from a commit's folder into `blobs/`; of two commits without known hashes one must be named."""
    hub = tmp_path / "cache" / "models--them--theirs"
    for commit in ("c" * 40, "e" * 40):
        for path in PATHS:
            link = hub / "snapshots" / commit / path
            blob = hub / "blobs" / file_sha256(published / path)
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                shutil.copy(published / path, blob)
            link.symlink_to(Path(*[".."] * 4, "blobs", blob.name))
    origin = str(tmp_path / place)
    if hashed:
        folder = fetch(registry(), "--from", origin)
    else:
        with pytest.raises(InputError, match="2 commits in the cache"):
            fetch(registry(hashed=False), "--from", origin)
        folder = fetch(registry(hashed=False), "--from", origin, "--revision", "e" * 40)
    made_from = read_bundle(folder).provenance["published"]
    assert made_from["revision"] == ("c" if hashed else "e") * 40
    assert made_from["files"] == {p: file_sha256(published / p) for p in PATHS}


def test_another_revision_takes_nothing_of_the_first(
    published: Path, registry: MakeRegistry, tmp_path: Path, home: Path
) -> None:
    """Nor is it said to be here; a folder without a commit isn't asked of the hub later."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve"
    for commit in "de":
        shutil.copytree(published, mirror / (commit * 40))
    other, whole = mirror / ("e" * 40), (published / PATHS[1]).read_bytes()
    for path, content in zip(PATHS, reversed(PATHS), strict=True):
        shutil.copy(published / content, other / path)
    (mirror / ("d" * 40) / PATHS[1]).unlink()
    entry, origin = read_registry(registry(hashed=False)).find("short"), (tmp_path / "mirror").as_uri()
    with pytest.raises(InputError, match=r"CV_1\.pt"):
        install(entry, revision="d" * 40, origin=origin)
    assert list(home.rglob("CV_0.pt"))  # waits for the next try
    folder = install(entry, revision="e" * 40, origin=origin)
    assert read_bundle(folder).provenance["published"]["files"] == {
        PATHS[0]: file_sha256(published / PATHS[1]),
        PATHS[1]: file_sha256(published / PATHS[0]),
    }
    assert not list(home.rglob("*.pt"))
    (mirror / ("d" * 40) / PATHS[1]).write_bytes(whole)
    with pytest.raises(InputError, match="installed from revision eeee"):
        install(entry, revision="d" * 40, origin=origin)

    (home / "long-name.hashes.json").unlink()
    shutil.rmtree(folder)
    install(entry, origin=str(published))
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="--revision with the 40 digits"):
        install(entry, origin=origin)


def test_two_at_once_both_have_it(published: Path, registry: MakeRegistry, tmp_path: Path, home: Path) -> None:
    """One fetches, the other waits for it and says so."""
    mirror = tmp_path / "mirror" / "them" / "theirs" / "resolve" / ("c" * 40)
    mirror.parent.mkdir(parents=True)
    mirror.symlink_to(published)
    entry, origin = read_registry(registry()).find("short"), (tmp_path / "mirror").as_uri()
    begun, waiting = threading.Event(), threading.Event()
    lines: list[str] = []

    class First(Monitor):
        def progress(self, done: int, total: int, text: str = "") -> None:
            begun.set()
            assert waiting.wait(60)

    class Second(Monitor):
        def info(self, text: str) -> None:
            lines.append(text)
            waiting.set()

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(install, entry, origin=origin, monitor=First())
        assert begun.wait(60)
        second = install(entry, origin=origin, monitor=Second())
        assert first.result(60) == second == home / "long-name"
    assert ["waiting for it" in lines[0], "is here already" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert sorted(p.name for p in home.iterdir()) == [".downloads", "long-name"]


def test_without_a_network_one_sentence(registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="can't be reached") as caught:
        fetch(registry())
    assert "\n" not in str(caught.value)
    assert "--from" in str(caught.value)


def test_files_where_folders_belong_are_named(published: Path, registry: MakeRegistry, home: Path) -> None:
    with pytest.raises(InputError, match="a file; expected a folder"):
        fetch(registry(), "--from", str(published / PATHS[0]))
    home.write_text("no folder", encoding="utf-8")
    with pytest.raises(InputError, match=str(home)):
        fetch(registry(), "--from", str(published))


def test_a_name_that_is_not_here_names_the_command() -> None:
    with pytest.raises(WeightsError, match="sctlab weights fetch impact-mri"):
        choose_bundle(Task.MRI, "impact-mri")
    assert choose_bundle(Task.MRI, "demo-mri").name == "demo-mri"  # shipped ones have names too
