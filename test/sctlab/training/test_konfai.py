"""Checkpoints of the reference implementation: the same outputs, and nothing in them is executed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from model.bundle import load_fold, read_bundle
from model.errors import WeightsError
from model.interface import Task
from model.network import build_network
from sctlab.training.konfai import pack_konfai, read_konfai

RECIPE = """
recipe: {task: mri, canvas: {crop: none, fixed_yx: [512, 512]}, network: {encoder: resnet18}}
stages: [{name: all, iterations: 1}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def reference_network():
    """KonfAI's network of smp.UnetPlusPlus with a tanh head after it."""
    pytest.importorskip("konfai", reason="the reference implementation isn't installed")
    import segmentation_models_pytorch as smp
    from konfai.network import network

    class Synthesis(network.Network):
        def __init__(self) -> None:
            super().__init__(in_channels=3, dim=2)
            self.add_module("Model", smp.UnetPlusPlus("resnet18", encoder_weights=None, in_channels=3, classes=1))
            self.add_module("Tanh", torch.nn.Tanh())

    torch.manual_seed(0)
    return Synthesis().eval()


def test_outputs_are_equal(tmp_path: Path, recipe: str) -> None:
    reference = reference_network()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    # As its trainer writes it: states by network, optimiser state and counters beside them.
    torch.save({"epoch": 3, "it": 100, "loss": 0.1, "Model": reference.network_states()}, tmp_path / "best.pt")
    bundle = pack_konfai(
        [tmp_path / "best.pt"], tmp_path / "bundle", task=Task.MRI, recipe=recipe, regions="AB,TH", storage="float32"
    )
    assert bundle.recipe.network.slices == 3
    assert bundle.recipe.canvas.fixed_yx == (512, 512)
    assert bundle == read_bundle(tmp_path / "bundle")
    ours = build_network(bundle.recipe.network)
    ours.load_state_dict(load_fold(tmp_path / "bundle", bundle.groups[0].folds[0]))
    ours.eval()
    source = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        found = ours(source)
        wanted = [value for _, value in reference.named_forward(source)][-1]
    torch.testing.assert_close(found, wanted, atol=0, rtol=0)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_is_executed(tmp_path: Path) -> None:
    torch.save({"Model": {"net": {}}, "extra": Bomb(tmp_path / "executed")}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="mkdir"):
        read_konfai(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state_dict": {}}, "no 'Model'"),
        ({"Model": {"net": {"Block.weight": torch.zeros(3)}}}, "Block.weight"),
        ({"Model": {"net": {}}}, "0 networks"),
        ({"Model": {"a": {"encoder.w": torch.zeros(1)}, "b": {"encoder.w": torch.zeros(1)}}}, "2 networks"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path: Path, state: dict, words: str) -> None:
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=words):
        read_konfai(tmp_path / "other.pt")


def test_another_architecture_is_refused(tmp_path: Path, recipe: str) -> None:
    weights = build_network(_resnet34()).unet.state_dict()
    torch.save({"Model": {"net": {f"Model.{k}": v for k, v in weights.items()}}}, tmp_path / "large.pt")
    with pytest.raises(WeightsError, match="resnet18"):
        pack_konfai(
            [tmp_path / "large.pt"], tmp_path / "b", task=Task.MRI, recipe=recipe, regions="AB", storage="float32"
        )
    assert not (tmp_path / "b" / "bundle.json").exists()


def _resnet34():
    from model.recipe import NetworkSettings

    return NetworkSettings(encoder="resnet34", slices=3)


def test_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    for name in ("text.pt", "missing.pt"):
        with pytest.raises(WeightsError, match=name):
            read_konfai(tmp_path / name)
