"""TotalSegmentator's networks, as files that `sctlab features import` writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sctlab.features.registry import register_architecture

if TYPE_CHECKING:
    from sctlab.features.networks.nnunet import TotalSegmentator


@register_architecture("totalsegmentator")
def build_again(
    plans: dict[str, Any], classes: int, fingerprint: dict[str, float] | None, name: str
) -> TotalSegmentator:
    """The network that a file of `save_extractor` describes, with random weights."""
    from sctlab.features.networks.nnunet import TotalSegmentator

    return TotalSegmentator(plans, classes=int(classes), fingerprint=fingerprint, name=name)
