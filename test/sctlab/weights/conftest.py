"""Checkpoints that the reference framework wrote, and a registry that names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

from sctlab_model.io.hashing import file_sha256

sys.path.insert(0, str(Path(__file__).parent))  # with --import-mode=importlib helpers are found only so

from published_weights import PATHS, RECIPE, MakeRegistry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCTLAB_WEIGHTS", str(tmp_path / "installed"))
    return tmp_path / "installed"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the repository has it, with two checkpoints of the framework's own network."""
    pytest.importorskip("konfai", reason="the reference implementation isn't installed")
    import segmentation_models_pytorch as smp
    from konfai.network import network

    class Synthesis(network.Network):
        def __init__(self) -> None:
            super().__init__(in_channels=3, dim=2)
            self.add_module("model", smp.UnetPlusPlus("resnet18", encoder_weights=None, in_channels=3, classes=1))
            self.add_module("Tanh", torch.nn.Tanh())

    folder = tmp_path_factory.mktemp("published")
    for seed, path in enumerate(PATHS):
        torch.manual_seed(seed)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"epoch": 1, "it": 10, "loss": 0.1, "Model": Synthesis().network_states()}, folder / path)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def registry(published: Path, tmp_path: Path) -> MakeRegistry:
    def make(*, hashed: bool = True, wrong: bool = False) -> Path:
        files = [
            {
                "path": p,
                "bytes": (published / p).stat().st_size,
                "sha256": "0" * 64 if wrong else file_sha256(published / p),
            }
            if hashed
            else {"path": p}
            for p in PATHS
        ]
        entry = {
            "name": "long-name", "repository": "them/theirs", "revision": "c" * 40 if hashed else None, "task": "mri",
            "recipe": str(published / "recipe.yaml"), "groups": [{"regions": ["AB", "TH"], "files": files}],
            "registration": {"method": "IMPACT-Reg", "convention": "source_to_ct"},
        }  # fmt: skip
        path = tmp_path / "registry.yaml"
        path.write_text(yaml.safe_dump({"aliases": {"short": "long-name"}, "weights": [entry]}))
        return path

    return make
