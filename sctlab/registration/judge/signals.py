"""Signals of one registration: how sharp an optimum the solution is, and where in the body another place fits better.

They need no group, no start and no truth. Everything happens on one coarse isotropic grid, where a shift of the solution
is a shift of an array.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from sctlab.registration.judge.exchanged import exchanged_ends
from sctlab.registration.judge.mirror import best_mirrored, best_turned, coarser, moved_by
from sctlab.registration.judge.places import look_elsewhere
from sctlab.registration.judge.refit import better_places, lengths_mm, refit_signals
from sctlab.registration.judge.view import LEAST_VOXELS, Looker, View, moved, nearest_rigid
from sctlab.registration.judge.witnesses import LEAST_LOST, Witness, witnesses
from sctlab.registration.pairs import Pair
from sctlab.transforms.data import Transform
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume, triple

SHIFT_MM, TURN_DEGREES = 20.0, 10.0
UNKNOWN_MM = -1.0  # of the map, where nothing tells
PERTURBED = ("shift", "turn", "mirror")
BLUNT = (-1.0, 3.0)  # limits of a signal that is relative to the image's own


@dataclass(frozen=True)
class Evidence:
    """What the witnesses say of one registration.

    Args:
        signals: By name, each larger when worse. `<witness> shift`, `turn` and `mirror` are the agreement of the
            perturbed solution as a share of the solution's own (1: no optimum); `<witness> blunt …` the same relative to
            what the fixed image loses against itself (0: as sharp as it can be, 1: no optimum, more: another is better);
            `elsewhere …` and `place …` how far away and how much better windows fit; `refit …` how far the judge's own
            registration moves on from the solution; `exchanged …` of `exchanged_ends`; `body gap mm` the mean distance
            between both bodies' surfaces.
        residual_mm: How far away the images fit better, by the judge's own registration, on a coarse grid; `UNKNOWN_MM`
            outside the body.
        left_out: Witnesses that stayed silent because the engine optimised them.
        untold: Of `shift`, `turn` and `mirror` those of which no witness can tell anything, because they leave this image as
            it is; there are no such signals then.
    """

    signals: dict[str, float]
    residual_mm: Volume | None = None
    left_out: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


def collect_evidence(pair: Pair, transform: Transform, optimised: frozenset[str] = frozenset()) -> Evidence:
    """Question every witness that may speak about a registration.

    Args:
        pair: The images.
        transform: From fixed points to moving points.
        optimised: Metrics that the registration optimised (`mutual information`, `mind`).

    Raises:
        InputError: Next to nothing of the body has data in both images.
    """
    looker = Looker(pair)
    view = looker.look(transform)
    try:
        unbent = looker.look(nearest_rigid(transform, pair.fixed.geometry))
    except InputError:
        unbent = None
    return question(view, optimised, unbent)


def question(view: View, optimised: frozenset[str] = frozenset(), unbent: View | None = None) -> Evidence:
    """What the witnesses that may speak say of a view.

    Args:
        view: Under the solution.
        optimised: As for `collect_evidence`.
        unbent: Under the rigid motion nearest to the solution; without it nothing is said about exchanged ends.
    """
    chosen = witnesses(optimised)
    signals: dict[str, float] = {"without data": 1 - float(view.data[view.mask].mean())}
    itself = replace(view, moving=view.fixed)
    trials, own_trials = _trials(view), _trials(itself)
    local: list[Witness] = []
    for name, witness in chosen.items():
        asked = witness(view.fixed, view.moving, view.spacing_mm)
        said, own = (
            _sharpness(asked, view, trials),
            _sharpness(witness(view.fixed, view.fixed, view.spacing_mm), itself, own_trials),
        )
        told = {k for k in PERTURBED if -np.log(max(own[k], 1e-3)) >= LEAST_LOST}
        signals |= {f"{name} {k}": v for k, v in said.items() if k in told or k not in PERTURBED}
        signals |= {f"{name} blunt {k}": _blunt(said[k], own[k]) for k in PERTURBED if k in told}
        if witness.local:
            local.append(asked)
    signals |= look_elsewhere(view, local).signals()
    field = better_places(view)
    signals |= refit_signals(field, view)
    if unbent is not None:
        signals |= exchanged_ends(unbent, [cls for cls in chosen.values() if cls.local])
    if view.body_gap_mm is not None:
        signals["body gap mm"] = view.body_gap_mm
    shown = np.nan_to_num(lengths_mm(field, view), nan=UNKNOWN_MM).astype(np.float32)
    untold = tuple(k for k in PERTURBED if not any(f"{name} {k}" in signals for name in chosen))
    return Evidence(signals, Volume(shown, view.grid), tuple(sorted(set(witnesses()) - set(chosen))), untold)


def _blunt(said: float, own: float) -> float:
    """How little of what the image loses against itself the solution loses, when both are perturbed alike.

    A long neck hardly changes when it is shifted along itself, and a head when it is mirrored: of such an image a sound
    solution is no sharper. `own` is below 1, see `LEAST_LOST`.
    """
    return float(np.clip(1 - np.log(max(said, 1e-3)) / np.log(max(own, 1e-3)), *BLUNT))


@dataclass(frozen=True)
class _Trials:
    """A view, turned and mirrored.

    Args:
        turned: By 10° about each axis.
        plain, rival, mirrored: On the coarser grid of the search: as it is, at the best place nearby, and mirrored about
            the best plane.
    """

    turned: list[View]
    plain: View
    rival: View
    mirrored: View


def _trials(view: View) -> _Trials:
    plain = coarser(view)
    own = _agreements(plain)

    def agreement(other: View) -> float:
        return float((_agreements(other) / np.maximum(own, 1e-3)).sum())

    rival, mirrored = (best(plain, agreement).of(plain) for best in (best_turned, best_mirrored))
    return _Trials(_turned(view), plain, rival, mirrored)


def _agreements(view: View) -> np.ndarray:
    """By the witnesses that may always speak: they choose the plane."""
    return np.array([_score(cls, view) for cls in witnesses().values() if not cls.optimised_as])


def _score(witness: type[Witness], view: View) -> float:
    return witness(view.fixed, view.moving, view.spacing_mm).score((0, 0, 0), view.region & view.data)


def _sharpness(witness: Witness, view: View, trials: _Trials) -> dict[str, float]:
    """The solution's agreement, and what is left of it in perturbed solutions, as shares of its own.

    `shift`: by 20 mm, the mean of six; `worst shift` the largest of them; `turn`: the mean of three; `mirror`: mirrored about
    the best plane, against the solution's best place nearby.
    """
    region, data = view.region, view.data
    own = witness.score((0, 0, 0), region & data)
    count = max(1, round(SHIFT_MM / view.spacing_mm))
    ratios = []
    for axis, sign in itertools.product(range(3), (-1, 1)):
        shift = triple(sign * count if a == axis else 0 for a in range(3))
        common = region & data & moved(data, shift)
        if common.sum() >= LEAST_VOXELS:
            ratios.append(witness.score(shift, common) / max(witness.score((0, 0, 0), common), 1e-3))
    ratios = ratios or [1.0]
    turns = [_score(type(witness), turned) for turned in trials.turned if (turned.data & region).sum() >= LEAST_VOXELS]
    mirrored, rival, plain = (_score(type(witness), v) for v in (trials.mirrored, trials.rival, trials.plain))
    found = {
        "shift": float(np.mean(ratios)),
        "worst shift": max(ratios),
        "turn": float(np.mean(turns or [own])) / max(own, 1e-3),
        "mirror": mirrored / max(rival, 1e-3),
        "slid": rival / max(plain, 1e-3),
    }
    return {"lost": 1 - own} | {k: float(np.clip(v, 0, 2)) for k, v in found.items()}


def _turned(view: View) -> list[View]:
    """The solution turned by 10° about each axis."""
    centre = np.array(ndimage.center_of_mass(view.region & view.data))
    angle = np.radians(TURN_DEGREES)
    turned = []
    for axis in range(3):
        a, b = (k for k in range(3) if k != axis)
        matrix = np.eye(3)
        matrix[a, a] = matrix[b, b] = np.cos(angle)
        matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
        turned.append(moved_by(view, matrix, centre - matrix @ centre))
    return turned
