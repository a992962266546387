"""TorchScript extractors: files, and the published ones by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sctlab.features.registry import register, register_suffix
from sctlab.features.weights import Source

if TYPE_CHECKING:
    from sctlab.features.networks.torchscript import TorchScriptExtractor


@register_suffix(".pt")
def open_torchscript(path: Path) -> TorchScriptExtractor:
    """A TorchScript file as an extractor."""
    from sctlab.features.networks.torchscript import TorchScriptExtractor

    return TorchScriptExtractor(path)


_REPOSITORY = "VBoussot/impact-torchscript-models"
_REVISION = "48f69637cdb56fdd2947bb5c4b67a38a82814ac7"
# Name → file, and its SHA-256 as the hub shows it; None where it wasn't seen there.
_PUBLISHED = {
    "ts-m292-2": ("TS/M292_2_Layers.pt", "09cdfabdf33cfb67f4a4b7b79e677ca881b4e7316dca1a163d9f9e85ffd70d48"),
    "ts-m292-7": ("TS/M292_7_Layers.pt", "d3b085c072fc93e390d9ebe774c10f9be2abd45fdda508a2970c51792912f9b2"),
    "ts-m293-2": ("TS/M293_2_Layers.pt", "ffd584c7a9d31efe5cf42c8d9267167b68972b7b2d52e602af40a213418b49a6"),
    "ts-m294-7": ("TS/M294_7_Layers.pt", "9cff2579e54b94bba40614e700a975be3fe9c7657310f2d0f8a23e8f5af5afdc"),
    "ts-m295-7": ("TS/M295_7_Layers.pt", "cc0c3228c939c0a5981262ff7f7e750cb160b0763c8740b23cdc5183005babe0"),
    "ts-m295-8": ("TS/M295_8_Layers.pt", "9664528c2e5e0a8f35a094e138b5aaabba26d790ba41375799ea39342dd8fb47"),
    "ts-m730-2": ("TS/M730_2_Layers.pt", None),
    "ts-m850-7": ("TS/M850_7_Layers.pt", None),
}
for _name, (_file, _sha256) in _PUBLISHED.items():
    register(
        _name,
        source=Source(_REPOSITORY, _file, _REVISION if _sha256 else None, _sha256),
        note="TotalSegmentator as TorchScript, for the IMPACT metric" + ("" if _sha256 else " (MR)"),
        whole_file=True,
    )(open_torchscript)
