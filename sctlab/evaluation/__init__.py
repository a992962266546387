"""Scores of synthetic CTs: the challenge's, what it does not show, comparisons and ranking.

`evaluate` scores arrays or volumes; `evaluate_cohort` and `compare_evaluations` work on folders. They are imported when they
are first used: a command that needs one of them should not load torch for the others.
"""

from __future__ import annotations

from typing import Any

_PLACES = {
    "evaluate": "sctlab.evaluation.arrays",
    "Scores": "sctlab.evaluation.arrays",
    "evaluate_cohort": "sctlab.evaluation.cohort",
    "EvaluationResult": "sctlab.evaluation.cohort",
    "EvaluationSettings": "sctlab.evaluation.settings",
    "compare_evaluations": "sctlab.evaluation.compare",
    "rank_evaluations": "sctlab.evaluation.rank",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _PLACES:
        raise AttributeError(f"module 'sctlab.evaluation' has no attribute '{name}'")
    return getattr(import_module(_PLACES[name]), name)
