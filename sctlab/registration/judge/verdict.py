"""The verdict on one registration: evidence, calibrated model, and the limits that hold whatever the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sctlab.registration.judge.exchanged import said_exchanged
from sctlab.registration.judge.model import JudgeModel
from sctlab.registration.judge.signals import collect_evidence
from sctlab.registration.judge.view import MARGIN_MM, judge_grid
from sctlab.registration.pairs import Pair
from sctlab.registration.records import Judgement, QualityRecord, Verdict
from sctlab.registration.settings import Method
from sctlab.transforms.data import Transform
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

if TYPE_CHECKING:
    from sctlab.registration.engine.settings import Preset

MOST_FOLDS = 0.001
UNUSABLE_MM = 8.0  # a predicted mean error that nobody should learn from unseen
MOST_WITHOUT_DATA = 0.4
MOST_INVERSE_MM, MOST_SPREAD_MM = 10.0, 8.0  # 95th percentiles
# What the calibration holds: voxels of 4 mm (slices of up to 5), bodies of 115 mm and more along every axis, whole fields of
# view. Right pairs beyond it reached probabilities of failure of 0.91, wrong ones 0.95 and more: no `failed` below this there.
COARSEST_MM, THINNEST_MM = 5.0, 115.0
SURE = 0.93
# Where images share so little that even the solution agrees this badly (a fat-suppressed T2 of a head shows what a CT does not), turns and
# mirror images that agree as well prove nothing; that every shift by 20 mm agrees worse by edges does. Chosen on 560 registrations
# (`benchmarks/verdict_rows*.csv`): none of 218 gross failures is so, but sound necks that were `failed`. The nearest gross ones have
# 0.63 and 0.72 with 0.81 (mirrored and fitted), 0.60 and 0.74 with 0.76, and 0.65 and 0.80 with 0.84 (other patients' heads).
THIN_LOST = {"edges lost": 0.6, "correlation lost": 0.78}
SHARP_SHIFT = 0.82
NOT_FAILED = "not called failed"  # begins a reason; what is failed for another one does not say it
_EXCHANGED = {
    "left-right": "mirrored anatomy: the mirrored image agrees better; left and right are exchanged in a header",
    "front-back": "mirrored anatomy: the image mirrored from front to back agrees better; a header is wrong",
    "head-feet": "mirrored anatomy: with its slices in reverse order the image agrees better; their order is wrong",
}
_UNTOLD = {
    "mirror": "the image is its own mirror image: exchanged sides can't be told",
    "turn": "turned by 10° the image stays as it is: wrong turns can't be told",
    "shift": "shifted by 20 mm the image stays as it is: wrong places can't be told",
}


def optimised_metrics(method: Method, presets: Sequence[Preset] = ()) -> frozenset[str]:
    """What a registration optimised or chose by, so that it proves nothing afterwards.

    Every engine registration starts with a rigid stage on MIND; the coarse search is taken only where mutual
    information rises; elastix optimises mutual information.
    """
    if method is Method.ELASTIX:
        return frozenset({"mutual information"})
    used = {"mind"}
    if any(p.mutual_information or (p.levels and p.discrete is not None) for p in presets):
        used.add("mutual information")
    return frozenset(used)


def judge_registration(
    pair: Pair, transform: Transform, quality: QualityRecord, optimised: frozenset[str] = frozenset()
) -> tuple[Judgement, Volume | None]:
    """The verdict, and where in the body another place fits better (mm, on a coarse grid).

    Args:
        pair: The images.
        transform: From fixed points to moving points.
        quality: Measures of the registration: folds, missing data and, where made, inverse consistency and spread.
        optimised: Of `optimised_metrics`.
    """
    try:
        evidence = collect_evidence(pair, transform, optimised)
    except InputError as error:
        return Judgement(
            verdict=Verdict.FAILED, reasons=[error.found], error_mm=200.0, interval_mm=(0, 200), failure_probability=1
        ), None
    judgement = JudgeModel.shipped().judge(evidence.signals, frozenset(evidence.left_out))
    reasons = list(judgement.reasons)
    limits = _beyond_limits(quality)
    verdict = judgement.verdict
    # Of a part of the body that is thinner than the search, ends can't be told: what is left in common changes with the plane. By the fresh
    # rows `SHARP` says the same, but it has nothing to go by where the image is its own mirror image from left to right.
    enough = 1 - quality.overlap.field_of_view <= MOST_WITHOUT_DATA
    exchanged = said_exchanged(evidence.signals) if enough else ""
    if judgement.error_mm > UNUSABLE_MM and verdict is Verdict.TRUSTED:
        limits.append(f"the predicted error is above {UNUSABLE_MM:g} mm")
    # A header's exchanged sides are rare; an image that shows no place or turn leaves the result itself unconfirmed.
    limits += [_UNTOLD[what] for what in evidence.untold if what != "mirror"]
    if limits and verdict is Verdict.TRUSTED:
        verdict = Verdict.DOUBTFUL
    beyond = _beyond_calibration(pair, quality)
    if beyond and verdict is Verdict.FAILED and judgement.failure_probability < SURE:
        verdict = Verdict.DOUBTFUL
        limits.append(f"{NOT_FAILED}, because the judge has not seen such pairs: {', '.join(beyond)}")
    if verdict is Verdict.FAILED and thin_evidence(evidence.signals):
        verdict = Verdict.DOUBTFUL
        limits.append(
            f"{NOT_FAILED}, because the images share too little to tell, and each shift by 20 mm agrees worse"
        )
    if exchanged:
        verdict = Verdict.FAILED
        reasons.insert(0, _EXCHANGED[exchanged])
        limits = [limit for limit in limits if not limit.startswith(NOT_FAILED)]
    limits += [_UNTOLD[what] for what in evidence.untold if what == "mirror"]
    return judgement.model_copy(update={"verdict": verdict, "reasons": reasons + limits}), evidence.residual_mm


def thin_evidence(signals: dict[str, float]) -> bool:
    """Whether both images show hardly anything in common, and the solution is the best of all shifts all the same."""
    thin = all(signals.get(name, 0.0) >= least for name, least in THIN_LOST.items())
    return thin and signals.get("edges worst shift", 1.0) <= SHARP_SHIFT


def _beyond_calibration(pair: Pair, quality: QualityRecord) -> list[str]:
    """What the pair has that no registration of the calibration had, in words."""
    voxels = max(*pair.fixed.geometry.spacing_xyz, *pair.moving.geometry.spacing_xyz)
    grid = judge_grid(pair)
    body = min((n - 1) * grid.spacing_xyz[0] for n in grid.size_xyz) - 2 * MARGIN_MM
    missing = 1 - quality.overlap.field_of_view
    said = {
        f"voxels of {voxels:.3g} mm": voxels > COARSEST_MM,
        f"a body of {body:.0f} mm along one axis": body < THINNEST_MM,
        f"no moving data in {missing:.0%} of the body": missing > MOST_WITHOUT_DATA,
    }
    return [words for words, holds in said.items() if holds]


def _beyond_limits(quality: QualityRecord) -> list[str]:
    reasons = []
    if quality.field.jacobian.folds > MOST_FOLDS:
        reasons.append(f"{quality.field.jacobian.folds:.2%} of the body folds")
    missing = 1 - quality.overlap.field_of_view
    if missing > MOST_WITHOUT_DATA:
        reasons.append(f"{missing:.0%} of the body has no moving data")
    for name, summary, most in (
        ("inverse consistency", quality.inverse_consistency_mm, MOST_INVERSE_MM),
        ("spread of the presets", quality.preset_spread_mm, MOST_SPREAD_MM),
    ):
        if summary is not None and summary.p95 > most:
            reasons.append(f"{name} of {summary.p95:.0f} mm (95th percentile)")
    return reasons
