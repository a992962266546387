"""Procedural patients: one file a body part, `build` puts a region together."""

from sctlab.simulation.anatomy.build import build_phantom, default_grid

__all__ = ["build_phantom", "default_grid"]
