"""VGG16 and VGG19 by name, with torchvision's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sctlab.features.registry import register
from sctlab.features.weights import Source

if TYPE_CHECKING:
    from sctlab.features.networks.vgg import Vgg

_NOTE = "torchvision's ImageNet weights, BSD-3"


@register(
    "vgg16",
    source=Source(
        "timm/vgg16.tv_in1k",
        "model.safetensors",
        "3394518cba29aee1ea82a49d971be90d2dd1dab7",
        "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
    ),
    note=_NOTE,
)
def vgg16() -> Vgg:
    """VGG16 with random weights."""
    from sctlab.features.networks.vgg import Vgg

    return Vgg(16)


@register(
    "vgg19",
    source=Source(
        "timm/vgg19.tv_in1k",
        "model.safetensors",
        "128d4708565b3a414bcbb9bbad440b2fe37b9f18",
        "11aea017b543ff59233749d8f1cf544cda749378f5790d2fedab841fb86b7669",
    ),
    note=_NOTE,
)
def vgg19() -> Vgg:
    """VGG19 with random weights."""
    from sctlab.features.networks.vgg import Vgg

    return Vgg(19)
