"""Recipe: every choice between a source volume and the network's input, and back. Stored in the bundle."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sctlab_model.cases import Task
from sctlab_model.network.settings import NetworkSettings, UNetPlusPlusSettings

_Millimetres = Annotated[float, Field(ge=0.05, le=20)]
Spacing = tuple[_Millimetres, _Millimetres, _Millimetres]
_Side = Annotated[int, Field(ge=1, le=4096)]  # voxels of a canvas; a larger one is a slip, and would fill the memory
_Value = Annotated[float, Field(ge=-1e9, le=1e9)]  # in source units; float32 keeps it and its differences


class _Settings(BaseModel):
    """Immutable; unknown keys and values that are not finite are errors: a misspelt choice must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PercentileNormalisation(_Settings):
    """Clip to two percentiles, then linear to [-1, 1].

    Args:
        lower_percentile: Becomes -1; 0 is the minimum.
        upper_percentile: Becomes 1.
        fill: Value of the source outside the mask (source units), set before the source is clipped and scaled;
            the lower percentile, and so -1, when it is None.
        scope: Voxels that the percentiles are taken of: those in the mask, or the whole volume after `fill` was set
            outside the mask (the follow-up study of the reference implementation does that).
    """

    kind: Literal["percentile"] = "percentile"
    lower_percentile: float = Field(0.0, ge=0, lt=50)
    upper_percentile: float = Field(99.5, gt=50, le=100)
    fill: _Value | None = 0.0
    scope: Literal["mask", "volume"] = "mask"

    @model_validator(mode="after")
    def _filled(self) -> PercentileNormalisation:
        if self.scope == "volume" and self.fill is None:
            raise ValueError("scope volume needs a fill: the voxels outside the mask count")
        return self


class RobustNormalisation(_Settings):
    """Clip to two percentiles of the body, both bounded against outliers, then linear to [-1, 1]; outside the mask -1.

    The percentiles are taken over the foreground: the mask without a fill value, which is a low value that at least 3 %
    of its voxels share exactly (borders that a scanner or a vendor's mask set to zero). Negative or wild voxels, another
    scale or offset, and empty borders leave the scale where it was.

    Args:
        lower_percentile: Becomes -1.
        upper_percentile: Becomes 1.
    """

    kind: Literal["robust"] = "robust"
    lower_percentile: float = Field(0.5, gt=0, lt=50)
    upper_percentile: float = Field(99.5, gt=50, lt=100)


class ZScoreNormalisation(_Settings):
    """Subtract the mean and divide by the standard deviation over mask voxels; `outside` elsewhere."""

    kind: Literal["zscore"] = "zscore"
    outside: float = Field(-2.0, ge=-100, le=100)


class RangeNormalisation(_Settings):
    """Clip to a fixed range of source units, then linear to [-1, 1]; outside the mask the lower end."""

    kind: Literal["range"] = "range"
    lower: _Value = -1024.0
    upper: _Value = 3071.0

    @model_validator(mode="after")
    def _ordered(self) -> RangeNormalisation:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} is not below upper {self.upper}")
        return self


Normalisation = Annotated[
    PercentileNormalisation | RobustNormalisation | ZScoreNormalisation | RangeNormalisation,
    Field(discriminator="kind"),
]


class Canvas(_Settings):
    """The plane that the network sees. It is part of the function: another canvas gives other HU.

    Args:
        crop: `body` crops in the plane to the mask's box plus `margin`; `none` keeps whole slices.
        margin: Voxels around the body box, in the plane.
        multiple: Heights and widths are padded up to a multiple of this (the encoder's stride).
        minimum_yx: Smallest canvas; the patch size of the training, so that both see the same padding.
        fixed_yx: One size for every case (imported challenge weights: 512 x 512).
        padding: Where padding goes: shared between both sides, or all of it behind the last row and column.
        cut_edges: What the network sees beyond the image's border where that cuts the body: `air`, as all padding; `blank`, the
            same, also in the place of a border of one value that software has added; or the `mirror` image of the body, so
            that a cut edge is taken neither for skin nor for bone.
        pad_value: Normalised source value of the padding; that of air (outside the mask) when it is None.
        flip_before_padding: Each view is flipped first and padded then. With padding at the end that is another
            function than flipping the padded slice: the body lies at the same corner in every view.
        larger: A plane above `fixed_yx` is run whole, or in tiles of `fixed_yx` (needs `flip_before_padding`): equally
            spaced, as few as cover the plane, and where two overlap the one that starts later counts.
    """

    crop: Literal["body", "none"] = "body"
    margin: int = Field(8, ge=0, le=256)
    multiple: int = Field(32, ge=1, le=256)
    minimum_yx: tuple[_Side, _Side] = (320, 320)
    fixed_yx: tuple[_Side, _Side] | None = None
    padding: Literal["centre", "end"] = "centre"
    cut_edges: Literal["air", "blank", "mirror"] = "air"
    pad_value: float | None = Field(None, ge=-10, le=10)
    flip_before_padding: bool = False
    larger: Literal["whole", "tiles"] = "whole"

    @model_validator(mode="after")
    def _possible(self) -> Canvas:
        if self.flip_before_padding and self.pad_value is None:
            raise ValueError("flip_before_padding needs a pad_value: views are padded after the case was prepared")
        if self.flip_before_padding and self.cut_edges != "air":
            raise ValueError(
                f"cut_edges: {self.cut_edges} fills the canvas; with flip_before_padding there is none yet"
            )
        if self.larger == "tiles":
            if not self.flip_before_padding or self.fixed_yx is None:
                raise ValueError("larger: tiles needs fixed_yx and flip_before_padding")
            if any(n % self.multiple for n in self.fixed_yx):
                raise ValueError(f"fixed_yx is {self.fixed_yx}; tiles must be multiples of {self.multiple}")
        return self


View = Literal["identity", "flip_x", "flip_y", "flip_xy"]


class Recipe(_Settings):
    """What inference needs to know, and training must do alike.

    Args:
        name: Name for people.
        task: What the source is.
        spacing_xyz: Grid of the network in mm.
        spacing_tolerance: Relative difference below which the source isn't resampled.
        max_tilt_deg: A source tilted more than this against the patient axes is resampled upright.
        bias_correction: `n4` evens the shading of surface coils (MR) before normalisation.
        normalisation: Of the source.
        target_range_hu: HU that -1 and 1 of the network's output stand for.
        views: Flips that are averaged at inference.

    Example:
        >>> Recipe(task="mri").network.encoder
        'resnet34'
    """

    name: str = "custom"
    task: Task
    spacing_xyz: Spacing = (1.0, 1.0, 3.0)
    spacing_tolerance: float = Field(0.01, ge=0, le=0.5)
    max_tilt_deg: float = Field(10.0, ge=0, le=45)
    bias_correction: Literal["none", "n4"] = "none"
    normalisation: Normalisation = PercentileNormalisation()
    target_range_hu: tuple[float, float] = (-1024.0, 3071.0)
    canvas: Canvas = Canvas()
    network: NetworkSettings = UNetPlusPlusSettings()
    views: tuple[View, ...] = Field(("identity", "flip_x", "flip_y"), min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        low, high = self.target_range_hu
        if not -1024 <= low < high <= 32767:
            raise ValueError(f"target_range_hu is ({low}, {high}); expected -1024 <= lower < upper <= 32767")
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views repeat: {self.views}")
        if self.canvas.multiple % self.network.stride:
            raise ValueError(
                f"canvas.multiple is {self.canvas.multiple}; expected a multiple of {self.network.stride}, the stride of "
                f"the {self.network.description}"
            )
        return self
