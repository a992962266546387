"""The anatomy network as an extractor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sctlab.features.registry import register, register_architecture

if TYPE_CHECKING:
    from sctlab.features.networks.anatomy import Anatomy


@register(
    "anatomy",
    note="our own anatomy network at 3 mm (CT, CBCT, MR, sCT); ships with the product; stages of its U-Net, then the chance of every class",
)
def shipped_anatomy() -> Anatomy:
    """The network that comes with the product."""
    from sctlab.features.networks.anatomy import Anatomy
    from sctlab_model.anatomy.network import read_network
    from sctlab_model.anatomy.shipped import network_path

    return Anatomy(read_network(network_path("anatomy")))


@register_architecture("anatomy")
def build_again(network: dict[str, Any], name: str, **facts: object) -> Anatomy:
    """The network that a file describes, with random weights."""
    from sctlab.features.networks.anatomy import Anatomy
    from sctlab_model.anatomy.network import AnatomyNetwork
    from sctlab_model.anatomy.settings import NetworkSettings

    return Anatomy(AnatomyNetwork(NetworkSettings.model_validate(network)), name)
