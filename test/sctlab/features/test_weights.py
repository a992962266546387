"""Downloading weights: pins, hashes, and what happens without a network."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sctlab.commands.features import app
from sctlab.features import load_extractor, save_extractor, weights
from sctlab.features.registry import entries
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.monitor import Monitor

SOURCES = {name: entry.source for name, entry in entries().items() if entry.source is not None}
REVISION = "a" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights."""
    monkeypatch.setenv("SCTLAB_FEATURES", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that answers every request with one file."""
    path = tmp_path / "hub.safetensors"
    save_file({"x": torch.zeros(3)}, path)

    def answer(source: weights.Source, revision: str, target: Path, mirror: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copyfile(path, target))

    monkeypatch.setattr(weights, "_fetch", answer)
    return path


def fetch(name: str, **options: object) -> Path:
    return weights.download(name, SOURCES[name], **options)


def test_every_pin_is_complete_or_absent() -> None:
    for name, source in SOURCES.items():
        assert (source.revision is None) == (source.sha256 is None), name
        if source.pinned:
            assert len(source.revision) == 40, name
            assert len(source.sha256) == 64, name


def test_a_checked_file_is_kept(hub: Path, cache: Path) -> None:
    path = fetch("sam2.1-small", revision=REVISION, sha256=weights.file_sha256(hub))
    assert path == cache / "sam2.1-small.safetensors"
    assert path.read_bytes() == hub.read_bytes()


def test_of_two_at_once_one_fetches_and_the_other_waits(
    hub: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a cohort ask for the same extractor at the same moment."""
    answer, fetched = weights._fetch, []
    begun, waiting = threading.Event(), threading.Event()

    def slow(source: weights.Source, revision: str, target: Path, mirror: str) -> Path:
        fetched.append(target)
        begun.set()
        assert waiting.wait(60)
        return answer(source, revision, target, mirror)

    class Second(Monitor):
        def info(self, text: str) -> None:
            assert "waiting for it" in text
            waiting.set()

    monkeypatch.setattr(weights, "_fetch", slow)
    options = {"revision": REVISION, "sha256": weights.file_sha256(hub)}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(fetch, "sam2.1-small", **options)
        assert begun.wait(60)
        second = fetch("sam2.1-small", monitor=Second(), **options)
        assert first.result(60) == second
    assert len(fetched) == 1
    assert sorted(p.name for p in cache.iterdir()) == ["sam2.1-small.json", "sam2.1-small.safetensors"]


def test_a_file_with_another_hash_is_refused_and_not_kept(hub: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match="SHA-256"):
        fetch("vgg16")
    assert not list(cache.glob("*"))


def test_without_a_verified_hash_the_first_download_records_it_and_says_so(hub: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="--revision with the 40 digits"):
        fetch("sam2.1-small")
    with pytest.raises(InputError, match="revision 'main'"):
        fetch("sam2.1-small", revision="main")
    lines: list[str] = []

    class Listening(Monitor):
        def warning(self, text: str) -> None:
            lines.append(text)

    path = fetch("sam2.1-small", revision=REVISION, monitor=Listening())
    (line,) = lines
    assert weights.file_sha256(hub) in line
    record = weights.FetchRecord.read(cache / "sam2.1-small.json")
    assert (record.revision, record.sha256, record.first_seen) == (REVISION, weights.file_sha256(hub), True)
    assert fetch("sam2.1-small") == path  # the record knows revision and hash now
    save_file({"x": torch.ones(3)}, hub)
    path.unlink()
    with pytest.raises(WeightsError, match="SHA-256"):  # another file under the same revision
        fetch("sam2.1-small", revision=REVISION)
    assert not path.exists()


def test_an_altered_file_is_refused_when_it_is_loaded(hub: Path, cache: Path) -> None:
    path = fetch("sam2.1-tiny", revision=REVISION)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(WeightsError, match="altered"):
        load_extractor("sam2.1-tiny")


def test_an_unknown_name_lists_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["download", "vgg17"])
    assert isinstance(result.exception, InputError)
    assert "unknown extractor 'vgg17'" in str(result.exception)


def test_without_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="can't be reached") as caught:
        fetch("vgg16")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "place", ["{file}", "{repository}/{file}", "models--{dashes}/snapshots/" + REVISION + "/{file}", "{name}"]
)
def test_a_folder_serves_too(hub: Path, cache: Path, tmp_path: Path, place: str) -> None:
    source = SOURCES["sam2.1-small"]
    words = {
        "file": source.file,
        "repository": source.repository,
        "dashes": source.repository.replace("/", "--"),
        "name": Path(source.file).name,
    }
    file = tmp_path / "folder" / place.format(**words)
    file.parent.mkdir(parents=True)
    shutil.copyfile(hub, file)
    revision = REVISION if "snapshots" in place else None
    path = fetch("sam2.1-small", origin=str(tmp_path / "folder"), revision=revision)
    assert path.read_bytes() == hub.read_bytes()
    record = weights.FetchRecord.read(cache / "sam2.1-small.json")
    assert (record.revision, record.sha256) == (revision or weights.LOCAL, weights.file_sha256(hub))
    save_file({"x": torch.ones(3)}, file)
    path.unlink()
    with pytest.raises(WeightsError, match="SHA-256"):  # another file: the first one's hash holds
        fetch("sam2.1-small", origin=str(tmp_path / "folder"), revision=revision)


def test_a_folder_without_the_file_is_refused(tmp_path: Path, cache: Path) -> None:
    for folder, words in ((tmp_path, "no "), (tmp_path / "missing", "no such folder")):
        with pytest.raises(InputError, match=words):
            fetch("sam2.1-small", origin=str(folder))
    assert not list(cache.glob("*.safetensors*"))


def test_missing_weights_name_the_command() -> None:
    with pytest.raises(WeightsError, match="sctlab features download vgg16"):
        load_extractor("vgg16")


def test_downloaded_weights_are_found_by_name(cache: Path) -> None:
    extractor = load_extractor("sam2.1-tiny", weights="random")
    cache.mkdir()
    save_extractor(extractor, cache / "sam2.1-tiny.safetensors")
    x = torch.rand(1, 1, 32, 32)
    assert torch.equal(load_extractor("sam2.1-tiny")(x)[0], extractor(x)[0])


def test_a_file_put_there_by_hand_must_have_the_recorded_hash(cache: Path) -> None:
    cache.mkdir()
    save_extractor(load_extractor("vgg16", weights="random"), cache / "vgg16.safetensors")
    with pytest.raises(WeightsError, match="57b026918159a6bf"):
        load_extractor("vgg16")


def test_the_list_shows_every_extractor() -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in ("mind", "mind-2d", *SOURCES):
        assert name in result.output
