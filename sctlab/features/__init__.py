"""Frozen feature extractors behind one protocol: the registration metric and the training loss share them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sctlab.features.extractor import FeatureExtractor, Layer, Statistics
    from sctlab.features.networks.mind import MindSSC
    from sctlab.features.registry import load_extractor, register, save_extractor
    from sctlab.features.weights import Source
    from sctlab.features.wrapping import wrap_module

# Name to module. They are imported when they are asked for: listing and fetching extractors needs no PyTorch.
_PUBLIC = {
    "FeatureExtractor": "extractor",
    "Layer": "extractor",
    "MindSSC": "networks.mind",
    "Source": "weights",
    "Statistics": "extractor",
    "load_extractor": "registry",
    "register": "registry",
    "save_extractor": "registry",
    "wrap_module": "wrapping",
}

__all__ = [
    "FeatureExtractor",
    "Layer",
    "MindSSC",
    "Source",
    "Statistics",
    "load_extractor",
    "register",
    "save_extractor",
    "wrap_module",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
