"""Supervised synthesis: the plan's losses between the sCT and the CT of the same patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from sctlab.training.loss_terms import SynthesisLoss
from sctlab.training.objective_settings import SupervisedSettings
from sctlab.training.objectives.base import GENERATOR, Objective, adamw, register

if TYPE_CHECKING:
    from sctlab.training.batch import Batch
    from sctlab.training.plan import TrainingPlan


@register
class Supervised(Objective):
    """One network, one optimiser, one loss."""

    settings = SupervisedSettings
    source_for_generator_only = True

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan)
        self.loss = SynthesisLoss(plan.losses, plan.recipe, plan.patch.slab)
        self.losses["synthesis"] = self.loss
        self.optimisers[GENERATOR] = adamw([self.networks[GENERATOR]], plan.optimiser, fused=plan.computing.fused)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        with self.autocast():
            prediction = self.models[GENERATOR](batch.source)
            total, terms = self.loss(prediction, batch)
        self.update(GENERATOR, total)
        return {"loss": total.detach(), **terms}

    def describe(self) -> list[dict[str, object]]:
        return self.loss.describe()
