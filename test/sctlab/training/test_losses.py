"""L1 and IMPACT-Synth: what they measure and where they pull."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from sctlab.features import FeatureExtractor, MindSSC, load_extractor, save_extractor
from sctlab.features.networks.nnunet import TotalSegmentator
from sctlab.features.networks.sam import Sam2Hiera
from sctlab.features.networks.vgg import Vgg
from sctlab.features.trust import trust_file
from sctlab.training.batch import Batch
from sctlab.training.loss_terms import FeatureL1, SynthesisLoss
from sctlab.training.losses import L1, ImpactSynth
from sctlab_model.errors import InputError
from sctlab_model.recipe import Recipe

RECIPE = Recipe(task="mri")


def pairs(target: Tensor, mask: Tensor | None = None) -> Batch:
    """A batch whose source doesn't matter."""
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    return Batch.of_pairs(torch.zeros_like(target), target, mask)


def ct_like(seed: int = 0, slices: int = 2, size: int = 64) -> Tensor:
    """Blobs of soft tissue, fat and bone with sharp edges, [slices, 1, size, size] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(slices, size, size)), (1, 4, 4))
    field /= field.std()
    hu = np.select([field > 1.3, field > 0.2, field > -1.2], [600.0, 50.0, -100.0], -900.0)
    return torch.from_numpy(((hu + 1024) / 2047.5 - 1).astype(np.float32))[:, None]


def blurred(image: Tensor, sigma: float = 1.5) -> Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0, sigma, sigma)))


def feature_loss(extractor: FeatureExtractor, layers: dict[int, float], slab: int = 1) -> FeatureL1:
    return FeatureL1(extractor, layers, RECIPE, slab)


def test_l1_over_patch_and_mask() -> None:
    target = torch.zeros(2, 1, 4, 4)
    prediction = torch.zeros_like(target)
    mask = torch.zeros_like(target, dtype=torch.bool)
    mask[0, 0, :2] = True
    prediction[0, 0, 0] = 1
    whole = SynthesisLoss([L1(weight=2)], RECIPE)(prediction, pairs(target, mask))
    inside = SynthesisLoss([L1(over="mask")], RECIPE)(prediction, pairs(target, mask))
    assert float(whole[0]) == pytest.approx(2 * 4 / 32)
    assert float(whole[1]["l1"]) == pytest.approx(4 / 32)
    assert float(inside[0]) == pytest.approx(4 / 8)


def test_bone_may_count_more_and_soft_tissue_keeps_its_gradient() -> None:
    """Where one bone voxel in three can't be told from muscle, plain L1 learns muscle and L1 with weight 3 bone."""
    target = torch.full((1, 1, 3, 4), (50 + 1024) / 2047.5 - 1)
    target[..., 0, :] = (900 + 1024) / 2047.5 - 1
    constant = target.min().clone().requires_grad_()
    gradients = {}
    for weight in (1.0, 3.0):
        loss = SynthesisLoss([L1(bone_weight=weight)], RECIPE)
        inside = (constant + 0.01).expand_as(target)  # between muscle and bone
        (gradients[weight],) = torch.autograd.grad(loss(inside, pairs(target))[0], constant)
    assert float(gradients[1.0]) == pytest.approx((8 - 4) / 12, abs=1e-5)  # down to muscle
    assert float(gradients[3.0]) == pytest.approx((8 - 3 * 4) / 12, abs=1e-5)  # up to bone


def test_nothing_pulls_where_the_target_is_unknown() -> None:
    target = ct_like()
    target[:, :, :20] = torch.nan
    prediction = torch.zeros_like(target, requires_grad=True)
    loss = SynthesisLoss([L1(), ImpactSynth(extractor="mind-2d")], RECIPE)
    total, _ = loss(prediction, pairs(target))
    total.backward()
    assert torch.isfinite(total)
    assert (prediction.grad[:, :, :20] == 0).all()
    assert prediction.grad[:, :, 20:].abs().sum() > 0


def test_the_gradient_pulls_a_blurred_image_towards_the_sharp_one() -> None:
    """L1 with a tie between two edges can't choose; the feature loss can.

    The target is one of two images, half the time each: their mean (a blur) and either sharp image have the same
    expected L1. The features of a blur are those of neither, so IMPACT-Synth prefers a sharp image.
    """
    sharp = ct_like(3)
    other = torch.roll(sharp, 4, dims=-1)
    blur = (sharp + other) / 2
    l1, impact = (SynthesisLoss([term], RECIPE) for term in (L1(), ImpactSynth(extractor="mind-2d")))

    def expected(loss: SynthesisLoss, image: Tensor) -> Tensor:
        return (loss(image, pairs(sharp))[0] + loss(image, pairs(other))[0]) / 2

    assert float(expected(l1, blur)) == pytest.approx(float(expected(l1, sharp)), rel=1e-5)
    step = (sharp - blur).flatten()
    for loss, indifferent in ((l1, True), (impact, False)):
        image = (blur + 0.2 * (sharp - blur)).requires_grad_()
        (gradient,) = torch.autograd.grad(expected(loss, image), image)
        pull = float(-(gradient.flatten() @ step))  # fall of the loss over the whole way, to first order
        if indifferent:
            assert abs(pull) < 1e-6
        else:
            assert pull > 3e-3
            assert float(expected(loss, sharp)) < float(expected(loss, blur))


class TorchScriptLike(nn.Module):
    """A published extractor's interface: raw intensities in, its own normalisation, a list of layers out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.second = nn.Conv3d(4, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor, nb_layers: Tensor, stats: Tensor, direction: Tensor) -> list[Tensor]:
        low, high = (stats[0], stats[1]) if stats.numel() > 0 else (x.min(), x.max())
        x = (x - low) / (high - low)
        found = [torch.relu(self.first(x))]
        if int(nb_layers[0]) > 1:
            found.append(torch.relu(self.second(found[0])))
        return found


SMALL_PLANS = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]], "n_conv_per_stage": [2] * 3,
        "n_conv_per_stage_decoder": [2] * 2, "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    },
}  # fmt: skip


def build(kind: str, folder: Path) -> tuple[FeatureL1, int]:
    """A loss over a real architecture whose random weights went through a file, and its slab."""
    torch.manual_seed(0)
    if kind == "mind-2d":
        return feature_loss(MindSSC(2), {0: 1.0}), 1
    if kind == "mind-3d":
        return feature_loss(MindSSC(3), {0: 1.0}, 4), 4
    if kind == "torchscript":
        torch.jit.script(TorchScriptLike()).save(str(folder / "published.pt"))
        trust_file(folder / "published.pt")
        return feature_loss(load_extractor(folder / "published.pt"), {0: 0.5, 1: 1.0}, 4), 4
    if kind == "totalsegmentator":
        path = save_extractor(TotalSegmentator(SMALL_PLANS, classes=3), folder / "ts.safetensors")
        return feature_loss(load_extractor(path), {0: 1.0, 2: 1.0, 3: 1.0}, 8), 8
    built, name = (Vgg(16), "vgg16") if kind == "vgg16" else (Sam2Hiera("tiny"), "sam2.1-tiny")
    path = save_extractor(built, folder / f"{name}.safetensors")
    return feature_loss(load_extractor(path), {0: 1.0, 1: 1.0}), 1


KINDS = ["mind-2d", "mind-3d", "torchscript", "totalsegmentator", "vgg16", pytest.param("sam", marks=pytest.mark.heavy)]


@pytest.fixture(scope="module", params=KINDS)
def term(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureL1, int]:
    return build(request.param, tmp_path_factory.mktemp("weights"))


class TestEveryExtractor:
    """One contract for the loss over any extractor."""

    def test_zero_at_the_target_and_positive_elsewhere(self, term: tuple[FeatureL1, int]) -> None:
        loss, _ = term
        image = ct_like(slices=8)
        assert float(loss(image, pairs(image))) == pytest.approx(0, abs=1e-6)
        assert float(loss(blurred(image), pairs(image))) > 0

    def test_gradient_reaches_the_prediction_only(self, term: tuple[FeatureL1, int]) -> None:
        loss, _ = term
        target = ct_like(slices=8).requires_grad_()
        prediction = blurred(target.detach()).requires_grad_()
        loss.train()
        assert not loss.extractor.training
        loss(prediction, pairs(target)).backward()
        assert torch.isfinite(prediction.grad).all()
        assert prediction.grad.abs().sum() > 0
        assert target.grad is None
        assert all(p.grad is None and not p.requires_grad for p in loss.parameters())

    def test_a_batch_is_the_mean_of_its_samples(self, term: tuple[FeatureL1, int]) -> None:
        loss, slab = term
        target = ct_like(2, slices=2 * slab if slab > 1 else 4)
        prediction = blurred(target)
        alone = [float(loss(p, pairs(t))) for p, t in zip(prediction.split(slab), target.split(slab), strict=True)]
        assert float(loss(prediction, pairs(target))) == pytest.approx(np.mean(alone), rel=1e-4)

    def test_the_scale_is_fixed(self, term: tuple[FeatureL1, int]) -> None:
        """Features of an image don't depend on what the other image's range is."""
        loss, _ = term
        image = ct_like(slices=8)
        clipped = image.clamp(max=0)
        features = [f.clone() for f in loss._features(clipped)]
        outlier = torch.cat([clipped[:2], image[2:]])  # another maximum elsewhere in the batch
        if loss.extractor.dimension == 2:
            for found, wanted in zip(loss._features(outlier), features, strict=True):
                torch.testing.assert_close(found[:2], wanted[:2], atol=1e-4, rtol=1e-3)
        assert (loss.statistics.minimum, loss.statistics.maximum) == (-1024, 3071)

    def test_mixed_precision_is_finite_and_close(self, term: tuple[FeatureL1, int]) -> None:
        loss, _ = term
        target = ct_like(4, slices=8)
        prediction = blurred(target).requires_grad_()
        exact = float(loss(prediction, pairs(target)))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = loss(prediction, pairs(target))
        mixed.backward()
        assert mixed.dtype == torch.float32
        assert float(mixed) == pytest.approx(exact, rel=0.1)
        assert torch.isfinite(prediction.grad).all()


def test_three_dimensional_extractors_need_a_slab() -> None:
    with pytest.raises(InputError, match="adjacent slices"):
        feature_loss(MindSSC(3), {0: 1.0}, 1)


def test_a_slab_is_seen_as_one_volume() -> None:
    """A step between slices, invisible in the plane, is structure for a 3D extractor."""
    flat = torch.full((4, 1, 32, 32), -0.5)
    step = flat.clone()
    step[2:] = -0.3
    assert float(feature_loss(MindSSC(2), {0: 1.0})(step, pairs(flat))) == pytest.approx(0, abs=1e-6)
    assert float(feature_loss(MindSSC(3), {0: 1.0}, 4)(step, pairs(flat))) > 0.01


def test_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="layer 3"):
        feature_loss(MindSSC(2), {3: 1.0})


class Counting(MindSSC):
    """Counts how many images it was given, and in which precision it was called."""

    def __init__(self) -> None:
        super().__init__(2)
        self.images = 0
        self.autocast: list[bool] = []

    def _extract(self, x: Tensor, count: int, statistics: object) -> list[Tensor]:
        self.images += len(x)
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return super()._extract(x, count, statistics)


def test_features_of_the_target_are_computed_once_however_often_it_is_compared() -> None:
    extractor = Counting()
    loss, batch = feature_loss(extractor, {0: 1.0}), pairs(ct_like())
    first, second = (float(loss(blurred(batch.target), batch)) for _ in range(2))
    assert extractor.images == 3 * len(batch.target)  # the target, and the prediction twice
    assert first == second
    assert float(loss(blurred(batch.target), pairs(blurred(batch.target)))) == pytest.approx(0, abs=1e-6)


def test_fewer_slices_are_compared_where_the_recipe_says_so() -> None:
    extractor = Counting()
    target = ct_like(slices=6)
    few = FeatureL1(extractor, {0: 1.0}, RECIPE, samples=2)
    prediction = blurred(target).requires_grad_()
    few(prediction, pairs(target)).backward()
    assert extractor.images == 4
    assert prediction.grad[:2].abs().sum() > 0
    assert (prediction.grad[2:] == 0).all()
    whole = feature_loss(MindSSC(2), {0: 1.0})
    assert float(few(prediction, pairs(target))) == pytest.approx(float(whole(prediction[:2], pairs(target[:2]))))
    slabs = FeatureL1(MindSSC(3), {0: 1.0}, RECIPE, 3, samples=1)
    slabs(prediction, pairs(target))  # one slab of three slices


@pytest.mark.parametrize(("precision", "wanted"), [("bf16", True), ("32", False), ("plan", False)])
def test_the_frozen_network_may_have_a_precision_of_its_own(precision: str, wanted: bool) -> None:
    extractor = Counting()
    loss = FeatureL1(extractor, {0: 1.0}, RECIPE, precision=precision)
    target = ct_like()
    value = loss(blurred(target).requires_grad_(), pairs(target))
    assert extractor.autocast == [wanted, wanted]
    assert value.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        loss(blurred(target), pairs(target))
    assert extractor.autocast[2:] == [precision != "32"] * 2


def test_an_extractor_is_shown_the_voxels_that_it_knows() -> None:
    """1x1x3 mm slices at 3 mm: a third of the rows and columns, every slice; the gradient finds its way back."""

    class Seen(MindSSC):
        def __init__(self) -> None:
            super().__init__(3)
            self.shapes: list[tuple[int, ...]] = []

        def _extract(self, x: Tensor, count: int, statistics: object) -> list[Tensor]:
            self.shapes.append(tuple(x.shape))
            return super()._extract(x, count, statistics)

    extractor, target = Seen(), ct_like(slices=4, size=63)
    loss = FeatureL1(extractor, {0: 1.0}, RECIPE, 4, voxel_mm=3.0)
    prediction = blurred(target).requires_grad_()
    loss(prediction, pairs(target)).backward()
    assert RECIPE.spacing_xyz == (1.0, 1.0, 3.0)
    assert extractor.shapes == [(1, 1, 4, 21, 21)] * 2
    assert float(prediction.grad.abs().sum()) > 0
    assert float(loss(target, pairs(target))) == 0
