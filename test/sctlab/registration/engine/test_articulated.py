"""Rigid bands: the chain's motion, its strain, and a body that bends by more than a coarse spline follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from sctlab.registration.engine.articulated import ARM_MM, Chain, articulated_start
from sctlab.registration.engine.bspline import ControlGrid, evaluate_at
from sctlab.registration.engine.images import Images
from sctlab.registration.engine.level import Problem
from sctlab.registration.engine.level_images import LevelImages
from sctlab.registration.engine.settings import Articulated, Preset
from sctlab.transforms.data import EulerTransform
from sctlab_model.volume import Geometry, Volume

CENTRES = torch.tensor([[20.0, 50.0, 50.0], [60.0, 50.0, 50.0], [100.0, 50.0, 50.0]])
GRID = Geometry((28, 28, 60), (4.0, 4.0, 4.0))
PRESET = Preset(name="bands", discrete=None)


def about_x(degrees: float, centre: Tensor) -> Tensor:
    """Parameters of every band for one rotation about the x axis through a point."""
    angle = np.radians(degrees)
    turn = torch.tensor(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]], dtype=torch.float32
    )  # rows z, y, x
    shifts = (CENTRES - centre) @ turn.T + centre - CENTRES
    return torch.cat((torch.tensor([0.0, 0.0, angle * ARM_MM]).expand(3, 3), shifts), dim=1).float()


def test_bands_with_one_rigid_motion_are_one_body() -> None:
    chain = Chain(CENTRES, 0)
    centre = torch.tensor([10.0, 30.0, 40.0])
    parameters = about_x(12.0, centre)
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 120
    moved = chain.move(parameters, points)
    before, after = (points[1:] - points[:-1]).norm(dim=1), (moved[1:] - moved[:-1]).norm(dim=1)
    assert torch.allclose(before, after, atol=1e-2)
    assert torch.allclose(chain.move(parameters, centre[None]), centre[None], atol=1e-3)
    assert float(chain.strain(parameters)) < 1e-6


def test_neighbours_that_part_are_strained() -> None:
    chain = Chain(CENTRES, 0)
    parameters = torch.zeros(3, 6)
    parameters[2, 3] = 4.0  # one joint of two parts by 4 mm
    assert float(chain.strain(parameters)) == pytest.approx(8.0, rel=1e-4)


def test_a_short_body_has_no_bands() -> None:
    assert Chain.along(torch.rand(500, 3) * 30, 0, 40.0) is None


@pytest.fixture(scope="module")
def bent() -> tuple[Volume, Volume, np.ndarray]:
    """Fixed image, moving image, and how far up the fixed voxels go: the upper half leans over."""
    texture = gaussian_filter(np.random.default_rng(1).standard_normal((80, 60, 60)), 1.5)
    z, y, x = np.indices(GRID.shape_zyx).astype(float)
    angle = np.radians(14) * np.clip((z - 25) / 10, 0, 1)
    up, back = z - 30, y - 13.5
    moved_z = np.where(z > 25, 30 + np.cos(angle) * up - np.sin(angle) * back, z)
    moved_y = np.where(z > 25, 13.5 + np.sin(angle) * up + np.cos(angle) * back, y)
    moving = map_coordinates(texture, [z + 10, y + 16, x + 16], order=1)
    fixed = map_coordinates(texture, [moved_z + 10, moved_y + 16, x + 16], order=1)
    return Volume(300 * fixed, GRID), Volume(300 * moving, GRID), 4.0 * np.stack([moved_z - z, moved_y - y, 0 * x])


def test_the_bands_follow_a_body_that_bends(bent: tuple[Volume, Volume, np.ndarray]) -> None:
    fixed, moving, truth = bent
    images = Images.prepare(fixed, moving, None, None, None, torch.device("cpu"))
    level = LevelImages(images, EulerTransform((0.0, 0.0, 0.0)), PRESET, 8.0)
    problem = Problem.of(level, PRESET, torch.Generator().manual_seed(0))
    grid = ControlGrid.covering((236.0, 108.0, 108.0), 48.0, margin=4.0)
    start = articulated_start(problem, torch.zeros(3, *grid.size_zyx), grid, Articulated())
    index = np.indices(GRID.shape_zyx).reshape(3, -1).T[::97]
    found = evaluate_at(start, grid, torch.from_numpy(4.0 * index).float()).numpy()
    wanted = truth.reshape(3, -1).T[::97]
    error, before = np.linalg.norm(found - wanted, axis=1), np.linalg.norm(wanted, axis=1)
    assert error[before > 5].mean() < 0.5 * before[before > 5].mean()
    assert error.mean() < 0.6 * before.mean()
