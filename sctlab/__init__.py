"""The laboratory: simulates, registers, trains and judges what `sctlab_model` runs.

Four functions work on images in memory, without files; importing `sctlab` loads none of what they need:

    sctlab.synthesise(image, task="mri", region="AB")   MR or CBCT to synthetic CT
    sctlab.register(fixed, moving)                      a pair of images
    sctlab.simulate(task, region)                       a case whose truth is known
    sctlab.evaluate(sct, ct, mask)                      scores of a synthetic CT
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import sctlab_model  # noqa: F401 (says how threads wait, before a module of this package imports PyTorch)

if TYPE_CHECKING:
    from sctlab.evaluation.arrays import evaluate as evaluate
    from sctlab.registration.single import register as register
    from sctlab.simulation.case import simulate as simulate
    from sctlab.synthesis import synthesise as synthesise

# Name to "module:attribute".
PUBLIC = {
    "synthesise": "sctlab.synthesis:synthesise",
    "register": "sctlab.registration.single:register",
    "simulate": "sctlab.simulation.case:simulate",
    "evaluate": "sctlab.evaluation.arrays:evaluate",
}

__all__ = ["evaluate", "register", "simulate", "synthesise"]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'sctlab' has no attribute '{name}'")
    module, _, attribute = PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
