"""TorchScript models as others write them: U-Nets that take only some sizes, and models that fail."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sctlab.features import FeatureExtractor, Statistics, load_extractor
from sctlab.features.trust import trust_file
from sctlab_model.errors import InputError


class UNet(nn.Module):
    """Strides 1, 4 and, behind transposed convolutions, 1 again; without padding of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.down = nn.Conv3d(4, 6, 3, stride=2, padding=1)
        self.deep = nn.Conv3d(6, 8, 3, stride=2, padding=1)
        self.up = nn.Sequential(nn.ConvTranspose3d(8, 6, 2, stride=2), nn.ConvTranspose3d(6, 4, 2, stride=2))
        self.last = nn.Conv3d(8, 5, 3, padding=1)

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        x = (x - stats[2]) / stats[3] if stats.numel() == 4 else (x - x.mean()) / x.std()
        found = [self.first(x)]
        if int(nb_layers[0]) > 1:
            found.append(self.deep(torch.relu(self.down(torch.relu(found[0])))))
        if int(nb_layers[0]) > 2:
            found.append(self.last(torch.cat((self.up(found[1]), found[0]), dim=1)))
        return found


class LastOnly(UNet):
    """Shows its last layer alone, so that no layer tells the strides inside."""

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        first = self.first(x)
        deep = self.deep(torch.relu(self.down(torch.relu(first))))
        return [self.last(torch.cat((self.up(deep), first), dim=1))]


class Fussy(UNet):
    """Fails below 40 voxels."""

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        if x.shape[2] < 40:
            raise RuntimeError("no less than 40 voxels")
        return [self.first(x)]


def load(model: nn.Module, folder: Path) -> FeatureExtractor:
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    trust_file(path)
    return load_extractor(path)


@pytest.fixture
def model() -> UNet:
    torch.manual_seed(0)
    return UNet()


def test_a_unet_takes_any_size(model: UNet, tmp_path: Path) -> None:
    extractor = load(model, tmp_path)
    assert [(v.stride, v.offset) for v in extractor.layers] == [(1, 0.0), (4, 0.0), (1, 0.0)]
    x = torch.rand(2, 1, 33, 21, 26, generator=torch.Generator().manual_seed(1)).requires_grad_()
    x = x * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1, 1)
    found = extractor(x)
    assert [tuple(f.shape[2:]) for f in found] == [(33, 21, 26), (9, 6, 7), (33, 21, 26)]
    assert found[2].requires_grad
    for number in range(2):  # each image by its own statistics, without the padding
        alone = extractor(x[number : number + 1], statistics=Statistics.of(x[number]))
        for a, b in zip(found, alone, strict=True):
            torch.testing.assert_close(a[number : number + 1], b, rtol=1e-3, atol=1e-3)


def test_a_size_that_fits_is_left_as_it_is(model: UNet, tmp_path: Path) -> None:
    x = torch.rand(1, 1, 32, 20, 24, generator=torch.Generator().manual_seed(1))
    expected = model(x, torch.tensor([3]), torch.empty(0), torch.empty(0))
    for a, b in zip(load(model, tmp_path)(x), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_strides_that_no_layer_shows_are_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    extractor = load(LastOnly(), tmp_path)
    assert extractor.multiple == 4
    assert extractor(torch.rand(1, 1, 31, 18, 21))[0].shape[2:] == (31, 18, 21)


def test_a_full_resolution_layer_lies_on_the_voxels(model: UNet, tmp_path: Path) -> None:
    """Its field of view holds what every voxel sees, centred on the voxel."""
    with torch.no_grad():
        model.up[1].weight *= 100  # what comes through the transposed convolutions weighs most
    layer = load(model, tmp_path).layers[2]
    x = torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    feature = model(x, torch.tensor([3]), torch.tensor([0.0, 1.0, 0.5, 0.3]), torch.empty(0))[2]
    (gradient,) = torch.autograd.grad(feature[0, :, 32, 32, 32].sum(), x)
    profile = gradient.abs().amax(dim=(0, 1, 3, 4))
    left, *_, right = (torch.nonzero(profile > 0.01 * profile.max()).flatten() - 32).tolist()
    assert -left != right  # the transposed convolutions see more of one side
    assert (layer.offset, layer.field_of_view) == (0, 2 * max(-left, right) + 1)


def test_a_failure_inside_the_model_is_one_sentence(tmp_path: Path) -> None:
    extractor = load(Fussy(), tmp_path)
    assert extractor(torch.rand(1, 1, 41, 20, 20))[0].shape[2:] == (41, 20, 20)
    with pytest.raises(InputError, match=r"model: it fails on an input of 20x20x20 voxels \(no less than 40") as caught:
        extractor(torch.rand(1, 1, 20, 20, 20))
    assert "\n" not in str(caught.value)
