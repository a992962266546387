"""Objectives: what is learnt and how. One file each, with its settings, its networks and its step."""

from sctlab.training.objectives.base import Objective, ObjectiveSettings, build_objective, settings_types

__all__ = ["Objective", "ObjectiveSettings", "build_objective", "settings_types"]
