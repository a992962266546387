"""The network: shapes, the odd encoder, and batch norms folded whatever the encoder."""

from __future__ import annotations

import pytest
import torch

from sctlab_model.errors import InputError
from sctlab_model.network import build_network, fold_batch_norm
from sctlab_model.recipe import NetworkSettings

SMALL = (16, 16, 8, 8, 4)


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
    settings = NetworkSettings(encoder=encoder, slices=slices, decoder_channels=SMALL)
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


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = build_network(NetworkSettings())
    assert sum(p.numel() for p in network.parameters()) == 26_084_881


def test_unknown_encoders_are_refused() -> None:
    with pytest.raises(InputError, match="resnet9000"):
        build_network(NetworkSettings(encoder="resnet9000"))
