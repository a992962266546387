"""Features of either side of a surface don't see the other side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sctlab.features import FeatureExtractor, Layer, Statistics
from sctlab.features.extractors.mind import MindSSC
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.feature_maps import feature_lattice
from sctlab.registration.engine.lattice import Lattice, grid_positions
from sctlab.registration.engine.one_side import filled, own_features
from sctlab.registration.engine.settings import Sliding
from sctlab.registration.engine.sliding import Surface, domains

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
