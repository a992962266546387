"""The deformable stage: levels from coarse to fine, the control points refined in between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sctlab.registration.engine.bspline import ControlGrid, refine
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.lattice import extent_zyx
from sctlab.registration.engine.level import Problem, minimise
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.settings import Preset
from sctlab.registration.engine.start import coarse_start
from sctlab.transforms.data import EulerTransform


def deform(
    images: Images,
    rigid: EulerTransform,
    preset: Preset,
    *,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Tensor, ControlGrid, dict[str, float]]:
    """The B-spline that a preset asks for.

    Args:
        images: Both images on their own grids.
        rigid: From fixed points to moving points.
        preset: Levels and terms.
        seed: Of the samples.
        progress: Called with the share of the iterations that are done.

    Returns:
        Coefficients [3 (z, y, x), control points] in mm along the fixed image's axes, their grid, and the metric at
        the start and the end of each level.
    """
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
        problem = Problem.of(LevelImages(images, rigid, preset, level.voxel_mm), preset, generator)
        if number == 0 and preset.discrete is not None:
            coefficients = coarse_start(problem, coefficients, grid, preset.discrete)

        def step(count: int, start: int = done) -> None:
            progress((start + count) / total)

        coefficients, first, last = minimise(problem, coefficients, grid, level, step)
        values |= {f"level{number + 1}_start": first, f"level{number + 1}_end": last}
        done += level.iterations
    return coefficients, grid, values
