"""CUT: unpaired translation by contrast between patches (Park et al., ECCV 2020, arXiv 2007.15651)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from sctlab.training.objective_settings import CutSettings
from sctlab.training.objectives.base import GENERATOR, Objective, adamw, frozen, register
from sctlab.training.objectives.networks import (
    Projectors,
    discriminator_loss,
    is_real,
    middle,
    stacked,
    untracked,
)
from sctlab_model.errors import InputError
from sctlab_model.network.base import SynthesisNetwork

if TYPE_CHECKING:
    from sctlab.training.batch import Batch
    from sctlab.training.plan import TrainingPlan


@register
class Cut(Objective):
    """Generator and projectors against one discriminator.

    A place of the sCT shall resemble the same place of its source, in features of the generator's own encoder, more
    than other places of it. The sCT is one slice: it and the source's middle slice are encoded as stacks of equal
    slices, without a trace in the batch norms.
    """

    settings = CutSettings

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan)
        own = plan.objective
        assert isinstance(own, CutSettings)
        self.own = own
        generator = self.networks[GENERATOR]
        with torch.no_grad():
            generator.eval()
            size = 2 * plan.recipe.canvas.multiple
            features = self._encode(torch.zeros(1, 1, size, size))
        self.networks["projectors"] = Projectors([f.shape[1] for f in features], own.projection)
        self.networks["discriminator"] = own.discriminator.build()
        self.optimisers[GENERATOR] = adamw([generator, self.networks["projectors"]], plan.optimiser)
        self.optimisers["discriminator"] = own.discriminator.optimiser([self.networks["discriminator"]])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        own, discriminator = self.own, self.models["discriminator"]
        batch, _ = batch.known()
        with self.autocast():
            sct = self.models[GENERATOR](batch.source)
            with frozen(self.networks["discriminator"]):
                adversarial = is_real(discriminator(sct))
            contrast = self._contrast(middle(batch.source), sct, batch.source_mask)
            if own.identity:
                with untracked(self.networks[GENERATOR]):
                    again = self.models[GENERATOR](stacked(batch.target, batch.source.shape[1]))
                identity = self._contrast(batch.target, again, batch.mask)
                contrast_total = (contrast + identity) / 2
            else:
                identity, contrast_total = torch.zeros_like(contrast), contrast
            total = own.gan_weight * adversarial + own.nce_weight * contrast_total
        self.update(GENERATOR, total)
        with self.autocast():
            loss, verdicts = discriminator_loss(discriminator, batch.target, sct)
        self.update("discriminator", loss)
        return {
            "loss": total.detach(),
            "adversarial": adversarial.detach(),
            "nce": contrast.detach(),
            "nce_identity": identity.detach(),
            "discriminator": loss.detach(),
            **verdicts,
        }

    def _contrast(self, source: Tensor, result: Tensor, mask: Tensor) -> Tensor:
        """PatchNCE over the layers: cross-entropy of finding a place of the result among places of its source."""
        with torch.no_grad():
            keys = self._encode(source)
        queries = self._encode(result)
        places = [self._places(mask, f) for f in keys]
        projectors = self.networks["projectors"]
        with torch.no_grad():
            keys = projectors([_at(f, p) for f, p in zip(keys, places, strict=True)])
        queries = projectors([_at(f, p) for f, p in zip(queries, places, strict=True)])
        losses = []
        for query, key in zip(queries, keys, strict=True):
            similarity = torch.bmm(query, key.transpose(1, 2)) / self.own.temperature  # [N, S, S]
            right = torch.arange(similarity.shape[1], device=similarity.device).expand(len(similarity), -1)
            losses.append(functional.cross_entropy(similarity.flatten(0, 1), right.flatten()))
        return torch.stack(losses).mean()

    def _encode(self, image: Tensor) -> list[Tensor]:
        """Features of one slice [N, 1, y, x] at the chosen layers of the generator's encoder."""
        generator = self.networks[GENERATOR]
        with untracked(generator):
            features = encoder_of(generator)(stacked(image, self.plan.recipe.network.slices))
        if max(self.own.layers) >= len(features):
            raise InputError(
                "objective.layers",
                found=f"layer {max(self.own.layers)}",
                expected=f"0 to {len(features) - 1}, as the encoder has",
            )
        return [features[i] for i in self.own.layers]

    def _places(self, mask: Tensor, features: Tensor) -> Tensor:
        """Indices of drawn pixels of a feature map, [N, S]: of the body, and of its surroundings where it is small."""
        size = features.shape[2:]
        chance = functional.adaptive_max_pool2d(mask.float(), tuple(size)).flatten(1) + 1e-4
        count = min(self.own.patches, chance.shape[1])
        return torch.multinomial(chance, count)


def encoder_of(generator: nn.Module) -> nn.Module:
    """The part of a generator that returns its feature maps, fine to coarse.

    Raises:
        InputError: The network has none.
    """
    encoder = generator.parts.get("encoder") if isinstance(generator, SynthesisNetwork) else None
    if encoder is None or generator.memory_format is not torch.channels_last:  # of slices, not of volumes
        raise InputError(
            "recipe.network", found="a network without an encoder of slices' feature maps", expected="a U-Net++ for CUT"
        )
    return encoder


def _at(features: Tensor, places: Tensor) -> Tensor:
    """Features at drawn pixels: [N, C, y, x] and [N, S] → [N, S, C]."""
    flat = features.flatten(2).transpose(1, 2)
    return torch.gather(flat, 1, places[..., None].expand(-1, -1, flat.shape[2]))
