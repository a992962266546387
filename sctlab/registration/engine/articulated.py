"""A start for a body that bends: bands along it, each a rigid motion of its own, held together like a chain.

A head turns against the shoulders by more than a coarse spline's bending energy likes, and where little is to be seen (brain,
vertex) the spline then keeps what it has. Six numbers a band take the whole skull along.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sctlab.registration.engine.adam import Adam
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.fitting import fitted
from sctlab.registration.engine.lattice import Lattice, sample_at
from sctlab.registration.engine.level import Problem
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Articulated

ARM_MM = 80.0  # a rotation counts as the way of a point so far from the band's centre
CELL_MM = 12.0  # of the lattice on which the chain becomes a spline
POINTS = 12000


class Chain:
    """Bands along one axis; their motions are blended linearly between their centres.

    Args:
        centres: Of the bands, mm [K, 3] (z, y, x), in the order of their place along the axis.
        axis: Along the body: 0, 1 or 2 for z, y, x.
    """

    def __init__(self, centres: Tensor, axis: int) -> None:
        self.centres, self.axis = centres, axis
        joints = (centres[1:] + centres[:-1]) / 2
        star = ARM_MM / 2 * torch.cat((torch.zeros(1, 3), torch.eye(3), -torch.eye(3))).to(centres)
        self.around = joints[:, None, :] + star  # [K − 1, 7, 3]

    @classmethod
    def along(cls, points: Tensor, axis: int, pitch_mm: float) -> Chain | None:
        """Bands over points [N, 3] of a body; None where it is too short to bend."""
        low, high = float(points[:, axis].min()), float(points[:, axis].max())
        count = round((high - low) / pitch_mm)
        if count < 2:
            return None
        edges = torch.linspace(low, high + 1e-3, count + 1).tolist()
        centres = []
        for start, end in pairwise(edges):
            inside = points[(points[:, axis] >= start) & (points[:, axis] < end)]
            if len(inside) < 20:
                return None
            centre = inside.mean(0)
            centre[axis] = (start + end) / 2
            centres.append(centre)
        return cls(torch.stack(centres), axis)

    def move(self, parameters: Tensor, points: Tensor) -> Tensor:
        """Where points [N, 3] go; parameters [K, 6]: rotation times `ARM_MM`, then translation, mm."""
        share = self._shares(points)
        total = points
        for k, centre in enumerate(self.centres):
            total = total + share[:, k : k + 1] * _displacement(parameters[k], points - centre)
        return total

    def strain(self, parameters: Tensor) -> Tensor:
        """Mean squared distance in mm² by which neighbours part around their joint."""
        return torch.stack(
            [
                (
                    _displacement(parameters[k], around - self.centres[k])
                    - _displacement(parameters[k + 1], around - self.centres[k + 1])
                )
                .square()
                .sum(1)
                .mean()
                for k, around in enumerate(self.around)
            ]
        ).mean()

    def _shares(self, points: Tensor) -> Tensor:
        """Weight of every band [N, K]; they add up to 1."""
        along = self.centres[:, self.axis]
        place = points[:, self.axis].clamp(float(along[0]), float(along[-1]))
        step = float(along[1] - along[0])
        return (1 - (place[:, None] - along[None, :]).abs() / step).clamp_min(0)


def articulated_start(problem: Problem, coefficients: Tensor, grid: ControlGrid, settings: Articulated) -> Tensor:
    """The chain that fits best as a spline, or the given one where that isn't better.

    Args:
        problem: The coarsest level.
        coefficients, grid: The field to start from, zero so far.
        settings: Of the chain.
    """
    images = problem.images
    bases, stride = images.bases(grid), images.stride(POINTS)
    whole = images.sample(coefficients, grid, bases, (slice(None, None, stride),) * 3)
    axis = int(np.argmax(np.abs(images.up)))
    chain = Chain.along(whole.points, axis, settings.band_mm)
    if chain is None:
        return coefficients
    parameters = torch.zeros(len(chain.centres), 6, device=coefficients.device).requires_grad_()
    optimiser = Adam(parameters)
    for step in range(settings.iterations):
        sample = problem.draw(coefficients, grid, bases, stride)
        if sample is None:
            return coefficients
        sample = _moved(sample, chain.move(parameters, sample.points), problem)
        (problem.similarity(sample) + settings.chain * chain.strain(parameters)).backward()
        optimiser.step(settings.rate_mm * 0.1 ** (step / max(1, settings.iterations - 1)))
    with torch.no_grad():
        start = _spline(chain, parameters.detach(), grid, images.lattice)
        state, scores = problem.generator.get_state(), []
        for trial in (coefficients, start):
            problem.generator.set_state(state)  # the same samples for both
            sample = problem.draw(trial, grid, bases, stride)
            scores.append(float("inf") if sample is None else float(problem.similarity(sample)))
    for term in problem.terms:
        term.restart()
    return start if scores[1] < scores[0] - settings.gain * abs(scores[0]) else coefficients


def _displacement(parameters: Tensor, offset: Tensor) -> Tensor:
    """(R − 1) x + t of offsets [N, 3] from a band's centre."""
    a, b, c = (parameters[:3] / ARM_MM).unbind()
    zero = torch.zeros_like(a)
    skew = torch.stack((zero, -c, b, c, zero, -a, -b, a, zero)).reshape(3, 3)
    return offset @ (torch.linalg.matrix_exp(skew) - torch.eye(3, device=a.device)).T + parameters[3:]


def _moved(sample: Sample, moved: Tensor, problem: Problem) -> Sample:
    with torch.no_grad():
        valid = sample_at(problem.images.valid, problem.images.moving_lattice, moved)[0]
    return replace(sample, moved=moved, weights=(valid > 0.9).float())


def _spline(chain: Chain, parameters: Tensor, grid: ControlGrid, lattice: Lattice) -> Tensor:
    """The chain on a lattice of cells, as coefficients."""
    low = np.array(lattice.start_zyx)
    cells = Lattice.between(low, low + (np.array(lattice.size_zyx) - 1) * lattice.spacing, CELL_MM)
    axes = [torch.as_tensor(cells.positions(a), dtype=torch.float32, device=parameters.device) for a in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    values = (chain.move(parameters, points) - points).T.reshape(3, *cells.size_zyx)
    return fitted(values, cells, grid)
