"""Extractors under test, with small or random weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sctlab.features.trust import trust_file


class TwoLayers(nn.Module):
    """A small model with the public TorchScript interface."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        x = (x - stats[2]) / stats[3] if stats.numel() == 4 else (x - x.mean()) / x.std()
        found = [torch.relu(self.first(x))]
        if int(nb_layers[0]) > 1:
            found.append(torch.relu(self.second(found[0])))
        return found


@pytest.fixture(scope="session", autouse=True)
def features_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder of downloaded weights and of trust, instead of the user's own."""
    folder = tmp_path_factory.mktemp("features-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCTLAB_FEATURES", str(folder))
        yield folder


@pytest.fixture(scope="session")
def torchscript_file(tmp_path_factory: pytest.TempPathFactory, features_folder: Path) -> Path:
    """A TorchScript extractor with two layers, strides 1 and 2."""
    path = tmp_path_factory.mktemp("features") / "two_layers.pt"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(TwoLayers()).save(str(path))
    trust_file(path)
    return path
