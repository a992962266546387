"""What the continuous stage starts from: the discrete search's field, where three witnesses agree that it helps."""

from __future__ import annotations

import torch
from torch import Tensor

from sctlab.features import load_extractor
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.discrete import search
from sctlab.registration.engine.fitting import fitted
from sctlab.registration.engine.level import Problem
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.settings import Discrete
from sctlab.registration.engine.terms.bending import Bending
from sctlab.registration.engine.terms.information import mutual_information

POINTS = 20000  # at which the witnesses look, about


def coarse_start(problem: Problem, coefficients: Tensor, grid: ControlGrid, settings: Discrete) -> Tensor:
    """The discrete search's field as a spline, or the given one.

    Metric and bending together must fall, and mutual information of the intensities must rise: in flat tissue and at
    the corners of the field of view the search alone follows noise.
    """
    images, generator = problem.images, problem.generator
    features = load_extractor("mind", device=images.fixed.device)
    bending = [term for term in problem.terms if isinstance(term, Bending)]
    with torch.no_grad():
        fixed, moving = features(images.fixed)[0], features(images.moving)[0]
        field, cells = search(
            (fixed, images.lattice), (moving, images.moving_lattice), images.mask, images.valid, settings
        )
        start = fitted(field, cells, grid)
        bases, stride = images.bases(grid), images.stride(POINTS)
        state = generator.get_state()
        scores, information = [], []
        for trial in (coefficients, start):
            generator.set_state(state)  # the same samples for both
            sample = problem.draw(trial, grid, bases, stride)
            score = float("inf")
            if sample is not None:
                score = float(problem.similarity(sample) + sum(term.of(trial, grid) for term in bending))
            scores.append(score)
            information.append(_information(images, trial, grid, bases, stride))
    for term in problem.terms:
        term.restart()  # what the level starts from is decided only now
    better = scores[1] < scores[0] - settings.gain * abs(scores[0]) and information[1] > information[0]
    return start if better else coefficients


def _information(
    images: LevelImages, coefficients: Tensor, grid: ControlGrid, bases: tuple[Tensor, ...], stride: int
) -> float:
    """Mutual information of the intensities times the share of points that land on valid moving voxels."""
    sample = images.sample(coefficients, grid, bases, (slice(None, None, stride),) * 3)
    valid = sample.weights > 0
    if not bool(valid.any()):
        return 0.0
    fixed, moving = images.intensities(sample.index, sample.moved)
    return float(valid.float().mean() * mutual_information(fixed[valid], moving[valid], bins=32))
