"""Pairs, their checks, folds and exclusions."""
