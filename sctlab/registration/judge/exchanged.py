"""Whether two ends of one image are exchanged: left and right, front and back, or its slices in reverse order.

Asked of the moving image under the rigid motion nearest to the solution, not of the solution itself: an engine bends a mirror
image until it fits, and bent it agrees as well as a right one. Unbent, the right one of both agrees better by every witness
(sound pairs by 5 % and more, mirrored ones that were fitted likewise the other way round).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sctlab.registration.judge.mirror import OFFSETS_MM, best_mirrored, best_turned, coarser
from sctlab.registration.judge.view import LEAST_VOXELS, View
from sctlab.registration.judge.witnesses import LEAST_LOST, Witness

ENDS = {"left-right": 0, "front-back": 1, "head-feet": 2}  # patient's axes x, y, z
THIN = 16  # voxels along an axis below which the search keeps the view's own grid
# Mean of the witnesses' logarithms, each of them above 0. Chosen on 11 pairs whose rows weren't kept (sound ones −0.12 and less,
# fitted mirror images 0.03 and more). Of the fresh ones (`benchmarks/verdict_fresh.csv`) the sound have −0.05 and less but for the half
# abdomen of `SHARP`, and the mirrored or reversed ones that it tells 0.13 and more.
EXCHANGED = 0.03
# Mean of the witnesses' `blunt mirror`: a solution that loses more than this leaves of what the image itself loses, when both are
# mirrored, is a sharp optimum and no mirror image that was bent until it fits (those have 0.54 and more; two sound ones of
# which an unbent mirror image fitted better by chance, a phantom and half an abdomen, 0.11 and 0.15).
SHARP = 0.4


def exchanged_ends(unbent: View, speaking: Sequence[type[Witness]]) -> dict[str, float]:
    """`exchanged <ends>`: the logarithm of how much better the mirrored image agrees, unbent, than the image as it is.

    The least of the witnesses' where they disagree about the sign, else their mean; no such signal where the fixed image is
    its own mirror image.

    Args:
        unbent: The view under a rigid motion.
        speaking: Witnesses that were not optimised.
    """
    axes = {name: 2 - int(np.argmax(np.abs(unbent.grid.axes[k]))) for name, k in ENDS.items()}
    own = _ratios(replace(unbent, moving=unbent.fixed), speaking, axes, in_place=True)
    told = [name for name, lost in own.items() if max(-lost) >= LEAST_LOST]
    ratios = _ratios(unbent, speaking, {name: axes[name] for name in told})
    return {f"exchanged {name}": float(r.mean() if (r > 0).all() else min(r.min(), 0.0)) for name, r in ratios.items()}


def said_exchanged(signals: dict[str, float]) -> str:
    """Which ends are exchanged, the surest of them; empty where none are, or the solution as it is gets much worse mirrored."""
    blunt = [value for name, value in signals.items() if name.endswith(" blunt mirror")]
    if blunt and float(np.mean(blunt)) < SHARP:
        return ""
    surest = max(ENDS, key=lambda name: signals.get(f"exchanged {name}", -np.inf))
    return surest if signals.get(f"exchanged {surest}", -np.inf) >= EXCHANGED else ""


def _ratios(
    view: View, speaking: Sequence[type[Witness]], axes: dict[str, int], *, in_place: bool = False
) -> dict[str, np.ndarray]:
    """Logarithms of the mirrored image's agreement over the image's own best one nearby, a witness each.

    Both get the same starts: a shifted image must not become a mirrored one because only that one finds its place. An image that
    lies `in_place` needs none.
    """
    searched = view if min(view.fixed.shape) < THIN else coarser(view)

    def agreements(other: View, region: np.ndarray) -> np.ndarray:
        scores = [w(other.fixed, other.moving, other.spacing_mm).score((0, 0, 0), region) for w in speaking]
        return np.array(scores).clip(1e-3)

    own = agreements(searched, searched.region & searched.data)

    def agreement(other: View) -> float:
        return float((agreements(other, other.region & other.data) / own).sum())

    plain = view
    if not in_place:
        motions = [best_turned(searched, agreement, axis, OFFSETS_MM) for axis in range(3)]
        plain = max(motions, key=lambda motion: agreement(motion.of(searched))).of(view)
    found = {}
    for name, axis in axes.items():
        mirrored = best_mirrored(searched, agreement, axis).of(view)
        common = view.region & plain.data & mirrored.data
        if common.sum() >= LEAST_VOXELS:
            found[name] = np.log(agreements(mirrored, common) / agreements(plain, common))
    return found
