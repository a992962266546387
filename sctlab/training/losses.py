"""Losses of pairs as a plan says them: L1, and IMPACT-Synth, the L1 between frozen features of sCT and CT.

A loss is its settings, here, and a term, which computes (`loss_terms.py`); `settings.build()` makes the term. A plan is
read, and refused, without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from sctlab_model.gates import BONE_ABOVE_HU
from sctlab_model.preparation import hu_to_unit
from sctlab_model.recipe import Recipe
from sctlab_model.settings import Settings

if TYPE_CHECKING:
    from sctlab.training.loss_terms import FeatureL1, MaskedL1


class L1(Settings):
    """Mean absolute difference in units of the network's output, over the whole patch or the body mask.

    Args:
        weight: Of the whole term.
        over: Which voxels.
        bone_weight: How often a voxel of the CT above 250 HU counts. The median of what a voxel may be, which
            plain L1 learns, is soft tissue wherever a cortex of one voxel can't be placed to the voxel.
    """

    kind: Literal["l1"] = "l1"
    weight: float = Field(1.0, gt=0)
    over: Literal["patch", "mask"] = "patch"
    bone_weight: float = Field(1.0, ge=1, le=100)

    @property
    def name(self) -> str:
        """Of the term, in logs."""
        return self.kind

    def build(self, recipe: Recipe, slab: int) -> MaskedL1:
        """The term."""
        from sctlab.training.loss_terms import MaskedL1

        bone_above = float(hu_to_unit(np.array(BONE_ABOVE_HU), recipe))
        return MaskedL1(self.over, self.bone_weight, bone_above)


class ImpactSynth(Settings):
    """IMPACT-Synth: sum over layers of w_l mean |psi_l(sCT) - psi_l(CT)|, psi a frozen extractor.

    Args:
        weight: Of the whole term.
        extractor: A name of `sctlab features list`, or a file (TorchScript, or safetensors).
        weights: The extractor's weights file, where it isn't the downloaded one.
        layers: Layer index (from 0) → weight.
        statistics_hu: Fixed range that the extractor's own normalisation refers to, the same for sCT and CT.
        samples: At most so many of a process' samples (slabs, where `patch.slab` is above 1) are compared in a step;
            all when left out. Samples are drawn independently, so that the expected gradient stays the same.
        precision: Of the frozen network: `plan` is that of `computing.precision`; `bf16` or `32` is this one.
        voxel_mm: Voxels that the extractor is shown, for one that knows a single size (`anatomy`: 3); the recipe's
            own when left out.
    """

    kind: Literal["impact_synth"] = "impact_synth"
    weight: float = Field(1.0, gt=0)
    extractor: str
    weights: str | None = None
    layers: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(gt=0)]] = Field({0: 1.0}, min_length=1)
    statistics_hu: tuple[float, float] = (-1024.0, 3071.0)
    samples: int | None = Field(None, ge=1)
    precision: Literal["plan", "bf16", "32"] = "plan"
    voxel_mm: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> ImpactSynth:
        low, high = self.statistics_hu
        if low >= high:
            raise ValueError(f"statistics_hu is ({low:g}, {high:g}); the first must be below the second")
        return self

    @property
    def name(self) -> str:
        """Of the term, in logs."""
        return f"impact_{_plain(self.extractor)}"

    def build(self, recipe: Recipe, slab: int) -> FeatureL1:
        """The term; loads the extractor."""
        from sctlab.features import Statistics, load_extractor
        from sctlab.training.loss_terms import FeatureL1

        return FeatureL1(
            load_extractor(self.extractor, weights=self.weights),
            self.layers,
            recipe,
            slab,
            Statistics.from_range(*self.statistics_hu),
            samples=self.samples,
            precision=self.precision,
            voxel_mm=self.voxel_mm,
        )


Loss = Annotated[L1 | ImpactSynth, Field(discriminator="kind")]


def _plain(name: str) -> str:
    """A name that can stand in a log's key."""
    stem = (
        name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] if "/" in name or name.endswith((".pt",)) else name
    )
    return "".join(c if c.isalnum() else "_" for c in stem)
