"""SAM 2.1's image encoder by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sctlab.features.registry import register
from sctlab.features.weights import Source

if TYPE_CHECKING:
    from sctlab.features.networks.sam import Sam2Hiera


# No hash of these files was verified: the user gives the revision, and the first download records the hash.
@register(
    "sam2.1-tiny", source=Source("facebook/sam2.1-hiera-tiny", "model.safetensors"), note="Hiera trunk, Apache-2.0"
)
def sam_tiny() -> Sam2Hiera:
    """The tiny trunk with random weights."""
    from sctlab.features.networks.sam import Sam2Hiera

    return Sam2Hiera("tiny")


@register(
    "sam2.1-small", source=Source("facebook/sam2.1-hiera-small", "model.safetensors"), note="Hiera trunk, Apache-2.0"
)
def sam_small() -> Sam2Hiera:
    """The small trunk with random weights."""
    from sctlab.features.networks.sam import Sam2Hiera

    return Sam2Hiera("small")
