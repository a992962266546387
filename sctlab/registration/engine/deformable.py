"""The deformable stage: levels from coarse to fine, the control points refined in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sctlab.registration.engine.articulated import articulated_start
from sctlab.registration.engine.bspline import ControlGrid, refine
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import extent_zyx
from sctlab.registration.engine.level import Problem, minimise
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.sliding import Domains, Surface, domains
from sctlab.registration.engine.start import coarse_start
from sctlab.transforms.data import EulerTransform


@dataclass(frozen=True)
class Deformed:
    """The outcome of the deformable stage.

    Args:
        coefficients: [3 (z, y, x), control points] in mm along the fixed image's axes; [6, …] with two splines.
        grid: The control points.
        values: The metric at the start and the end of each level.
        surface: Along which organs slide; None with one spline.
        domains: Which of both moved a point at the last level.
    """

    coefficients: Tensor
    grid: ControlGrid
    values: dict[str, float]
    surface: Surface | None = None
    domains: Domains | None = None


def deform(
    images: Images,
    rigid: EulerTransform,
    preset: Preset,
    *,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Deformed:
    """The B-spline that a preset asks for.

    Args:
        images: Both images on their own grids.
        rigid: From fixed points to moving points.
        preset: Levels and terms.
        seed: Of the samples.
        progress: Called with the share of the iterations that are done.

    Returns:
        The field and the metric at the start and the end of each level.
    """
    surface = Surface.of(images, rigid) if preset.sliding is not None else None
    split: Domains | None = None
    generator = torch.Generator().manual_seed(seed)
    coarsest = preset.knots_mm * 2 ** (len(preset.levels) - 1)
    extent = extent_zyx(images.fixed_geometry)
    grid = ControlGrid.covering(tuple(extent), coarsest, margin=max(images.fixed_geometry.spacing_xyz))
    coefficients = torch.zeros(3, *grid.size_zyx, device=images.device)
    values: dict[str, float] = {}
    total, done = sum(level.iterations for level in preset.levels), 0
    for number, level in enumerate(preset.levels):
        if number:
            coefficients, grid = refine(coefficients), grid.refined()
        level_images = LevelImages(images, rigid, preset, level.voxel_mm)
        problem: Problem | None = None
        if number == 0 and (preset.articulated is not None or preset.discrete is not None):
            problem = Problem.of(level_images, preset, generator)
            if preset.articulated is not None:
                coefficients = articulated_start(problem, coefficients, grid, preset.articulated)
            if preset.discrete is not None:
                coefficients = coarse_start(problem, coefficients, grid, preset.discrete)
        if surface is not None and preset.sliding is not None and number >= preset.sliding.from_level:
            lattice = level_images.lattice
            split = level_images.domains = domains(surface, coefficients, grid, lattice, split, preset.sliding)
            if len(coefficients) == 3:
                coefficients = coefficients.repeat(2, 1, 1, 1)
            problem = None  # its terms saw both sides at once
        problem = problem or Problem.of(level_images, preset, generator)

        def step(count: int, start: int = done) -> None:
            progress((start + count) / total)

        coefficients, first, last = minimise(problem, coefficients, grid, level, step)
        values |= {f"level{number + 1}_start": first, f"level{number + 1}_end": last}
        done += level.iterations
    return Deformed(coefficients, grid, values, surface if split is not None else None, split)
