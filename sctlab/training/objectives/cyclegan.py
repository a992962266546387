"""CycleGAN (Zhu et al. 2017, arXiv 1703.10593) with a structure term on MIND (Yang et al. 2018, arXiv 1809.04536)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sctlab.features import Statistics, load_extractor
from sctlab.training.loss_terms import mean_over
from sctlab.training.objective_settings import CycleGanSettings
from sctlab.training.objectives.base import GENERATOR, Objective, adamw, frozen, register
from sctlab.training.objectives.networks import (
    discriminator_loss,
    is_real,
    middle,
    stacked,
    untracked,
)
from sctlab_model.network import build_network

if TYPE_CHECKING:
    from sctlab.training.batch import Batch
    from sctlab.training.plan import TrainingPlan


@register
class CycleGan(Objective):
    """A generator and its inverse, a discriminator for each side.

    The generator takes stacks and gives a slice; its inverse, of the same architecture, takes a slice. The cycle that
    begins at a CT ends in a stack of equal slices, without a trace in the batch norms.
    """

    settings = CycleGanSettings

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan)
        own = plan.objective
        assert isinstance(own, CycleGanSettings)
        self.own = own
        self.networks["inverse"] = build_network(plan.recipe.network.model_copy(update={"slices": 1}))
        self.networks["discriminator_ct"] = own.discriminator.build()
        self.networks["discriminator_source"] = own.discriminator.build()
        self.structure = load_extractor(own.structure)
        self.losses["structure"] = self.structure
        self.optimisers[GENERATOR] = adamw([self.networks[GENERATOR], self.networks["inverse"]], plan.optimiser)
        self.optimisers["discriminators"] = own.discriminator.optimiser(
            [self.networks["discriminator_ct"], self.networks["discriminator_source"]]
        )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        own, plain = self.own, self.networks
        forward, inverse = self.models[GENERATOR], self.models["inverse"]
        judge_ct, judge_source = self.models["discriminator_ct"], self.models["discriminator_source"]
        batch, _ = batch.known()
        source, target, slices = middle(batch.source), batch.target, batch.source.shape[1]
        with self.autocast():
            sct = forward(batch.source)
            fake_source = inverse(target)
            with untracked(plain[GENERATOR]), untracked(plain["inverse"]):
                back_at_source = inverse(sct)
                back_at_ct = forward(stacked(fake_source, slices))
            with frozen(plain["discriminator_ct"], plain["discriminator_source"]):
                adversarial = is_real(judge_ct(sct)) + is_real(judge_source(fake_source))
            cycle = _l1(back_at_source, source) + _l1(back_at_ct, target)
            total = adversarial + own.cycle_weight * cycle
            logs = {"adversarial": adversarial.detach(), "cycle": cycle.detach()}
            if own.structure_weight:
                structure = self._structure(sct, source, batch.source_mask)
                total = total + own.structure_weight * structure
                logs["structure"] = structure.detach()
            if own.identity_weight:
                with untracked(plain[GENERATOR]):
                    identity = _l1(forward(stacked(target, slices)), target)
                total = total + own.identity_weight * identity
                logs["identity"] = identity.detach()
        self.update(GENERATOR, total)
        with self.autocast():
            loss_ct, verdicts = discriminator_loss(judge_ct, target, sct)
            loss_source, _ = discriminator_loss(judge_source, source, fake_source)
            loss = loss_ct + loss_source
        self.update("discriminators", loss)
        return {"loss": total.detach(), **logs, "discriminators": loss.detach(), **verdicts}

    def describe(self) -> list[dict[str, object]]:
        return [{"term": "structure", **self.structure.describe()}] if self.own.structure_weight else []

    def _structure(self, sct: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Mean absolute difference of the self-similarity of source and sCT, over the body."""
        scale = Statistics.from_range(-1, 1)  # of the network's unit, for both
        with torch.no_grad():
            (wanted,) = self.structure(source.float(), statistics=scale)
        (found,) = self.structure(sct.float(), statistics=scale)
        difference = (found.float() - wanted.float()).abs().mean(dim=1, keepdim=True)
        return mean_over(difference, mask)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).abs().mean()
