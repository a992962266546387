"""Checkpoints of the reference implementation: the same outputs, and nothing in them is executed."""

from __future__ import annotations

import os
import sys
import types
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab.training.konfai import pack_konfai, published_recipe, read_konfai
from sctlab_model.bundle import load_fold, read_bundle
from sctlab_model.cases import Task
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.network import build_network
from sctlab_model.network.settings import UNetPlusPlusSettings

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


def checkpoint(path: Path, seed: int, **extra: object) -> Path:
    """A checkpoint of the small network, as the reference's trainer writes it."""
    torch.manual_seed(seed)
    weights = build_network(UNetPlusPlusSettings(encoder="resnet18", slices=3)).unet.state_dict()
    torch.save({"Model": {"net": {f"Model.{k}": v for k, v in weights.items()}}, **extra}, path)
    return path


def test_the_models_of_other_regions_join_the_bundle(tmp_path: Path, recipe: str) -> None:
    """The challenge entry: one model a region group, in one bundle."""
    first, second = (checkpoint(tmp_path / f"{k}.pt", k) for k in range(2))
    pack = partial(pack_konfai, out=tmp_path / "bundle", task=Task.MRI, recipe=recipe, storage="float32")
    pack([first], regions="AB,TH,TH")
    pack([second], regions="HN")
    bundle = pack([first], regions="TH,AB")  # again: its own group alone is replaced
    assert bundle == read_bundle(tmp_path / "bundle")
    assert sorted(sorted(g.regions) for g in bundle.groups) == [["AB", "TH"], ["HN"]]
    for group in bundle.groups:
        wanted = read_konfai(second if "HN" in group.regions else first)
        found = load_fold(tmp_path / "bundle", group.folds[0])
        assert all(torch.equal(found[f"unet.{k}"], wanted[k]) for k in wanted)
    assert [s["file"] for s in bundle.provenance["imported_from"]] == ["1.pt", "0.pt"]
    with pytest.raises(InputError, match="AB"):
        pack([first], regions="AB")
    with pytest.raises(InputError, match="--regions"):
        pack([first], regions=" ,")
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("crop: none", "crop: body"))
    with pytest.raises(InputError, match="another folder"):
        pack([first], regions="AB,TH", recipe=str(other))
    assert bundle == read_bundle(tmp_path / "bundle")


def test_scores_of_numpy_before_2_are_read(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "new.pt", 0, loss=np.float64(0.25))
    old = tmp_path / "old.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for item in source.infolist():
            target.writestr(item, source.read(item).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in zipfile.ZipFile(old).read("new/data.pkl")
    assert read_konfai(old).keys() == read_konfai(path).keys()


@pytest.mark.parametrize("layout", ["flat", "flat in Model", "networks", "deeper", "around", "averages beside"])
def test_layouts_of_checkpoints(tmp_path: Path, layout: str) -> None:
    weights = read_konfai(checkpoint(tmp_path / "usual.pt", 0))
    tensors = {f"UNetpp.model.{k}": v for k, v in weights.items()}
    state = {
        "flat": tensors | {"epoch": 3},
        "flat in Model": {"Model": tensors},
        "networks": {"Model": {"net": tensors}},
        "deeper": {"Model": {"net": {"state_dict": tensors}}},
        "around": {"checkpoint": {"Model": {"net": tensors}}, "optimizer": {"state": {0: {"step": torch.zeros(1)}}}},
        "averages beside": {"Model_EMA": {"net": {k: 2 * v for k, v in tensors.items()}}, "Model": {"net": tensors}},
    }
    torch.save(state[layout], tmp_path / "other.pt")
    found = read_konfai(tmp_path / "other.pt")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[k], weights[k]) for k in weights)


def test_objects_of_the_framework_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published models' checkpoints name `konfai.data.patching.ModelPatch`: it is read as nothing, not imported."""
    module = types.ModuleType("konfai.data.patching")

    class ModelPatch:
        def __init__(self) -> None:
            self.patch_size = [1, 512, 512]

        def __setstate__(self, state: object) -> None:
            raise AssertionError("executed")

    ModelPatch.__module__, ModelPatch.__qualname__ = "konfai.data.patching", "ModelPatch"
    module.ModelPatch = ModelPatch
    with monkeypatch.context() as patch:
        for name in ("konfai", "konfai.data"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        path = checkpoint(tmp_path / "published.pt", 0, patch=ModelPatch())
    with zipfile.ZipFile(path) as archive:
        assert b"ModelPatch" in archive.read("published/data.pkl")
    monkeypatch.setitem(sys.modules, "konfai", None)  # importing it would fail
    assert read_konfai(path).keys() == read_konfai(checkpoint(tmp_path / "plain.pt", 0)).keys()


def test_the_recipe_follows_the_weights() -> None:
    assert published_recipe(Task.MRI, 5) == "mri-submission"
    assert published_recipe(Task.CBCT, 3) == "cbct-submission"
    assert published_recipe(Task.CBCT, 5) == "cbct-paper"


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
        ({"state_dict": {"model.encoder.w": torch.zeros(1)}, "pytorch-lightning_version": "2"}, "no 'Model'"),
        ({"Model": {"net": {"encoder.w": torch.tensor([float("nan")])}}}, "not finite"),
        ({"Model": {"net": {"Block.weight": torch.zeros(3)}}}, "Block.weight"),
        ({"Model": {"net": {}}}, "0 networks"),
        ({}, "nothing in it"),
        ([1, 2], "a list"),
        ({"Model": None}, "a 'Model' that is a NoneType"),
        ({"Model_EMA": {"net": {"encoder.w": torch.zeros(1)}}, "epoch": 3}, "average without the live weights"),
        ({"Model": {"a": {"encoder.w": torch.zeros(1)}, "b": {"encoder.w": torch.zeros(1)}}}, "2 networks"),
    ],
)
def test_other_checkpoints_are_refused(tmp_path: Path, state: object, words: str) -> None:
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=words):
        read_konfai(tmp_path / "other.pt")


def test_another_architecture_is_refused(tmp_path: Path, recipe: str) -> None:
    weights = build_network(UNetPlusPlusSettings(encoder="resnet34", slices=3)).unet.state_dict()
    torch.save({"Model": {"net": {f"Model.{k}": v for k, v in weights.items()}}}, tmp_path / "large.pt")
    with pytest.raises(WeightsError, match="resnet18"):
        pack_konfai(
            [tmp_path / "large.pt"], tmp_path / "b", task=Task.MRI, recipe=recipe, regions="AB", storage="float32"
        )
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_an_even_number_of_slices_is_refused(tmp_path: Path, recipe: str) -> None:
    weights = build_network(UNetPlusPlusSettings(encoder="resnet18", slices=3)).unet.state_dict()
    weights["encoder.conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save({"Model": {"net": weights}}, tmp_path / "four.pt")
    with pytest.raises(WeightsError, match="a network of 4 slices"):
        pack_konfai(
            [tmp_path / "four.pt"], tmp_path / "b", task=Task.MRI, recipe=recipe, regions="AB", storage="float32"
        )


def test_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    for name in ("text.pt", "missing.pt"):
        with pytest.raises(WeightsError, match=name):
            read_konfai(tmp_path / name)


ODD = {
    "a sparse tensor": torch.ones(2, 2).to_sparse(),
    "a meta tensor": torch.ones(2, 2, device="meta"),
    "int8 values": torch.ones(2, 2, dtype=torch.int8),
    "complex64 values": torch.ones(2, 2, dtype=torch.complex64),
    "not finite": torch.full((2, 2), 1e300, dtype=torch.float64),  # in float32
}


@pytest.mark.parametrize("words", ODD)
def test_weights_that_no_network_computes_with_are_refused(tmp_path: Path, words: str) -> None:
    torch.save({"Model": {"net": {"encoder.w": ODD[words]}}}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=rf"{words} in net/encoder\.w"):
        read_konfai(tmp_path / "odd.pt")


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    """Its root is no number: every image would fail."""
    torch.save({"Model": {"net": {"encoder.bn1.running_var": torch.tensor([1.0, -1.0])}}}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match="a negative variance"):
        read_konfai(tmp_path / "odd.pt")


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    """PyTorch doesn't look at the checksums: the fold would compute something else. Files without checksums are read."""
    data = checkpoint(tmp_path / "good.pt", 0).read_bytes()
    place = len(data) // 2  # of a weight
    (tmp_path / "bad.pt").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(WeightsError, match="checksum"):
        read_konfai(tmp_path / "bad.pt")
    from torch.utils.serialization import config

    with config.patch({"save.compute_crc32": False}):
        path = checkpoint(tmp_path / "without.pt", 0)
    assert read_konfai(path).keys() == read_konfai(tmp_path / "good.pt").keys()


def test_weights_that_share_memory_are_packed(tmp_path: Path, recipe: str) -> None:
    weights = build_network(UNetPlusPlusSettings(encoder="resnet18", slices=3)).unet.state_dict()
    weights["encoder.bn1.bias"] = weights["encoder.bn1.running_mean"] = torch.arange(64.0)
    torch.save({"Model": {"net": weights}}, tmp_path / "shared.pt")
    bundle = pack_konfai(
        [tmp_path / "shared.pt"], tmp_path / "b", task=Task.MRI, recipe=recipe, regions="AB", storage="float32"
    )
    found = load_fold(tmp_path / "b", bundle.groups[0].folds[0])
    assert torch.equal(found["unet.encoder.bn1.bias"], torch.arange(64.0))


def test_one_checkpoint_is_not_two_folds(tmp_path: Path, recipe: str) -> None:
    """A copy under another name would count twice in the mean, and make the spread too small."""
    first, copy = tmp_path / "CV_0.pt", tmp_path / "CV_1.pt"
    copy.write_bytes(checkpoint(first, 0).read_bytes())
    for twice in ([first, copy], [first, first]):
        with pytest.raises(WeightsError, match=r"the weights of .*CV_0\.pt"):
            pack_konfai(twice, tmp_path / "b", task=Task.MRI, recipe=recipe, regions="AB", storage="float32")
    assert not (tmp_path / "b").exists()
