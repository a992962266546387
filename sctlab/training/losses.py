"""What the network is asked for: L1, and IMPACT-Synth, the L1 between frozen features of sCT and CT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sctlab.features import FeatureExtractor, Statistics, load_extractor
from sctlab.training.plan import L1, ImpactSynth, Loss, TrainingPlan
from sctlab_model.errors import InputError
from sctlab_model.network import build_network
from sctlab_model.preparation import unit_to_hu
from sctlab_model.recipe import Recipe


class SynthesisLoss(nn.Module):
    """The weighted sum of a plan's losses.

    Where the target is NaN (the registration had no data there), the prediction is taken for the target, so
    that no term pulls on it.

    Args:
        losses: The plan's terms.
        recipe: Says which HU the network's -1 and 1 stand for.
        slab: Adjacent slices that lie next to each other in a batch; 3D extractors see them as one volume.
    """

    def __init__(self, losses: Sequence[Loss], recipe: Recipe, slab: int = 1) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        for loss in losses:
            name = loss.kind if isinstance(loss, L1) else f"impact_{_plain(loss.extractor)}"
            if name in self.weights:
                raise InputError(
                    "losses", found=f"two terms {name}", expected="each term once", advice="raise its weight instead"
                )
            self.terms[name] = MaskedL1(loss.over) if isinstance(loss, L1) else FeatureL1.from_plan(loss, recipe, slab)
            self.weights[name] = loss.weight

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total and terms.

        Args:
            prediction: [N, 1, y, x] in [-1, 1].
            target: Same shape; NaN where nothing is known.
            mask: Body, bool, same shape.

        Returns:
            The weighted sum (float32 scalar), and every term before its weight, without gradient.
        """
        prediction = prediction.float()
        known = torch.isfinite(target)
        target = torch.nan_to_num(target, nan=-1.0)
        prediction = torch.where(known, prediction, target)
        total, parts = prediction.new_zeros(()), {}
        for name, term in self.terms.items():
            value = term(prediction, target, mask & known)
            total = total + self.weights[name] * value
            parts[name] = value.detach()
        return total, parts

    def describe(self) -> list[dict[str, object]]:
        """The extractors of the terms and the range that their normalisation refers to, for the run's record."""
        return [
            {"term": name, **t.extractor.describe(), "statistics_hu": vars(t.statistics)}
            for name, t in self.terms.items()
            if isinstance(t, FeatureL1)
        ]


def check_plan(plan: TrainingPlan) -> None:
    """Build a plan's network and losses once: what can't be built is refused before hours of preparation.

    Raises:
        InputError: An unknown encoder or extractor, a layer that it hasn't got, a 3D extractor without slabs, two
            terms of one name.
        WeightsError: The extractor's weights aren't here.
    """
    network = plan.recipe.network
    try:
        build_network(network)  # with its numbers: some encoders can't be built without
    except Exception as error:  # every library below has exceptions of its own
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            "recipe.network",
            found=f"{network!r} can't be built ({reason})",
            expected="a network that its library can build, e.g. an encoder of segmentation_models_pytorch",
        ) from error
    SynthesisLoss(plan.losses, plan.recipe, plan.patch.slab)


class MaskedL1(nn.Module):
    """Mean absolute difference over the patch, or over the body voxels in it."""

    def __init__(self, over: str) -> None:
        super().__init__()
        self.over = over

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        difference = (prediction - target).abs()
        if self.over == "patch":
            return difference.mean()
        # Over all processes alike: the mean of the processes' means would weigh voxels by their neighbours' number.
        count = mask.sum(dtype=torch.float32)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            count = count / torch.distributed.get_world_size()
        return (difference * mask).sum() / count.clamp_min(1)


class FeatureL1(nn.Module):
    """IMPACT-Synth: sum over layers of w_l mean |psi_l(sCT) - psi_l(CT)| (arXiv 2609.29387).

    The extractor gets HU and normalises as it always does, with the statistics of one fixed range for both
    images: with each image's own minimum and maximum, a wrong prediction would move its own scale. It is
    frozen and in evaluation mode; the CT's features carry no gradient; differences and means are float32.

    Args:
        extractor: 2D (every slice is an image) or 3D (every slab is one).
        layers: Layer index → weight.
        recipe: For HU.
        slab: Adjacent slices a volume; 3D extractors need more than one.
        statistics: Of the fixed range.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        layers: dict[int, float],
        recipe: Recipe,
        slab: int = 1,
        statistics: Statistics | None = None,
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
        self.recipe, self.slab = recipe, slab
        self.statistics = statistics or Statistics.from_range(*recipe.target_range_hu)

    @classmethod
    def from_plan(cls, loss: ImpactSynth, recipe: Recipe, slab: int) -> FeatureL1:
        """The term that a plan asks for; loads the extractor."""
        extractor = load_extractor(loss.extractor, weights=loss.weights)
        return cls(extractor, loss.layers, recipe, slab, Statistics.from_range(*loss.statistics_hu))

    def forward(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(target)
        total = prediction.new_zeros(())
        for weight, found, reference in zip(self.layer_weights, self._features(prediction), wanted, strict=True):
            total = total + weight * (found.float() - reference.float()).abs().mean()
        return total

    def _features(self, image: Tensor) -> list[Tensor]:
        hu = unit_to_hu(image, self.recipe)
        if self.extractor.dimension == 3:
            # [G * slab, 1, y, x] to [G, 1, slab, y, x]: adjacent slices lie next to each other in the batch.
            hu = hu.reshape(-1, 1, self.slab, *hu.shape[2:])
        return self.extractor(hu, layers=self.indices, statistics=self.statistics)


def _plain(name: str) -> str:
    """A name that can stand in a log's key."""
    stem = (
        name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] if "/" in name or name.endswith((".pt",)) else name
    )
    return "".join(c if c.isalnum() else "_" for c in stem)
