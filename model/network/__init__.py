"""Networks by the settings of a recipe: one file for each architecture, one door to all of them.

`base.SynthesisNetwork` says what the rest of the product may use of a network. PyTorch is imported when a network is
built, not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sctlab_model.network.base import SynthesisNetwork
    from sctlab_model.network.settings import NetworkSettings


def build_network(settings: NetworkSettings) -> SynthesisNetwork:
    """The network of a recipe, with random weights.

    Args:
        settings: Their `architecture` is the name of the file in this folder whose `Network` is built.

    Raises:
        InputError: The library below can't build it.
    """
    network: SynthesisNetwork = import_module(f"sctlab_model.network.{settings.architecture}").Network(settings)
    return network
