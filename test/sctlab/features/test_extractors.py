"""One contract for every extractor, and what each adds to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sctlab import cli
from sctlab.features import (
    FeatureExtractor,
    MindSSC,
    Source,
    Statistics,
    load_extractor,
    register,
    registry,
    save_extractor,
    wrap_module,
)
from sctlab.features.extractor import min_max
from sctlab.features.networks.nnunet import DEFAULT_PLANS, TotalSegmentator, read_plans
from sctlab_model.errors import InputError, WeightsError

RESIDUAL_PLANS = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_blocks_per_stage": [1, 2, 2],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
}
SMALL_PLANS = {
    "network_class_name": DEFAULT_PLANS["network_class_name"],
    "arch_kwargs": DEFAULT_PLANS["arch_kwargs"]
    | {
        "n_stages": 3,
        "features_per_stage": [4, 8, 16],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2] * 3,
        "n_conv_per_stage_decoder": [2] * 2,
    },
}
FINGERPRINT = {"mean": -50.0, "std": 400.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}


class Pyramid(torch.nn.Module):
    """An ordinary network that returns two feature maps, and takes only even sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.second = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = torch.nn.ConvTranspose2d(6, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(x).relu()
        second = self.second(first).relu()
        return [first + self.up(second), second]


def build(kind: str, torchscript_file: Path) -> FeatureExtractor:
    """An extractor of every kind, the real architectures with random weights."""
    torch.manual_seed(0)
    if kind == "torchscript":
        return load_extractor(torchscript_file)
    if kind == "totalsegmentator":
        return TotalSegmentator(SMALL_PLANS, classes=5)
    if kind == "totalsegmentator-residual":
        return TotalSegmentator(RESIDUAL_PLANS, classes=3, fingerprint=FINGERPRINT)
    if kind == "wrapped":
        return wrap_module("wrapped", Pyramid(), normalise=min_max, channels=3)
    return load_extractor(kind, weights="random")


KINDS = ["mind", "mind-2d", "torchscript", "vgg16", "vgg19", "sam2.1-tiny", "sam2.1-small",
         "totalsegmentator", "totalsegmentator-residual", "wrapped"]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def extractor(request: pytest.FixtureRequest, torchscript_file: Path) -> FeatureExtractor:
    return build(request.param, torchscript_file)


def image(extractor: FeatureExtractor, batch: int = 1) -> torch.Tensor:
    """HU-like values with odd sizes, at least the extractor's minimum."""
    size = [max(33, extractor.minimum_size + 3), max(20, extractor.minimum_size), max(27, extractor.minimum_size)]
    shape = (batch, 1, *size[: extractor.dimension])
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2000 - 1000


class TestContract:
    """What every extractor must do."""

    def test_shapes_follow_the_description(self, extractor: FeatureExtractor) -> None:
        x = image(extractor, batch=2)
        features = extractor(x)
        assert len(features) == len(extractor.layers) == len(extractor.strides)
        for feature, layer in zip(features, extractor.layers, strict=True):
            expected = (2, layer.channels, *(-(-n // layer.stride) for n in x.shape[2:]))
            assert tuple(feature.shape) == expected, layer
            assert torch.isfinite(feature).all()

    def test_gradient_reaches_the_input_and_no_weight(self, extractor: FeatureExtractor) -> None:
        x = image(extractor).requires_grad_()
        torch.stack([f.square().mean() for f in extractor(x)]).sum().backward()
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0
        assert not any(p.requires_grad for p in extractor.parameters())

    def test_stays_in_evaluation_mode(self, extractor: FeatureExtractor) -> None:
        assert not any(m.training for m in extractor.train().modules())

    def test_layers_can_be_chosen_in_any_order(self, extractor: FeatureExtractor) -> None:
        x = image(extractor)
        every = extractor(x)
        last = len(every) - 1
        chosen = extractor(x, layers=[last, 0])
        assert torch.equal(chosen[0], every[last])
        assert torch.equal(chosen[1], every[0])

    def test_own_statistics_are_the_default(self, extractor: FeatureExtractor) -> None:
        if extractor.name.startswith("mind"):
            pytest.skip("MIND's floor is relative to the image by default and fixed with given statistics")
        x = image(extractor)
        given = extractor(x, statistics=Statistics.of(x))
        for a, b in zip(extractor(x), given, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

    def test_wrong_inputs_are_refused(self, extractor: FeatureExtractor) -> None:
        x = image(extractor)
        with pytest.raises(InputError, match=r"expected \[B, C"):
            extractor(x[0])
        with pytest.raises(InputError, match="channels"):
            extractor(x.expand(-1, 2, *x.shape[2:]))
        with pytest.raises(InputError, match="layers"):
            extractor(x, layers=[99])
        with pytest.raises(InputError, match="at least"):
            extractor(x[..., : extractor.minimum_size - 1])


@pytest.mark.parametrize("kind", ["vgg16", "sam2.1-tiny", "totalsegmentator-residual"])
def test_weights_survive_a_safetensors_file(kind: str, torchscript_file: Path, tmp_path: Path) -> None:
    extractor = build(kind, torchscript_file)
    path = save_extractor(extractor, tmp_path / "weights.safetensors")
    again = load_extractor(path)
    x = image(extractor)
    for a, b in zip(extractor(x), again(x), strict=True):
        assert torch.equal(a, b)
    if kind in ("vgg16", "sam2.1-tiny"):
        by_name = load_extractor(kind, weights=path)
        assert torch.equal(extractor(x)[0], by_name(x)[0])


def test_sam_reads_both_spellings_of_the_published_names(tmp_path: Path) -> None:
    extractor = load_extractor("sam2.1-tiny", weights="random")
    inner = {k.removeprefix("trunk."): v.clone() for k, v in extractor.state_dict().items()}
    spellings = {
        "transformers": {f"vision_encoder.backbone.{k}": v for k, v in inner.items()},
        "original": {
            "image_encoder.trunk."
            + k.replace("patch_embed.projection", "patch_embed.proj")
            .replace("layer_norm", "norm")
            .replace("mlp.proj_in", "mlp.layers.0")
            .replace("mlp.proj_out", "mlp.layers.1"): v
            for k, v in inner.items()
        },
    }
    x = image(extractor)
    for name, tensors in spellings.items():
        save_file(tensors | {"sam_mask_decoder.weight": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
        loaded = load_extractor("sam2.1-tiny", weights=tmp_path / f"{name}.safetensors")
        assert torch.equal(loaded(x)[-1], extractor(x)[-1])


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = save_extractor(load_extractor("vgg16", weights="random"), tmp_path / "vgg16.safetensors")
    with pytest.raises(WeightsError, match=r"vgg19 missing"):
        load_extractor("vgg19", weights=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="can't be read"):
        load_extractor("vgg16", weights=path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="pickled"):
        load_extractor("vgg16", weights=path)


def test_a_file_that_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="TorchScript"):
        load_extractor(path)


def test_unknown_names_are_listed() -> None:
    with pytest.raises(InputError, match="mind, mind-2d"):
        load_extractor("resnet")


def test_torchscript_is_probed_for_its_layers(torchscript_file: Path) -> None:
    extractor = load_extractor(torchscript_file)
    assert [(v.channels, v.stride, v.field_of_view, v.offset) for v in extractor.layers] == [(4, 1, 3, 0), (6, 2, 5, 0)]
    x = image(extractor)
    fixed = extractor(x, statistics=Statistics(0, 1, 0, 1))[0]
    assert not torch.allclose(fixed, extractor(x)[0])


def test_totalsegmentator_has_the_published_architecture() -> None:
    extractor = TotalSegmentator()
    assert [v.channels for v in extractor.layers] == [32, 64, 128, 256, 320, 320, 320, 256, 128, 64, 32, 118]
    assert extractor.strides == (1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1, 1)
    features = extractor(torch.rand(1, 1, 64, 64, 64) * 1000, layers=[0, 1])
    assert [f.shape[1] for f in features] == [32, 64]


def test_totalsegmentator_reads_plans(tmp_path: Path) -> None:
    plans = {
        "configurations": {
            "3d_fullres": {"architecture": DEFAULT_PLANS, "normalization_schemes": ["CTNormalization"]},
        },
        "foreground_intensity_properties_per_channel": {"0": FINGERPRINT | {"max": 3000.0}},
    }
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans))
    architecture, fingerprint = read_plans(path)
    assert architecture == DEFAULT_PLANS
    assert fingerprint == FINGERPRINT
    path.write_text(json.dumps({"configurations": {}}))
    with pytest.raises(InputError, match="3d_fullres"):
        read_plans(path)
    with pytest.raises(InputError, match="PlainConvUNet or ResidualEncoderUNet"):
        TotalSegmentator(DEFAULT_PLANS | {"network_class_name": "os.system"})


@pytest.mark.parametrize("plans", [SMALL_PLANS, RESIDUAL_PLANS])
def test_an_nnunet_checkpoint_becomes_an_extractor(plans: dict, tmp_path: Path) -> None:
    """Through the command, from a file as nnU-Net's trainer writes it; equal to its network at every layer."""
    from dynamic_network_architectures.architectures import unet

    torch.manual_seed(0)
    keywords = plans["arch_kwargs"] | {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    kind = getattr(unet, plans["network_class_name"].rsplit(".", 1)[-1])
    network = kind(input_channels=1, num_classes=4, deep_supervision=True, **keywords).eval()
    (tmp_path / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {"architecture": plans}}}))
    torch.save(
        {
            "network_weights": network.state_dict(),
            "current_epoch": 7,
            "_best_ema": np.float64(0.9),
            "optimizer_state": None,
            "init_args": {"configuration": "3d_fullres"},
        },
        tmp_path / "final.pth",
    )
    out = tmp_path / "mine.safetensors"
    words = ["features", "import", tmp_path / "plans.json", tmp_path / "final.pth", out]
    assert cli.run(lambda: cli.app.main([str(w) for w in words], standalone_mode=False)) == 0
    extractor = load_extractor(out)
    x = torch.randn(1, 1, 16, 16, 16)
    features = extractor((x - x.mean()) / x.std())
    with torch.no_grad():
        outputs = network((x - x.mean()) / x.std())
    assert [f.shape[1] for f in features] == [4, 8, 16, 8, 4, 4]
    torch.testing.assert_close(features[-1], outputs[0].softmax(1), rtol=1e-3, atol=1e-4)
    torch.save({"network_weights": {}}, tmp_path / "final.pth")
    assert cli.run(lambda: cli.app.main([str(w) for w in words], standalone_mode=False)) != 0
    assert load_extractor(out).layers == extractor.layers


class TestMind:
    """MIND-SSC itself."""

    @pytest.mark.parametrize("dimension", [2, 3])
    def test_with_and_without_gradient_are_one_feature(self, dimension: int) -> None:
        x = torch.rand(2, 1, *(14, 17, 15)[:dimension])
        extractor = MindSSC(dimension)
        for statistics in (None, Statistics.from_range(0, 1)):
            light = extractor(x, statistics=statistics)[0]
            with_gradient = extractor(x.clone().requires_grad_(), statistics=statistics)[0]
            torch.testing.assert_close(light, with_gradient.detach(), rtol=1e-4, atol=1e-6)

    def test_is_unchanged_by_a_linear_change_of_intensities(self) -> None:
        x = torch.rand(1, 1, 12, 14, 16, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(MindSSC()(x)[0], MindSSC()(500 - 3000 * x)[0], rtol=0, atol=1e-3)

    @pytest.mark.parametrize("dimension", [2, 3])
    def test_a_channel_equals_its_definition_at_one_voxel(self, dimension: int) -> None:
        x = torch.rand(1, 1, *[15] * dimension, generator=torch.Generator().manual_seed(3))
        extractor = MindSSC(dimension, radius=1, dilation=2)
        values = x[0, 0].double()
        values = (values - values.min()) / (values.max() - values.min())
        at = [7] * dimension

        def patch(offset: tuple[int, ...]) -> torch.Tensor:
            return values[tuple(slice(a + 2 * o - 1, a + 2 * o + 2) for a, o in zip(at, offset, strict=True))]

        distances = torch.stack([(patch(a) - patch(b)).square().mean() for a, b in extractor.pairs])
        distances = distances - distances.min()
        expected = torch.exp(-distances / distances.mean())
        found = extractor(x)[0][(0, slice(None), *at)].double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_flat_regions_have_no_structure_under_a_fixed_range(self) -> None:
        x = torch.randn(1, 1, 20, 20, generator=torch.Generator().manual_seed(4))  # 1 HU of noise
        features = MindSSC(2)(x, statistics=Statistics.from_range(-1024, 3071))[0]
        assert features.min() > 0.9

    def test_each_image_of_a_batch_is_normalised_by_itself(self) -> None:
        x = torch.rand(2, 1, 16, 18, generator=torch.Generator().manual_seed(5))
        x[1] *= 100
        both = MindSSC(2)(x)[0]
        torch.testing.assert_close(both[1:], MindSSC(2)(x[1:])[0])


def test_a_range_must_have_an_extent() -> None:
    with pytest.raises(ValueError, match="above"):
        Statistics.from_range(5, 5)


def test_a_wrapped_module_is_measured_and_checked(tmp_path: Path) -> None:
    extractor = wrap_module("wrapped", Pyramid(), normalise=min_max, channels=3)
    assert extractor.strides == (1, 2)
    assert [layer.channels for layer in extractor.layers] == [4, 6]
    assert extractor.layers[1].field_of_view == 5
    assert extractor.normalisation == "min_max"
    single = wrap_module("single", torch.nn.Conv3d(1, 2, 3, padding=1), dimension=3)
    assert [tuple(f.shape) for f in single(torch.rand(1, 1, 8, 9, 10))] == [(1, 2, 8, 9, 10)]
    with pytest.raises(InputError, match="feature maps"):
        wrap_module("flat", torch.nn.Flatten())


def test_a_registered_module_takes_part_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a plug-in would: three lines, then every door of the others is open to it."""
    load_extractor("mind")  # everything of ours is registered
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    @register("pyramid", source=Source("me/pyramid", "pyramid.safetensors"))
    def pyramid() -> FeatureExtractor:
        return wrap_module("pyramid", Pyramid(), normalise=min_max, channels=3)

    first = load_extractor("pyramid", weights="random")
    path = save_extractor(first, tmp_path / "pyramid.safetensors")
    x = image(first)
    for again in (load_extractor(path), load_extractor("pyramid", weights=path)):
        assert torch.equal(again(x)[1], first(x)[1])
    save_file({k: v.clone() for k, v in first.module.state_dict().items()}, path)  # the module's own names
    assert torch.equal(load_extractor("pyramid", weights=path)(x)[1], first(x)[1])
    with pytest.raises(WeightsError, match="features download pyramid --revision COMMIT"):
        load_extractor("pyramid")
