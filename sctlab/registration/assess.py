"""Measures and verdict of one registration, as every caller wants them: together."""

from __future__ import annotations

from sctlab.registration.judge.parts import different_parts
from sctlab.registration.judge.verdict import NOT_FAILED, judge_registration, optimised_metrics
from sctlab.registration.methods import MethodResult, presets_of
from sctlab.registration.pairs import Pair
from sctlab.registration.quality import measure
from sctlab.registration.records import QualityRecord, Verdict
from sctlab.registration.settings import RegistrationSettings
from sctlab.registration.truth import measure_truth
from sctlab.transforms.data import Transform
from sctlab_model.volume import Volume


def assess(
    pair: Pair, result: MethodResult, settings: RegistrationSettings, backward: Transform | None = None
) -> tuple[QualityRecord, Volume | None]:
    """The record of a registration's quality, and the judge's map.

    Args:
        pair: The images.
        result: Of the method.
        settings: What was registered with; says what the engine optimised.
        backward: A registration with the roles exchanged.

    Returns:
        The record, and where in the body another place fits better in mm, on a coarse grid; None without evidence.
    """
    quality = measure(pair, result.transform, backward=backward, spread=result.spread)
    optimised = optimised_metrics(settings.method, presets_of(settings, pair.task, pair.region))
    judgement, residual = judge_registration(pair, result.transform, quality, optimised)
    quality.case, quality.judgement = pair.id, judgement
    quality.verdict, quality.reasons = judgement.verdict, list(judgement.reasons)
    if different := different_parts(pair, result.transform):
        quality.verdict, quality.reasons = (
            Verdict.FAILED,
            [different, *(r for r in quality.reasons if not r.startswith(NOT_FAILED))],
        )
        quality.judgement = judgement.model_copy(update={"verdict": quality.verdict, "reasons": quality.reasons})
    quality.truth = measure_truth(pair, result.transform)
    return quality, residual
