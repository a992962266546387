"""The network: shapes, the odd encoder, and batch norms folded whatever the encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sctlab_model.errors import InputError
from sctlab_model.network import build_network, windowed
from sctlab_model.network.fusing import fold_batch_norm, fuse_relu
from sctlab_model.network.settings import NetworkSettings, ResidualUNet3DSettings, UNetPlusPlusSettings
from sctlab_model.network.windowed import can_window
from sctlab_model.window import Window

SMALL = (16, 16, 8, 8, 4)


ALL = [
    UNetPlusPlusSettings(encoder="resnet18", slices=3, decoder_channels=SMALL),
    ResidualUNet3DSettings(slices=5, features=(4, 8, 8)),
]


@pytest.mark.parametrize("settings", ALL, ids=lambda s: s.architecture)
class TestEveryArchitecture:
    """What the rest of the product expects behind the one door."""

    def test_middle_slice_in_the_range(self, settings: NetworkSettings) -> None:
        torch.manual_seed(0)
        network = build_network(settings).eval()
        given = torch.rand(2, settings.slices, 64, 96) * 2 - 1
        with torch.inference_mode():
            found = network(given)
            assert found.shape == (2, 1, 64, 96)
            assert found.abs().max() < 1
            torch.testing.assert_close(found, torch.tanh(network.logits(given)))
            alone = torch.cat([network(one[None]) for one in given])
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)  # the batch changes nothing

    def test_a_window_is_a_part_of_the_plane(self, settings: NetworkSettings) -> None:
        torch.manual_seed(0)
        network = fold_batch_norm(build_network(settings), settings.slices)
        given = torch.rand(2, settings.slices, 64, 96) * 2 - 1
        whole, window = Window(0, 64, 0, 96), Window(3, 31, 40, 96)
        with torch.inference_mode():
            wanted = network.logits(given)
            torch.testing.assert_close(network.logits_in(given, window), wanted[window.part], atol=0, rtol=0)
            network.prepare_inference()
            for part in (whole, window):
                found = network.logits_in(given, part)
                torch.testing.assert_close(found, wanted[part.part], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(network.logits(given), wanted, atol=1e-5, rtol=1e-5)

    def test_the_parts_are_the_network(self, settings: NetworkSettings) -> None:
        network = build_network(settings)
        parts = [p for part in network.parts.values() for p in part.parameters()]
        assert {id(p) for p in parts} == {id(p) for p in network.parameters()}
        assert len(parts) == len({id(p) for p in parts})
        assert set(network.half_parts) <= set(network.parts)

    @pytest.mark.parametrize("hu", [0.0, -800.0])
    def test_it_starts_where_it_is_told(self, settings: NetworkSettings, hu: float) -> None:
        torch.manual_seed(0)
        network = build_network(settings).eval()
        given = torch.rand(2, settings.slices, 64, 64)
        with torch.no_grad():
            network.head_bias.zero_()
            before = network.logits(given)
            network.start_at(hu, (-1024, 3071))
            shift = network.logits(given) - before
        wanted = torch.full_like(shift, hu)
        torch.testing.assert_close((torch.tanh(shift) + 1) * 2047.5 - 1024, wanted, atol=0.1, rtol=0)

    def test_it_learns_and_survives_saving(self, settings: NetworkSettings) -> None:
        torch.manual_seed(0)
        network, again = build_network(settings), build_network(settings)
        network(torch.rand(2, settings.slices, 64, 64)).mean().backward()
        grown = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert len(grown) < len(list(network.parameters())) / 2
        again.load_state_dict(network.state_dict())
        given = torch.rand(1, settings.slices, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(again.eval()(given), network.eval()(given), atol=0, rtol=0)


def norms_that_run(network: torch.nn.Module, given: torch.Tensor) -> int:
    """Batch norms that one forward pass calls; encoders may own a classification head that never runs."""
    called = []
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [m.register_forward_pre_hook(lambda module, _: called.append(module)) for m in norms]
    network(given)
    for hook in hooks:
        hook.remove()
    return len(called)


@pytest.mark.parametrize(
    ("encoder", "slices"), [("tu-mobilenetv3_small_100", 5), ("resnet18", 1), ("timm-efficientnet-b0", 3)]
)
def test_any_encoder(encoder: str, slices: int) -> None:
    settings = UNetPlusPlusSettings(encoder=encoder, slices=slices, decoder_channels=SMALL)
    torch.manual_seed(0)
    network = build_network(settings).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    given = torch.rand(1, slices, 32, 64)
    with torch.inference_mode():
        expected = network(given)
        assert expected.shape == (1, 1, 32, 64)
        assert expected.abs().max() <= 1
        assert norms_that_run(network, given) > 10
        folded = fold_batch_norm(network, slices)
        torch.testing.assert_close(folded(given), expected, atol=1e-4, rtol=0)
        assert norms_that_run(folded, given) == 0


def randomise_norms(network: torch.nn.Module) -> None:
    """Otherwise folding them would leave every bias 0, and padding with zeros would often be right."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.uniform_(0.05, 0.3)


def products(network: torch.nn.Module, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    """What a run returns, and how many products its convolutions computed."""
    count = 0

    def add(module: torch.nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal count
        count += output.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    result = run()
    for hook in hooks:
        hook.remove()
    return result, count


@pytest.mark.parametrize("encoder", ["tu-efficientnet_lite0", "tu-mobilenetv3_small_100", "resnet18"])
def test_windows_are_the_same_function_with_less_work(encoder: str) -> None:
    """In corners, in the middle and of one voxel: every margin is wide enough, and not the whole plane."""
    torch.manual_seed(0)
    settings = UNetPlusPlusSettings(encoder=encoder, slices=3, decoder_channels=SMALL)
    network = build_network(settings).eval()
    randomise_norms(network)
    network = fold_batch_norm(network, 3)
    given = torch.rand(1, 3, 320, 384) * 2 - 1
    windows = (
        Window(0, 320, 0, 384), Window(0, 100, 0, 90), Window(200, 320, 250, 384), Window(130, 180, 150, 210),
        Window(161, 162, 163, 164), Window(0, 320, 200, 201),
    )  # fmt: skip
    with torch.inference_mode():
        before, all_products = products(network, lambda: network.logits(given))
        decoder = sum(p.numel() for p in network.parts["decoder"].parameters())
        network.prepare_inference()
        assert sum(p.numel() for p in network.parts["decoder"].parameters()) != decoder
        spent = []
        for window in windows:
            found, count = products(network, lambda window=window: network.logits_in(given, window))
            torch.testing.assert_close(found, before[window.part], atol=2e-5, rtol=1e-4)
            spent.append(count)
    assert spent[0] < 0.95 * all_products
    assert max(spent[1:]) < spent[0]
    assert spent[4] == min(spent)


def test_a_margin_that_is_too_narrow_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would notice one convolution less."""
    torch.manual_seed(0)
    network = build_network(UNetPlusPlusSettings(encoder="resnet18", slices=3, decoder_channels=SMALL)).eval()
    randomise_norms(network)
    network = fold_batch_norm(network, 3)
    given, window = torch.rand(1, 3, 320, 384) * 2 - 1, Window(128, 176, 128, 192)
    with torch.inference_mode():
        wanted = network.logits(given)[window.part]
        network.prepare_inference()
        monkeypatch.setattr(windowed, "SHAPE_STEP", 2)
        torch.testing.assert_close(network.logits_in(given, window), wanted, atol=2e-5, rtol=1e-4)
        monkeypatch.setattr(windowed, "_RINGS", 1)
        assert (network.logits_in(given, window) - wanted).abs().max() > 1e-3


def test_other_decoders_stay_as_they_are() -> None:
    """Attention looks at the whole plane; an encoder without a finest level leaves nodes out."""
    import segmentation_models_pytorch as smp

    def decoder(encoder: str, **options: object) -> torch.nn.Module:
        made = smp.UnetPlusPlus(encoder, encoder_weights=None, in_channels=3, classes=1, **options)
        fold_batch_norm(made, 3)
        return made.decoder

    assert can_window(decoder("resnet18"))
    assert not can_window(decoder("resnet18", decoder_attention_type="scse"))
    assert not can_window(decoder("resnet18", decoder_interpolation="bilinear"))
    unfolded = smp.UnetPlusPlus("resnet18", encoder_weights=None, in_channels=3, classes=1)
    assert not can_window(unfolded.decoder)


def test_a_network_is_loaded_and_run_without_the_compiler(make_bundle) -> None:
    """Its import takes as long as the rest of the start; what the libraries took from it works when it is called."""
    program = """
import sys, torch
from pathlib import Path
from sctlab_model.backends import load_backend
from sctlab_model.bundle import read_bundle
folder = Path(sys.argv[1])
bundle = read_bundle(folder)
backend = load_backend(folder, bundle.groups[0].folds[0], bundle.recipe.network, torch.device("cpu"))
backend(torch.zeros(1, bundle.recipe.network.slices, 64, 64))
print("torch._dynamo" in sys.modules, "timm" in sys.modules)
from torchvision.ops.roi_align import is_compile_supported
from timm.models.naflexvit import NaFlexRopeIterator
print(is_compile_supported("cpu"), NaFlexRopeIterator.__module__)
import torch._dynamo
print(torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(1)).item())
"""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(make_bundle(folds=1))],
        capture_output=True,
        encoding="utf-8",
    )
    assert ended.stdout.split() == ["False", "True", "True", "timm.models.naflexvit", "1.0"], ended.stderr[-2000:]


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = build_network(UNetPlusPlusSettings())
    assert sum(p.numel() for p in network.parameters()) == 26_084_881


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(InputError, match="resnet9000"):
        build_network(UNetPlusPlusSettings(encoder="resnet9000"))


def test_relus_are_computed_with_their_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = fold_batch_norm(build_network(UNetPlusPlusSettings(encoder="resnet18", slices=3)), 3)
    stacks = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        before = network(stacks)
        assert (
            fuse_relu(network, 3) == 22
        )  # two in each of the decoder's eleven nodes; the encoder's blocks share theirs
        torch.testing.assert_close(network(stacks), before, atol=0, rtol=0)

        def cudnn(x, weight, bias, stride, padding, dilation, groups):
            calls.append(weight.shape)
            return torch.relu(torch.conv2d(x, weight, bias, stride, padding, dilation, groups))

        # A GPU's way, which takes the numbers one by one.
        calls: list[torch.Size] = []
        monkeypatch.setattr(torch, "cudnn_convolution_relu", cudnn)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        torch.testing.assert_close(network(stacks), before, atol=0, rtol=0)
        assert len(calls) == 22


def test_a_relu_of_a_sum_stays() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
            self.plain, self.summed, self.twice = nn.ReLU(), nn.ReLU(), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.twice(self.first(x))
            y = self.second(x)
            y += x  # in place: it is the convolution's own tensor still
            return self.twice(self.plain(self.last(self.summed(y))))

    torch.manual_seed(0)
    network, stacks = Residual(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(stacks)
        assert fuse_relu(network, 3) == 1
        torch.testing.assert_close(network(stacks), before, atol=0, rtol=0)
    assert isinstance(network.summed, nn.ReLU)
    assert isinstance(network.plain, nn.Identity)
