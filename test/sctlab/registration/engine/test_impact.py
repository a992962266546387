"""The IMPACT metric: both modes, masks, scaling, channels, components, strided layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from sctlab.features import FeatureExtractor, Layer, MindSSC
from sctlab.registration.engine.bspline import ControlGrid
from sctlab.registration.engine.feature_maps import principal_components
from sctlab.registration.engine.lattice import Lattice
from sctlab.registration.engine.sample import Sample
from sctlab.registration.engine.settings import FeatureTerm
from sctlab.registration.engine.terms.features import StaticFeatures
from sctlab.registration.engine.terms.patches import JacobianFeatures
from sctlab_model.errors import InputError

GRID = ControlGrid.covering((40.0, 40.0, 40.0), 20.0)
NOWHERE = torch.zeros(3)


class Strided(FeatureExtractor):
    """Means of 2x2x2 boxes: a layer of stride 2 whose values are known."""

    def __init__(self) -> None:
        super().__init__("boxes", dimension=3, channels=1, layers=[Layer("box", 1, 2, 2, 0.5)], normalisation="none")

    def _extract(self, x: Tensor, count: int, statistics: object) -> list[Tensor]:
        return [functional.avg_pool3d(x, 2, ceil_mode=True, count_include_pad=False)]


class Plane(FeatureExtractor):
    """A 2D convolution with a fixed kernel."""

    def __init__(self) -> None:
        super().__init__("plane", dimension=2, channels=1, layers=[Layer("slope", 2, 1, 3)], normalisation="none")
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        nn.init.constant_(self.conv.weight, 0.1)
        self.freeze()

    def _extract(self, x: Tensor, count: int, statistics: object) -> list[Tensor]:
        return [self.conv(x)]


@pytest.fixture
def image() -> tuple[Tensor, Lattice]:
    """Smooth random structure on 20 x 22 x 24 voxels of 2 mm."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 20, 22, 24, generator=generator)
    for _ in range(2):
        x = functional.avg_pool3d(x, 3, stride=1, padding=1)
    return 1000 * x, Lattice((0.0, 0.0, 0.0), 2.0, (20, 22, 24))


def at(points: Tensor, field: Callable[[Tensor], Tensor], weights: Tensor | None = None) -> Sample:
    """A sample whose field is a function."""
    weights = torch.ones(len(points)) if weights is None else weights

    class Moved(Sample):
        def field(self, where: Tensor) -> Tensor:
            return field(where)

    nothing = torch.zeros(0)
    return Moved(nothing, GRID, points, field(points), weights, None, (), nothing)


def moved(points: Tensor, shift: Tensor, weights: Tensor | None = None) -> Sample:
    return at(points, lambda where: where + shift, weights)


def inner_points(count: int = 300) -> Tensor:
    return 12 + 14 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1))


def shifted(x: Tensor, voxels: int) -> Tensor:
    """`out[i] = x[i - voxels]` along x: a feature at p is found in the moving image at p + voxels."""
    return torch.roll(x, voxels, dims=-1)


@pytest.mark.parametrize("extractor", [MindSSC(), Strided(), Plane()], ids=lambda e: e.name)
def test_static_mode_prefers_the_true_shift(image, extractor: FeatureExtractor) -> None:
    x, lattice = image
    metric = StaticFeatures(FeatureTerm(), extractor, image, (shifted(x, 2), lattice), torch.Generator())
    points = inner_points()
    scores = [float(metric(moved(points, torch.tensor([0.0, 0.0, mm])))) for mm in (0.0, 2.0, 4.0, 6.0)]
    assert min(scores) == scores[2]
    assert scores[0] == pytest.approx(1.0)  # divided by the value at the start
    assert scores[2] < 0.2


@pytest.mark.parametrize("extractor", [MindSSC(), Plane()], ids=lambda e: e.name)
def test_jacobian_mode_prefers_the_true_shift_and_has_its_gradient(image, extractor: FeatureExtractor) -> None:
    x, lattice = image
    term = FeatureTerm(mode="jacobian", distance="l2", patch=9)
    metric = JacobianFeatures(term, extractor, image, (shifted(x, 1), lattice), torch.Generator())
    points = inner_points(40)

    def score(shift: Tensor) -> Tensor:
        return metric(moved(points, shift))

    scores = [float(score(torch.tensor([0.0, 0.0, mm]))) for mm in (0.0, 1.0, 2.0, 3.0)]
    assert min(scores) == scores[2]
    shift = torch.tensor([0.3, -0.2, 0.9], requires_grad=True)
    (gradient,) = torch.autograd.grad(score(shift), shift)
    step = 1e-2
    for axis in range(3):
        offset = step * torch.eye(3)[axis]
        numeric = (score(shift.detach() + offset) - score(shift.detach() - offset)) / (2 * step)
        assert float(gradient[axis]) == pytest.approx(float(numeric), rel=0.1, abs=2e-3)


def test_both_modes_agree_for_a_layer_without_stride(image) -> None:
    x, lattice = image
    moving = (shifted(x, 1), lattice)
    points = (torch.randint(6, 14, (50, 3), generator=torch.Generator().manual_seed(2)) * 2).float()  # on voxels
    static = StaticFeatures(FeatureTerm(distance="cosine"), Plane(), image, moving, torch.Generator())
    jacobian = JacobianFeatures(
        FeatureTerm(distance="cosine", mode="jacobian"), Plane(), image, moving, torch.Generator()
    )
    shift = torch.tensor([0.0, 2.0, 4.0])
    a = static(moved(points, shift))
    b = jacobian(moved(points, shift))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_field_of_view_beyond_the_image_is_refused(image) -> None:
    with pytest.raises(InputError, match="field of view of 31 voxels"):
        JacobianFeatures(FeatureTerm(mode="jacobian", patch=31), MindSSC(), image, image, torch.Generator())


def test_points_of_weight_zero_do_not_count(image) -> None:
    x, lattice = image
    points = inner_points()
    half = points[:, 2] < 19
    spoiled = x.clone()
    spoiled[..., 10:] = 0
    weights = half.float()
    for term in (FeatureTerm(distance="ncc"), FeatureTerm(distance="cosine")):
        metric = StaticFeatures(term, MindSSC(), image, (spoiled, lattice), torch.Generator())
        torch.testing.assert_close(
            metric(moved(points, NOWHERE, weights)), metric(moved(points[half], NOWHERE)), rtol=1e-3, atol=1e-4
        )


def test_channel_subsets_and_components(image) -> None:
    x, lattice = image
    points = inner_points()
    moving = (shifted(x, 2), lattice)
    truth = torch.tensor([0.0, 0.0, 4.0])
    for term in (FeatureTerm(channels=3), FeatureTerm(pca=4)):
        metric = StaticFeatures(term, MindSSC(), image, moving, torch.Generator().manual_seed(0))
        assert float(metric(moved(points, NOWHERE))) > 3 * float(metric(moved(points, truth)))


def test_components_are_orthogonal_and_ordered() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 2, generator=generator)
    fixed = torch.einsum("ck,kn->cn", mixing, torch.randn(2, 1000, generator=generator) * torch.tensor([[3.0], [1.0]]))
    projected, _ = principal_components(fixed.reshape(1, 6, 10, 10, 10), fixed.reshape(1, 6, 10, 10, 10), 3)
    covariance = np.cov(projected[0].flatten(1).numpy())
    assert covariance[0, 0] > covariance[1, 1] > 100 * covariance[2, 2]
    assert abs(covariance[0, 1]) < 1e-3 * covariance[0, 0]


def test_impossible_terms_are_refused() -> None:
    with pytest.raises(ValidationError, match="'l3' is none of l1, l2"):
        FeatureTerm(distance="l3")
    with pytest.raises(ValidationError, match="mode"):
        FeatureTerm(mode="dense")
    with pytest.raises(ValidationError, match="expected one each"):
        FeatureTerm(layers=(0, 1), layer_weights=(1.0,))
