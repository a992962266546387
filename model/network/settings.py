"""Settings of every architecture; no PyTorch here, so that a recipe is read in no time.

A new architecture is a class here (with its name as `architecture`) and a file of that name beside this one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class _NetworkSettings(BaseModel):
    """What all architectures share.

    Args:
        slices: Adjacent slices in (odd); the middle one comes out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    slices: int = Field(5, ge=1, le=31)

    @property
    def description(self) -> str:
        """The network in words, for model cards and messages."""
        return self.architecture

    @property
    def stride(self) -> int:
        """Voxels of the plane that are one in the deepest stage: heights and widths must be multiples of it."""
        return 1

    @model_validator(mode="after")
    def _odd(self) -> _NetworkSettings:
        if self.slices % 2 == 0:
            raise ValueError(f"slices is {self.slices}; it must be odd, the middle slice is predicted")
        return self


class UNetPlusPlusSettings(_NetworkSettings):
    """The 2.5D U-Net++ of segmentation_models_pytorch with a tanh head.

    Args:
        encoder: Any encoder name of segmentation_models_pytorch.
        decoder_channels: Channels of the decoder, deepest first.
    """

    architecture: Literal["unetplusplus"] = "unetplusplus"
    encoder: str = "resnet34"
    decoder_channels: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = (256, 128, 64, 32, 16)

    @property
    def description(self) -> str:
        """Architecture and encoder."""
        return f"U-Net++ with {self.encoder}"

    @property
    def stride(self) -> int:
        """Five stages, each of which halves the plane, whatever the encoder: the library asks for that."""
        return 32

    @model_validator(mode="after")
    def _five(self) -> UNetPlusPlusSettings:
        if len(self.decoder_channels) != 5:
            raise ValueError(f"decoder_channels has {len(self.decoder_channels)} entries, expected 5")
        return self


class ResidualUNet3DSettings(_NetworkSettings):
    """A 3D U-Net with residual blocks over a slab of slices; the plane is halved between stages, slices are kept.

    Args:
        features: Channels of every stage, finest first; the plane is a multiple of 2 to the power of their number - 1.
        blocks: Residual blocks in a stage.
    """

    architecture: Literal["residual_unet_3d"] = "residual_unet_3d"
    slices: int = Field(7, ge=1, le=31)
    features: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(
        (16, 32, 64, 128, 160), min_length=2, max_length=6
    )
    blocks: int = Field(1, ge=1, le=8)

    @property
    def description(self) -> str:
        """Architecture and channels."""
        return f"residual 3D U-Net of {', '.join(map(str, self.features))} channels"

    @property
    def stride(self) -> int:
        """The plane is halved between stages."""
        return int(2 ** (len(self.features) - 1))


def _architecture(value: Any) -> str:
    """The tag of settings; those written before there were several architectures have none."""
    if isinstance(value, dict):
        return str(value.get("architecture", "unetplusplus"))
    return str(getattr(value, "architecture", ""))


NetworkSettings = Annotated[
    Annotated[UNetPlusPlusSettings, Tag("unetplusplus")] | Annotated[ResidualUNet3DSettings, Tag("residual_unet_3d")],
    Discriminator(_architecture),
]
