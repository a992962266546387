"""Frozen feature extractors behind one protocol: the registration metric and the training loss share them."""

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics
from sctlab.features.extractors.mind import MindSSC
from sctlab.features.registry import load_extractor, register, save_extractor
from sctlab.features.weights import Source
from sctlab.features.wrapping import wrap_module

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
