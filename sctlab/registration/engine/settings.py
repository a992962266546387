"""Every choice of the engine, declared once: levels, terms, search and rigid start."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sctlab_model.settings import Settings

Weight = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[int, Field(strict=True, gt=0)]


def _known_distance(name: str) -> str:
    from sctlab.registration.engine.distances import DISTANCES  # here, because it loads torch

    if name not in DISTANCES:
        raise ValueError(f"'{name}' is none of " + ", ".join(DISTANCES))
    return name


class FeatureTerm(Settings):
    """One extractor in the metric.

    Args:
        extractor: Name or file, see `sctlab.features.load_extractor`.
        weight: Of the whole extractor.
        layers: Indices of its layers; the first when left out.
        layer_weights: A weight each; 1 when left out.
        distance: One of `distances.DISTANCES`.
        mode: `static` (feature maps once a level) or `jacobian` (patches at every iteration).
        pca: Keep that many principal components, fitted on the fixed features; 0 keeps all channels.
        channels: Random subset of the channels, new at every iteration; 0 takes all.
        patch: Edge of a patch in the Jacobian mode in voxels; the deepest layer's field of view when 0.
        points: Patches per iteration in the Jacobian mode.
        voxel_mm: Voxels that the network is shown at every level, for one that knows a single size (static mode); the
            level's own when left out.
    """

    extractor: str = "mind"
    weight: Positive = 1.0
    layers: Annotated[tuple[Count, ...], Field(min_length=1)] = (0,)
    layer_weights: tuple[Weight, ...] = ()
    distance: Annotated[str, AfterValidator(_known_distance)] = "l1"
    mode: Literal["static", "jacobian"] = "static"
    pca: Count = 0
    channels: Count = 0
    patch: Count = 0
    points: Number = 500
    voxel_mm: Positive | None = None

    @model_validator(mode="after")
    def _a_weight_for_each_layer(self) -> Self:
        if self.layer_weights and len(self.layer_weights) != len(self.layers):
            raise ValueError(f"{len(self.layer_weights)} weights for {len(self.layers)} layers, expected one each")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of every layer, the extractor's included."""
        return tuple(self.weight * w for w in self.layer_weights or (1.0,) * len(self.layers))


class Level(Settings):
    """One resolution of the deformable stage; its knots are the final ones times a power of two.

    Args:
        voxel_mm: Voxels of the images at this level (never finer than the finest voxels of the two images).
        iterations: Steps of Adam.
        rate_mm: First step of a control point; it shrinks to a tenth.
        points: Samples an iteration, about: the stride of the random subgrid follows from it.
    """

    voxel_mm: Positive
    iterations: Number
    rate_mm: Positive
    points: Number = 16000


class Discrete(Settings):
    """The coarse search over displacements.

    Args:
        reach_mm: Largest displacement along an axis.
        step_mm: Step of the search, and pitch of the pooled features.
        caution: Cost of a displacement of `reach_mm`, as a share of the mean feature distance.
        gain: Share by which metric and bending together must fall before the result is used.
    """

    reach_mm: Positive = 30.0
    step_mm: Positive = 10.0
    caution: Weight = 0.3
    gain: Share = 0.02


class RigidSettings(Settings):
    """How the rigid stage searches.

    Args:
        search_mm: Half-width of the search over shifts, around the centres of both images and of both bodies.
        step_mm: Its step.
        search_voxel_mm: Its voxels.
        candidates: Shifts that are refined at the first level.
        levels_mm: Voxels of the refinements.
        iterations: Gradient steps, one number for each level.
        samples: Points a step.
        least_overlap: Share of the largest overlap that the search meets, below which a place doesn't count: a CBCT of
            100 mm can't cover more of a CT of 550 mm than it is long.
        least_share: Share of the fixed mask that must lie inside the moving image in any case.
        orientation_voxel_mm: Voxels at which the 24 orientations are compared; None never turns an image by 90°.
        orientation_gain: Share by which the likeness of a turned image must exceed that of the image as its header has
            it, before the turned one becomes a start beside the others.
    """

    search_mm: Positive = 48.0
    step_mm: Positive = 16.0
    search_voxel_mm: Positive = 8.0
    candidates: Number = 6
    levels_mm: tuple[Positive, ...] = (8.0, 4.0)
    iterations: tuple[Number, ...] = (60, 40)
    samples: Number = 6000
    least_overlap: Share = 0.25
    least_share: Share = 0.05
    orientation_voxel_mm: Positive | None = 16.0
    orientation_gain: Weight = 0.05

    @model_validator(mode="after")
    def _iterations_for_each_level(self) -> Self:
        if not self.levels_mm or len(self.levels_mm) != len(self.iterations):
            raise ValueError(f"{len(self.iterations)} iterations for {len(self.levels_mm)} levels, expected one each")
        return self


class Articulated(Settings):
    """Bands along the body that move rigidly before the spline does: a neck that bends.

    Args:
        band_mm: Length of a band.
        iterations: Steps of Adam at the coarsest level.
        rate_mm: First step; it shrinks to a tenth.
        chain: Weight of the squared distance in mm² by which neighbours part around their joint.
        gain: Share by which the metric must fall before the result is used.
    """

    band_mm: Positive = 40.0
    iterations: Number = 120
    rate_mm: Positive = 1.5
    chain: Weight = 0.0005
    gain: Share = 0.02


class Sliding(Settings):
    """Organs slide along the wall: a spline for either side, where the surface between them is known.

    Args:
        hold_mm: Depth down to which what lies inside goes across the surface as the wall does, less and less.
        blend_mm: Thickness of the sheet in which one passes into the other while optimising.
        from_level: The first level with two splines, counted from 0; the coarser ones have one.
    """

    hold_mm: Positive = 32.0
    blend_mm: Positive = 3.0
    from_level: Count = 0


_LEVELS = (
    Level(voxel_mm=6.0, iterations=50, rate_mm=1.0),
    Level(voxel_mm=3.0, iterations=50, rate_mm=0.6),
    Level(voxel_mm=2.0, iterations=120, rate_mm=0.4),
)


class Preset(Settings):
    """Every choice of a registration.

    Args:
        name: For records; a preset from a file has the file's.
        features: IMPACT terms.
        mutual_information: Weight of mutual information of the intensities.
        bins: Its histogram bins.
        knots_mm: Final knot spacing; each coarser level doubles it.
        levels: Coarse to fine; none leaves the rigid start.
        bending: Weight of the bending energy times the knot spacing squared, without unit.
        rigidity: Weight of the rigidity of bone, where a bone mask is given.
        folding: Weight that keeps the Jacobian determinant above `least_determinant` while optimising.
        least_determinant: The guard's margin.
        terms: Weights of further terms by their registered name (see `engine.terms`).
        sliding: Two splines, where a cavity is given; None keeps one smooth field.
        articulated: Rigid bands before the spline; None leaves them out.
        discrete: The coarse search; None leaves it out.
        rigid: The rigid start.
    """

    name: str = ""
    features: tuple[FeatureTerm, ...] = (FeatureTerm(),)
    mutual_information: Weight = 0.0
    bins: Annotated[int, Field(strict=True, ge=2)] = 32
    knots_mm: Positive = 12.0
    levels: tuple[Level, ...] = _LEVELS
    bending: Weight = 2.0
    rigidity: Weight = 0.0
    folding: Weight = 1.0
    least_determinant: Share = 0.2
    terms: dict[str, Weight] = Field(default_factory=dict)
    sliding: Sliding | None = None
    articulated: Articulated | None = None
    discrete: Discrete | None = Discrete()
    rigid: RigidSettings = RigidSettings()

    @model_validator(mode="after")
    def _has_a_metric(self) -> Self:
        if self.levels and not self.features and not self.mutual_information and not self.terms:
            raise ValueError("neither a feature term nor mutual information: a deformation needs a metric")
        return self
