"""One level of the deformable stage: a problem with a list of terms, minimised by Adam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sctlab.registration.engine.adam import Adam
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import Level, Preset
from sctlab.registration.engine.terms.registry import Term, build_terms
from sctlab_model.errors import RegistrationError

FEWEST_POINTS = 8  # of a sample that land on the moving image: fewer tell nothing


@dataclass(frozen=True)
class Problem:
    """Find the field T that minimises S(T) + R(T) on one level's images.

    S(T) = Σ_l w_l · d(ψ_l(F), ψ_l(M∘T)) + …   (terms that compare the images: IMPACT's features, mutual information)
    R(T) = bending + folding + …               (terms that regularise the field)

    Args:
        images: F and M at this level.
        terms: The summands, weights included; see `engine.terms`.
        generator: Draws the samples.
    """

    images: LevelImages
    terms: list[Term]
    generator: torch.Generator

    @classmethod
    def of(cls, images: LevelImages, preset: Preset, generator: torch.Generator) -> Problem:
        """The problem that a preset poses on a level's images."""
        return cls(images, build_terms(images, preset, generator), generator)

    def draw(self, field: Tensor, grid: ControlGrid, bases: tuple[Tensor, ...], stride: int) -> Sample | None:
        """Points of a subgrid at a random offset; None where too few of them land on the moving image."""
        window = self.images.random_window(stride, self.generator)
        sample = self.images.sample(field, grid, bases, window)
        return sample if sample.weights.sum() >= FEWEST_POINTS else None

    def similarity(self, sample: Sample) -> Tensor:
        """S(T): the terms that compare the images."""
        return sum((term(sample) for term in self.terms if not term.regularises), sample.moved.new_zeros(()))

    def objective(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """S(T) + R(T), and S(T) alone for the record."""
        similarity = self.similarity(sample)
        return sum((term(sample) for term in self.terms if term.regularises), similarity), similarity


def minimise(
    problem: Problem,
    coefficients: Tensor,
    grid: ControlGrid,
    level: Level,
    progress: Callable[[int], None] = lambda step: None,
) -> tuple[Tensor, float, float]:
    """Adam on the control points; the mean of the last iterates, and S(T) at the start and at the end.

    Raises:
        RegistrationError: No voxel of the fixed mask lands inside the moving image.
    """
    bases, stride = problem.images.bases(grid), problem.images.stride(level.points)
    field = coefficients.clone().requires_grad_()
    optimiser = Adam(field)
    tail = max(1, level.iterations // 5)
    mean, first, last = torch.zeros_like(coefficients), None, 0.0
    for step in range(level.iterations):
        sample = problem.draw(field, grid, bases, stride)
        if sample is None:
            raise RegistrationError(
                "registration",
                found="no voxel of the fixed mask lands inside the moving image",
                expected="images that overlap",
                advice="check the masks and the frames of reference",
            )
        objective, similarity = problem.objective(sample)
        objective.backward()
        optimiser.step(level.rate_mm * 0.1 ** (step / max(1, level.iterations - 1)))
        last = float(similarity.detach())
        first = last if first is None else first
        if step >= level.iterations - tail:
            mean += field.detach() / tail
        progress(step + 1)
    return mean, first or 0.0, last
