"""What a plan's losses compute: terms of a prediction and its batch, and their weighted sum."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sctlab.features import FeatureExtractor, Statistics
from sctlab.training.batch import Batch
from sctlab.training.losses import L1, ImpactSynth
from sctlab_model.errors import InputError
from sctlab_model.preparation import unit_to_hu
from sctlab_model.recipe import Recipe


class Term(nn.Module):
    """A differentiable number about a prediction and its batch."""

    @abstractmethod
    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The term before its weight, a float32 scalar.

        Args:
            prediction: [N, 1, y, x] in [-1, 1], float32.
            batch: Its target has no NaN (see `Batch.known`).
        """

    def describe(self) -> dict[str, object] | None:
        """What the run's record keeps about it; None for what the plan says already."""
        return None


class SynthesisLoss(nn.Module):
    """The weighted sum of a plan's losses.

    Where the target is NaN (the registration had no data there), the prediction is taken for the target, so
    that no term pulls on it.

    Args:
        losses: The plan's terms.
        recipe: Says which HU the network's -1 and 1 stand for.
        slab: Adjacent slices that lie next to each other in a batch; 3D extractors see them as one volume.
    """

    def __init__(self, losses: Sequence[L1 | ImpactSynth], recipe: Recipe, slab: int = 1) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        for loss in losses:
            if loss.name in self.weights:
                raise InputError(
                    "losses",
                    found=f"two terms {loss.name}",
                    expected="each term once",
                    advice="raise its weight instead",
                )
            self.terms[loss.name] = loss.build(recipe, slab)
            self.weights[loss.name] = loss.weight

    def forward(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total and terms.

        Args:
            prediction: [N, 1, y, x] in [-1, 1].
            batch: What it was predicted from and what it should be.

        Returns:
            The weighted sum (float32 scalar), and every term before its weight, without gradient.
        """
        prediction = prediction.float()
        batch, known = batch.known()
        prediction = torch.where(known, prediction, batch.target)
        total, parts = prediction.new_zeros(()), {}
        for name, term in self.terms.items():
            value: Tensor = term(prediction, batch)
            total = total + self.weights[name] * value
            parts[name] = value.detach()
        return total, parts

    def describe(self) -> list[dict[str, object]]:
        """What the terms say about themselves, for the run's record."""
        terms: dict[str, Any] = dict(self.terms.items())  # a ModuleDict promises modules only
        described = {name: term.describe() for name, term in terms.items()}
        return [{"term": name, **text} for name, text in described.items() if text is not None]


class MaskedL1(Term):
    """Mean absolute difference over the patch, or over the body voxels in it; bone's may count more than once.

    Args:
        over: `patch` or `mask`.
        bone_weight: See `L1`. The mean is over voxels, not over weights: soft tissue keeps its share of the gradient.
        bone_above: Where bone begins, in the network's unit.
    """

    def __init__(self, over: str, bone_weight: float, bone_above: float) -> None:
        super().__init__()
        self.over, self.bone_weight, self.bone_above = over, bone_weight, bone_above

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        difference = (prediction - batch.target).abs()
        if self.bone_weight != 1:
            difference = difference * (1 + (self.bone_weight - 1) * (batch.target > self.bone_above))
        if self.over == "patch":
            return difference.mean()
        return mean_over(difference, batch.mask)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values where the mask is set, over all processes alike: the mean of the processes' own means would weigh
    voxels by their neighbours' number. Both [N, 1, y, x]."""
    count = mask.sum(dtype=torch.float32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return (values * mask).sum() / count.clamp_min(1)


class FeatureL1(Term):
    """IMPACT-Synth: sum over layers of w_l mean |psi_l(sCT) - psi_l(CT)| (arXiv 2609.29387).

    The extractor gets HU and normalises as it always does, with the statistics of one fixed range for both
    images: with each image's own minimum and maximum, a wrong prediction would move its own scale. It is
    frozen and in evaluation mode; the CT's features carry no gradient and are computed once per batch, however often
    it is compared; differences and means are float32.

    Args:
        extractor: 2D (every slice is an image) or 3D (every slab is one).
        layers: Layer index → weight.
        recipe: For HU.
        slab: Adjacent slices a volume; 3D extractors need more than one.
        statistics: Of the fixed range.
        samples, precision, voxel_mm: See `ImpactSynth`.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        layers: dict[int, float],
        recipe: Recipe,
        slab: int = 1,
        statistics: Statistics | None = None,
        *,
        samples: int | None = None,
        precision: str = "plan",
        voxel_mm: float | None = None,
    ) -> None:
        super().__init__()
        count = len(extractor.layers)
        if max(layers) >= count:
            raise InputError(
                f"losses: layers of {extractor.name}", found=f"layer {max(layers)}", expected=f"0 to {count - 1}"
            )
        if extractor.dimension == 3 and slab < max(2, extractor.minimum_size):
            raise InputError(
                f"losses: {extractor.name}",
                found=f"patch.slab is {slab}",
                expected=f"at least {max(2, extractor.minimum_size)} adjacent slices, because it sees in 3D",
            )
        self.extractor = extractor.freeze()
        self.indices, self.layer_weights = tuple(layers), tuple(layers.values())
        self.recipe, self.slab, self.samples, self.precision = recipe, slab, samples, precision
        self.statistics = statistics or Statistics.from_range(*recipe.target_range_hu)
        self.voxel_mm = voxel_mm

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        count = len(prediction) if self.samples is None else min(len(prediction), self.samples * self.slab)
        with self._precision(prediction):
            if self not in batch.cache:
                with torch.no_grad():
                    batch.cache[self] = self._features(batch.target[:count])
            pairs = zip(self.layer_weights, self._features(prediction[:count]), batch.cache[self], strict=True)
            total = prediction.new_zeros(())
            for weight, predicted, wanted in pairs:
                total = total + weight * (predicted.float() - wanted.float()).abs().mean()
        return total

    def describe(self) -> dict[str, object]:
        return {**self.extractor.describe(), "statistics_hu": vars(self.statistics), "voxel_mm": self.voxel_mm}

    def _precision(self, tensor: Tensor) -> AbstractContextManager[object]:
        if self.precision == "plan":
            return nullcontext()
        return torch.autocast(tensor.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def _features(self, image: Tensor) -> list[Tensor]:
        hu: Tensor = unit_to_hu(image, self.recipe)  # type: ignore[arg-type, assignment]  # arrays and tensors alike
        if self.extractor.dimension == 3:
            # [G * slab, 1, y, x] to [G, 1, slab, y, x]: adjacent slices lie next to each other in the batch.
            hu = hu.reshape(-1, 1, self.slab, *hu.shape[2:])
        if self.voxel_mm is not None:
            spacing = self.recipe.spacing_xyz[::-1][-self.extractor.dimension :]
            size = [max(1, round(n * mm / self.voxel_mm)) for n, mm in zip(hu.shape[2:], spacing, strict=True)]
            mode = "trilinear" if self.extractor.dimension == 3 else "bilinear"
            hu = functional.interpolate(hu, size, mode=mode, align_corners=False)
        return self.extractor(hu, layers=self.indices, statistics=self.statistics)
