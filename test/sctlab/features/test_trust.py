"""TorchScript is code: it runs only where somebody vouches for the file."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sctlab.commands.features import app
from sctlab.features import load_extractor, weights
from sctlab.features.trust import load_torchscript, trust_file
from sctlab.features.weights import FetchRecord
from sctlab_model.errors import InputError


class Writes(torch.nn.Module):
    """Writes a file as soon as it is loaded: TorchScript runs `__setstate__`, and `torch.from_file` makes files."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        assert torch.from_file(state[0], shared=True, size=8).sum() == 0  # used, or it would be left out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of downloaded weights and trust."""
    monkeypatch.setenv("SCTLAB_FEATURES", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model that writes `written` when it is loaded."""
    path = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Writes(str(tmp_path / "written"))).save(str(path))
    assert not (tmp_path / "written").exists()
    return path


def test_nothing_in_a_file_runs_before_somebody_vouches_for_it(hostile: Path, tmp_path: Path) -> None:
    for load in (load_torchscript, load_extractor):
        with pytest.raises(InputError, match=r"nobody vouches.*TorchScript is code.*features trust model.pt"):
            load(hostile)
    assert not (tmp_path / "written").exists()
    assert CliRunner().invoke(app, ["trust", str(hostile)]).exit_code == 0
    load_torchscript(hostile)
    assert (tmp_path / "written").exists()  # the danger is real: this is what trust allows


def test_trust_goes_with_the_content_not_with_the_name(hostile: Path, torchscript_file: Path) -> None:
    trust_file(torchscript_file)
    load_torchscript(torchscript_file)
    torchscript_file_content = torchscript_file.read_bytes()
    hostile_content = hostile.read_bytes()
    hostile.write_bytes(torchscript_file_content)
    load_torchscript(hostile)
    hostile.write_bytes(hostile_content)
    with pytest.raises(InputError, match="nobody vouches"):
        load_torchscript(hostile)


def test_what_was_downloaded_is_trusted_as_long_as_it_is_the_same(torchscript_file: Path, cache: Path) -> None:
    cache.mkdir()
    path = cache / "ts-m730-2.pt"
    path.write_bytes(torchscript_file.read_bytes())
    with pytest.raises(InputError, match="nobody vouches"):
        load_torchscript(path)
    record = FetchRecord(repository="a/b", file="c.pt", revision="a" * 40, sha256=weights.file_sha256(path))
    record.write(path.with_suffix(".json"))
    load_torchscript(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="nobody vouches"):
        load_torchscript(path)
