"""Frozen feature extractors behind one protocol, for the registration metric and the training loss."""
