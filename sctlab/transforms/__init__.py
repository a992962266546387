"""Transforms: data, inversion, application, elastix and ITK files."""
