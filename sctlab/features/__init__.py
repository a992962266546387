"""Frozen feature extractors behind one protocol: the registration metric and the training loss share them."""

from sctlab.features.extractor import FeatureExtractor, Layer, Statistics
from sctlab.features.mind import MindSSC
from sctlab.features.registry import load_extractor

__all__ = ["FeatureExtractor", "Layer", "MindSSC", "Statistics", "load_extractor"]
