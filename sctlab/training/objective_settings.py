"""What a plan says of its objective. Apart from the objectives, because a plan is read, and refused, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sctlab_model.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sctlab.training.objectives.networks import PatchDiscriminator

PLUGINS = "sctlab.objectives"  # entry-point group of other packages' modules


class ObjectiveSettings(Settings):
    """Base of what a plan says under `objective`; a subclass narrows `kind` to its own name."""

    takes_losses: ClassVar[bool] = True  # the plan's `losses`, which need pairs
    # Where the target of a sample comes from: the same place of the same patient, or any place of another patient.
    pairing: ClassVar[Literal["paired", "shuffled"]] = "paired"

    kind: str


class SupervisedSettings(ObjectiveSettings):
    """`losses` of the plan, and nothing else."""

    kind: Literal["supervised"] = "supervised"


class DiscriminatorSettings(Settings):
    """The patch discriminator of pix2pix and CycleGAN (Isola et al. 2017, appendix 6.1.2): C64-C128-C256-C512.

    Args:
        channels: Of the first layer; they double up to eight times as many.
        layers: Convolutions of stride 2; 3 see 70 x 70 pixels.
        learning_rate: Adam's, at the plan's own rate; the schedule multiplies both alike.
        betas: Adam's.
    """

    channels: int = Field(64, ge=4, le=512)
    layers: int = Field(3, ge=1, le=5)
    learning_rate: float = Field(2e-4, gt=0, le=1)
    betas: tuple[float, float] = (0.5, 0.999)

    def build(self) -> PatchDiscriminator:
        """The network."""
        from sctlab.training.objectives.networks import PatchDiscriminator

        return PatchDiscriminator(self.channels, self.layers)

    def optimiser(self, networks: Sequence[nn.Module]) -> torch.optim.Optimizer:
        """Adam over some discriminators."""
        import torch

        return torch.optim.Adam(
            [p for network in networks for p in network.parameters()], lr=self.learning_rate, betas=self.betas
        )


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


class CutSettings(ObjectiveSettings):
    """CUT. Defaults are the paper's.

    Args:
        layers: Of the generator's encoder, 0 being its input.
        patches: Places per image and layer that are compared; drawn in the body.
        temperature: Of the contrast.
        gan_weight: Of the adversarial term.
        nce_weight: Of the contrast between source and sCT.
        identity: Also between a CT and what the generator makes of it; the mean of both counts then.
        projection: Width of the space that features are compared in.
        discriminator: See there.
    """

    takes_losses: ClassVar[bool] = False
    pairing: ClassVar[Literal["paired", "shuffled"]] = "shuffled"

    kind: Literal["cut"] = "cut"
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2, 3, 4), min_length=1)
    patches: int = Field(256, ge=2, le=4096)
    temperature: float = Field(0.07, gt=0)
    gan_weight: float = Field(1.0, gt=0)
    nce_weight: float = Field(1.0, gt=0)
    identity: bool = True
    projection: int = Field(256, ge=8, le=2048)
    discriminator: DiscriminatorSettings = DiscriminatorSettings()

    @model_validator(mode="after")
    def _once(self) -> CutSettings:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers repeat: {self.layers}")
        return self


class CycleGanSettings(ObjectiveSettings):
    """CycleGAN with a structure term. The weight of the cycles is the first paper's; that of the structure is ours.

    Args:
        cycle_weight: Of the L1 between an image and what comes back of it; over both directions.
        identity_weight: Of the L1 between a CT and what the generator makes of it; 0 leaves it out.
        structure_weight: Of the L1 between self-similarity features of source and sCT, in the body; 0 leaves it out.
        structure: Extractor of the structure term; it has to be comparable across modalities.
        discriminator: Of both.
    """

    takes_losses: ClassVar[bool] = False
    pairing: ClassVar[Literal["paired", "shuffled"]] = "shuffled"

    kind: Literal["cyclegan"] = "cyclegan"
    cycle_weight: float = Field(10.0, gt=0)
    identity_weight: float = Field(0.0, ge=0)
    structure_weight: float = Field(5.0, ge=0)
    structure: Literal["mind-2d", "mind-2d-r2"] = "mind-2d"
    discriminator: DiscriminatorSettings = DiscriminatorSettings()


_KNOWN: list[type[ObjectiveSettings]] = [CutSettings, CycleGanSettings, RegGanSettings, SupervisedSettings]


def announce(settings: type[ObjectiveSettings]) -> None:
    """Make the settings of another package's objective known; `register` calls it."""
    if settings not in _KNOWN:
        _KNOWN.append(settings)


@cache
def settings_types() -> tuple[type[ObjectiveSettings], ...]:
    """The settings of every objective: those of this file, and those of modules that other packages announce as entry
    points of the group `sctlab.objectives`."""
    for point in entry_points(group=PLUGINS):
        point.load()
    return tuple(_KNOWN)
