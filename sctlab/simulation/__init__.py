"""Pairs whose truth is known: procedural anatomy, MR and CBCT physics, deformation."""
