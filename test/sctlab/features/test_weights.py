"""Downloading weights: pins, hashes, and what happens without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sctlab.commands.features import app
from sctlab.features import load_extractor, weights
from sctlab.features.registry import save_extractor
from sctlab_model.errors import InputError, WeightsError

HASH = "0" * 64


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
    monkeypatch.setattr(weights, "_fetch", lambda name, source, revision: path)
    return path


def test_every_pin_is_complete_or_absent() -> None:
    for name, source in weights.SOURCES.items():
        assert (source.revision is None) == (source.sha256 is None), name
        if source.pinned:
            assert len(source.revision) == 40, name
            assert len(source.sha256) == 64, name


def test_a_checked_file_is_kept(hub: Path, cache: Path) -> None:
    path = weights.download("sam2.1-small", revision="a" * 40, sha256=weights.sha256_of(hub))
    assert path == cache / "sam2.1-small.safetensors"
    assert path.read_bytes() == hub.read_bytes()


def test_a_file_with_another_hash_is_refused_and_not_kept(hub: Path, cache: Path) -> None:
    with pytest.raises(WeightsError, match="SHA-256"):
        weights.download("vgg16")
    assert not list(cache.glob("*"))


def test_without_a_verified_pin_the_user_must_give_one(hub: Path) -> None:
    with pytest.raises(InputError, match="--revision and --sha256"):
        weights.download("sam2.1-small")
    with pytest.raises(InputError, match="unknown extractor"):
        weights.download("vgg17")


def test_without_network_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    def unreachable(*_: object, **__: object) -> None:
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(httpx, "head", unreachable)
    with pytest.raises(InputError, match="hub can't be reached") as caught:
        weights.download("vgg16")
    assert "\n" not in str(caught.value)


def test_missing_weights_name_the_command() -> None:
    with pytest.raises(WeightsError, match="sctlab features download vgg16"):
        load_extractor("vgg16")


def test_downloaded_weights_are_found_by_name(cache: Path) -> None:
    extractor = load_extractor("vgg16", weights="random")
    cache.mkdir()
    save_extractor(extractor, cache / "vgg16.safetensors")
    x = torch.rand(1, 1, 20, 20)
    assert torch.equal(load_extractor("vgg16")(x)[0], extractor(x)[0])


def test_the_list_shows_every_extractor() -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in ("mind, mind-2d", *weights.SOURCES):
        assert name in result.output
