"""The anatomy network as an extractor: where its feature voxels lie, gradients, its file."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from sctlab.features import Statistics, load_extractor
from sctlab.features.networks.anatomy import Anatomy
from sctlab.features.registry import save_extractor
from sctlab_model.anatomy.classes import CLASSES
from sctlab_model.anatomy.network import AnatomyNetwork
from sctlab_model.anatomy.settings import NetworkSettings


@pytest.fixture(scope="module")
def extractor() -> Anatomy:
    torch.manual_seed(0)
    return Anatomy(AnatomyNetwork(NetworkSettings(features=(4, 6, 8))).eval())


def test_layers_are_what_it_says(extractor: Anatomy) -> None:
    x = torch.rand(2, 1, 20, 33, 17) * 100
    for found, layer in zip(extractor(x), extractor.layers, strict=True):
        assert found.shape == (2, layer.channels, *(-(-n // layer.stride) for n in x.shape[2:]))
    assert extractor.layers[-1].channels == len(CLASSES)
    assert torch.allclose(extractor(x)[-1].sum(1), torch.ones(2, *x.shape[2:]), atol=1e-4)


def test_a_feature_voxel_lies_where_it_says(extractor: Anatomy) -> None:
    """The gradient of one feature voxel is centred on the place that the layer names.

    Normalisation looks at the whole image and is no part of a field of view: here its statistics stand still.
    """
    extractor = deepcopy(extractor)
    for norm in (m for m in extractor.modules() if isinstance(m, torch.nn.InstanceNorm3d)):
        norm.track_running_stats = True
        norm.register_buffer("running_mean", torch.zeros(norm.num_features))
        norm.register_buffer("running_var", torch.ones(norm.num_features))
    for index in range(2):
        layer = extractor.layers[index]
        x = torch.rand(1, 1, 32, 32, 32, requires_grad=True)
        place = 16 // layer.stride
        features = extractor(x, layers=[index], statistics=Statistics.from_range(0, 1))[0]
        features[0, :, place, place, place].square().sum().backward()
        weight = x.grad[0, 0].abs()
        for axis in range(3):
            line = weight.sum(tuple(a for a in range(3) if a != axis))
            reached = torch.nonzero(line > 0)[:, 0]
            middle = float(reached[0] + reached[-1]) / 2
            assert middle == pytest.approx(layer.stride * place + layer.offset, abs=layer.stride)
            assert int(reached[-1] - reached[0]) < layer.field_of_view


def test_each_image_of_a_batch_has_its_own_scale(extractor: Anatomy) -> None:
    one, other = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16) * 1000
    both = extractor(torch.cat([one, other]), layers=[0])[0]
    assert torch.allclose(both[0], extractor(one, layers=[0])[0][0], atol=1e-5)
    assert torch.allclose(both[1], extractor(other, layers=[0])[0][0], atol=1e-5)


def test_a_saved_extractor_is_the_same(extractor: Anatomy, tmp_path: Path) -> None:
    again = load_extractor(save_extractor(extractor, tmp_path / "mine.safetensors"))
    x = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(again(x)[-1], extractor(x)[-1], atol=1e-5)


def test_a_file_of_training_is_an_extractor(tmp_path: Path) -> None:
    from sctlab_model.anatomy.network import write_network

    network = AnatomyNetwork(NetworkSettings(features=(4, 6, 8))).eval()
    path = write_network(network, tmp_path / "run.safetensors", {"seed": 1})
    x = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(load_extractor(path)(x)[-1], Anatomy(network)(x)[-1], atol=2e-3), "fp16"
