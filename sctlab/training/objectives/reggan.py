"""RegGAN: pairs whose misalignment a registration network takes (Kong et al., NeurIPS 2021, arXiv 2110.06465)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

from sctlab.training.losses import SynthesisLoss
from sctlab.training.objectives.base import GENERATOR, Objective, ObjectiveSettings, adamw, frozen, register
from sctlab.training.objectives.networks import (
    DiscriminatorSettings,
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


class RegGanSettings(ObjectiveSettings):
    """RegGAN. The plan's `losses` compare the moved sCT with the CT; the paper's is an L1 of weight 20.

    Args:
        smoothness_weight: Of the squared differences between neighbouring displacements (pixels).
        gan_weight: Of the adversarial term.
        drift_weight: Of the squared length of the mean displacement (pixels) over the bodies of a batch. What all pairs share
            is no misalignment of one of them: without this term nothing holds the generator in place. 0 is the paper's.
        channels: Of the registration network's finest stage.
        discriminator: See there.
    """

    kind: Literal["reggan"] = "reggan"
    smoothness_weight: float = Field(10.0, gt=0)
    gan_weight: float = Field(1.0, gt=0)
    drift_weight: float = Field(0.0, ge=0)
    channels: int = Field(16, ge=4, le=128)
    discriminator: DiscriminatorSettings = DiscriminatorSettings(learning_rate=1e-4)


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
