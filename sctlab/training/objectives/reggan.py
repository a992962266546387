"""RegGAN: pairs whose misalignment a registration network takes (Kong et al., NeurIPS 2021, arXiv 2110.06465)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from sctlab.training.loss_terms import SynthesisLoss
from sctlab.training.objective_settings import RegGanSettings
from sctlab.training.objectives.base import GENERATOR, Objective, adamw, frozen, register
from sctlab.training.objectives.networks import (
    RegistrationNetwork,
    discriminator_loss,
    is_real,
    roughness,
    shared_shift,
    warp,
)

if TYPE_CHECKING:
    from sctlab.training.batch import Batch
    from sctlab.training.plan import TrainingPlan


@register
class RegGan(Objective):
    """Generator and registration network, which learn together, against a discriminator.

    The registration network sees sCT and CT and moves the sCT onto the CT before the two are compared: what is
    misaligned by chance needn't be learnt by the generator. Only the generator goes into a bundle.
    """

    settings = RegGanSettings
    source_for_generator_only = True

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan)
        own = plan.objective
        assert isinstance(own, RegGanSettings)
        self.own = own
        self.loss = SynthesisLoss(plan.losses, plan.recipe, plan.patch.slab)
        self.losses["synthesis"] = self.loss
        self.networks["registration"] = RegistrationNetwork(own.channels)
        self.networks["discriminator"] = own.discriminator.build()
        self.optimisers[GENERATOR] = adamw([self.networks[GENERATOR], self.networks["registration"]], plan.optimiser)
        self.optimisers["discriminator"] = own.discriminator.optimiser([self.networks["discriminator"]])

    def step(self, batch: Batch) -> dict[str, Tensor]:
        own, discriminator = self.own, self.models["discriminator"]
        target = batch.known()[0].target
        with self.autocast():
            sct = self.models[GENERATOR](batch.source)
            displacement = self.models["registration"](sct, target)
            correction, terms = self.loss(warp(sct, displacement), batch)
            smoothness = roughness(displacement)
            with frozen(self.networks["discriminator"]):
                adversarial = is_real(discriminator(sct))
            drift = shared_shift(displacement, batch.mask).square().sum()
            total = correction + own.smoothness_weight * smoothness + own.gan_weight * adversarial
            if own.drift_weight:
                total = total + own.drift_weight * drift
        self.update(GENERATOR, total)
        with self.autocast():
            loss, verdicts = discriminator_loss(discriminator, target, sct)
        self.update("discriminator", loss)
        return {
            "loss": total.detach(),
            **terms,
            "smoothness": smoothness.detach(),
            "displacement_pixels": displacement.detach().float().norm(dim=1).mean(),
            "drift_pixels": drift.detach().sqrt(),
            "adversarial": adversarial.detach(),
            "discriminator": loss.detach(),
            **verdicts,
        }

    def describe(self) -> list[dict[str, object]]:
        return self.loss.describe()
