"""Features of either side of a surface don't see the other side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sctlab.features import FeatureExtractor, Layer, Statistics
from sctlab.features.networks.mind import MindSSC
from sctlab.registration.engine import sliding_result
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.feature_maps import feature_lattice
from sctlab.registration.engine.lattice import Lattice, grid_positions
from sctlab.registration.engine.one_side import filled, own_features
from sctlab.registration.engine.settings import Sliding
from sctlab.registration.engine.sliding import Domains, Surface, domains
from sctlab.registration.engine.sliding_result import compose_field
from sctlab_model.volume import Geometry

LATTICE = Lattice((0.0, 0.0, 0.0), 2.0, (20, 24, 22))
CENTRE, RADIUS_MM = torch.tensor([19.0, 23.0, 21.0]), 13.0


class Strided(FeatureExtractor):
    """Means of 2x2x2 voxels: a layer with a stride."""

    def __init__(self) -> None:
        layer = Layer("mean", 1, 2, 2, offset=0.5)
        super().__init__("strided", dimension=3, channels=1, layers=[layer], normalisation="none")
        self.freeze()

    def _extract(self, x: Tensor, count: int, statistics: Statistics | None) -> list[Tensor]:
        return [torch.nn.functional.avg_pool3d(x, 2, ceil_mode=True)]


def depth(lattice: Lattice = LATTICE, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Signed distance to a sphere, positive inside [1, 1, z, y, x]."""
    points = grid_positions([lattice.positions(axis) for axis in range(3)], torch.device("cpu"))
    distance = RADIUS_MM - (points - CENTRE - torch.tensor(shift)).norm(dim=1)
    return distance.reshape(1, 1, *lattice.size_zyx)


def textures() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, 1, *LATTICE.size_zyx, generator=generator) for _ in range(2))
    one[..., 0, 0, :2] = other[..., 0, 0, :2] = one[..., 10, 11, 10:12] = other[..., 10, 11, 10:12] = torch.tensor(
        [0, 1.0]
    )
    return one, other  # of one range on both sides: normalisation sees the whole image


@pytest.mark.parametrize("extractor", [MindSSC(), Strided()], ids=lambda e: e.name)
@pytest.mark.parametrize("side", [-1, 1])
def test_what_lies_on_the_other_side_changes_nothing(extractor: FeatureExtractor, side: int) -> None:
    one, other = textures()
    kept = side * depth() > 0
    near = (side * depth() > -7) & ~kept  # as far as a descriptor of this side sees
    changed = torch.where(near, other, one)
    (before,), (after,) = (own_features(extractor, image, LATTICE, depth(), (0,)) for image in (one, changed))
    lattice = feature_lattice(LATTICE, extractor.layers[0], 3)
    points = grid_positions([lattice.positions(axis) for axis in range(3)], torch.device("cpu"))
    where = (side * (RADIUS_MM - (points - CENTRE).norm(dim=1)) > 0.5).reshape(before.shape[2:])
    assert where.sum() > 100
    (seeing,), (seen,) = (extractor(image, layers=(0,)) for image in (one, changed))
    # What is left comes from interpolation between the voxels beside the surface.
    assert (before - after)[..., where].abs().mean() < 0.05 * (seeing - seen)[..., where].abs().mean()


def test_filling_takes_the_nearest_values_of_the_side_that_is_kept() -> None:
    z = grid_positions([LATTICE.positions(a) for a in range(3)], torch.device("cpu"))[:, 0].reshape(depth().shape)
    image = torch.where(depth() > -2, z, -1000.0)  # sampling reaches a voxel further than its point
    found = filled(image, LATTICE, depth(), 1, 8.0)
    band = (depth() < -1) & (depth() > -7)
    expected = CENTRE[0] + (z - CENTRE[0]) * (RADIUS_MM - 2.0) / (RADIUS_MM - depth())  # one voxel below the sphere
    assert (found - expected)[band].abs().max() < 1.0
    assert torch.equal(found[depth() < -8], image[depth() < -8])
    assert torch.equal(found[depth() > 2], image[depth() > 2])


def test_one_side_alone_is_left_as_it_is() -> None:
    image = textures()[0]
    assert torch.equal(filled(image, LATTICE, torch.full_like(image, 30.0), -1, 8.0), image)


@pytest.mark.parametrize("moves", [False, True])
def test_the_surface_is_known_in_both_images(moves: bool) -> None:
    """A field that shifts everything: the surface of one image lies shifted in the other."""
    shift = (3.0, -2.0, 1.0)
    surface = Surface(depth(), LATTICE, moves)
    grid = ControlGrid.covering((38.0, 46.0, 42.0), 16.0)
    coefficients = torch.tensor(shift)[:, None, None, None].expand(3, *grid.size_zyx)
    wide = Lattice((-4.0, -4.0, -4.0), 3.0, (16, 18, 17))
    split = domains(surface, coefficients, grid, LATTICE, None, Sliding())
    back = (-shift[0], -shift[1], -shift[2])
    fixed, moving = (depth(LATTICE, back), depth(wide)) if moves else (depth(), depth(wide, shift))
    for found, expected in ((split.depth(LATTICE), fixed), (split.moving_depth(wide), moving)):
        near = (expected.abs() < 6)[..., 3:-3, 3:-3, 3:-3]
        assert (found - expected)[..., 3:-3, 3:-3, 3:-3][near].abs().mean() < 0.3


def pushed(moves: bool, millimetres: float) -> tuple[Tensor, ControlGrid, Surface, Domains]:
    """Both splines, of which the inner one moves everything along z and the wall's nothing."""
    surface = Surface(depth(), LATTICE, moves)
    grid = ControlGrid.covering((38.0, 46.0, 42.0), 16.0)
    coefficients = torch.zeros(6, *grid.size_zyx)
    coefficients[3] = millimetres
    return coefficients, grid, surface, domains(surface, coefficients[:3], grid, LATTICE, None, Sliding(hold_mm=8.0))


@pytest.mark.parametrize("moves", [False, True])
def test_organs_go_along_the_surface_and_never_across_it(moves: bool) -> None:
    _, _, _, split = pushed(moves, 2.0)
    points = grid_positions([LATTICE.positions(axis) for axis in range(3)], torch.device("cpu"))
    where = split.flat
    field = torch.zeros(6, len(points))
    field[3] = 2.0
    wall, inner = split.sides(points, field, where, 8.0)
    beside, deep = where.abs() < 1.0, where > 8.0
    assert torch.equal(wall, points)
    lost = (inner - CENTRE).norm(dim=1) - (points - CENTRE).norm(dim=1)
    assert lost[beside].abs().mean() < 0.2  # pushed against the poles they would be 1 mm off in the mean
    equator = beside & ((points - CENTRE)[:, 0].abs() < 1.5)
    assert equator.sum() > 50
    assert (inner - points)[equator, 0].mean() == pytest.approx(2.0, abs=0.1)
    assert torch.equal((inner - points)[deep, 0], torch.full_like(where[deep], 2.0))


@pytest.mark.parametrize("moves", [False, True])
def test_the_sheet_is_smoothed_where_it_would_fold(moves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = tuple(np.arange(n) * LATTICE.spacing for n in LATTICE.size_zyx)
    body = torch.ones(LATTICE.size_zyx, dtype=torch.bool)
    fixed = Geometry(LATTICE.size_zyx[::-1], (LATTICE.spacing,) * 3)
    found = {}
    for least in (-10.0, 0.2):
        monkeypatch.setattr(sliding_result, "LEAST_IN_WHOLE", least)
        _, found[least] = compose_field(*pushed(moves, 6.0), axes, body, fixed)
    assert found[-10.0].smallest < 0 < found[-10.0].folded_percent
    assert found[0.2].smallest > 0.19
    assert found[0.2].folded_percent == 0
    assert found[0.2].slip_mm == found[-10.0].slip_mm > 4
