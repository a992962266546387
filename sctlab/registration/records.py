"""What registration leaves on disk for other stages: `pair.json`, `quality.json`, `failure.json`, `exclusions.json`.

Everybody reads them by these types; nothing else interprets the files.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from sctlab_model.records import Record

PAIR, QUALITY, FAILURE, EXCLUSIONS = "pair.json", "quality.json", "failure.json", "exclusions.json"


class Verdict(StrEnum):
    """Whether a registration can be used.

    `trusted`: nothing speaks against it. `doubtful`: usable, look at the picture. `failed`: the images are not aligned.
    """

    TRUSTED = "trusted"
    DOUBTFUL = "doubtful"
    FAILED = "failed"


class Part(BaseModel):
    """Base of what stands inside a record; unknown keys are kept, as in the record itself."""

    model_config = ConfigDict(extra="allow")


class TransformFiles(Part):
    """Names of a pair's transform files, and SHA-256 of the elastix ones (of the ITK one where there are none)."""

    elastix: list[str] = Field(default_factory=list)
    itk: str = ""
    sha256: str = ""
    displacement: str | None = None


class PairRecord(Record):
    """`pair.json`: what a registered pair is and how it was made."""

    current_version: ClassVar[int] = 1

    case: str = Field(default="", description="Case id.")
    patient: str = Field(default="", description="Cases of one patient share it; the case id where it isn't known.")
    inputs: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the source and the CT as they were delivered."
    )
    task: str = Field(default="", description="mri or cbct.")
    region: str = Field(default="", description="AB, HN or TH.")
    convention: str = Field(default="", description="ct_to_source or source_to_ct; empty where it isn't recorded.")
    method: str = Field(default="", description="elastix, impact, mi or rigid; empty where it isn't recorded.")
    presets: list[str] = Field(default_factory=list, description="Presets of the engine.")
    fixed_image: str = Field(default="", description="mr, cbct or ct.")
    fixed_file: str = ""
    moving_image: str = ""
    moving_file: str = ""
    outside_value: float = Field(default=0.0, description="Of the registered image where the moving one has no data.")
    images: list[str] = Field(default_factory=list, description="Image files of the folder.")
    transform: TransformFiles = Field(default_factory=TransformFiles)
    transform_direction: str = "points of the fixed image to points of the moving image, mm, LPS"
    body_with_data: float | None = Field(default=None, description="Share of the fixed body with moving data.")
    seed: int = 0
    device: str = ""
    seconds: float = 0.0
    notes: list[str] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict, description="What the method says about itself.")
    key: str = Field(default="", description="SHA-256 of everything that the result depends on.")

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The record in a case folder; None where there is none.

        Raises:
            InputError: A file that is no such record.
        """
        path = folder / PAIR
        return cls.read(path) if path.is_file() else None


class Summary(Part):
    """Statistics over voxels."""

    mean: float
    median: float
    p95: float
    max: float


class Similarity(Part):
    """How alike two images are; see `quality.measure`."""

    nmi: float = Field(description="Normalised mutual information, 1 to 2.")
    feature_distance: float = Field(description="Mean absolute difference of MIND-SSC features.")
    edges: float = Field(description="Agreement of gradients, 0 to 1.")


class BeforeAfter(Part):
    """Similarity before and after registration."""

    before: Similarity
    after: Similarity


class OverlapOf(Part):
    """Overlap of bodies and labels."""

    body_dice: float | None = None
    label_dice: dict[str, float] | None = None


class Overlap(Part):
    """Overlap before and after, and the share of the fixed body with moving data."""

    field_of_view: float
    before: OverlapOf
    after: OverlapOf


class LocalGain(Part):
    """Feature distance before minus after in windows, as multiples of the mean distance after."""

    median: float
    worst_5_percent: float
    worst: float


class JacobianMeasures(Part):
    """Statistics of the Jacobian determinant over the body; `folds` is the share at or below 0."""

    minimum: float
    p1: float
    p99: float
    maximum: float
    log_std: float
    folds: float


class FieldMeasures(Part):
    """The field over the body."""

    displacement_mm: Summary
    deformation_mm: Summary
    jacobian: JacobianMeasures


class Judgement(Part):
    """The judge's answer for one registration."""

    verdict: Verdict
    reasons: list[str] = Field(default_factory=list, description="In words, the weightiest first.")
    error_mm: float = Field(description="Predicted mean error over the body.")
    interval_mm: tuple[float, float] = Field(description="90 % interval of the error.")
    failure_probability: float = Field(description="That the error is gross or local beyond use, 0 to 1.")
    signals: dict[str, float] = Field(default_factory=dict, description="What the judge looked at; larger is worse.")
    left_out: list[str] = Field(
        default_factory=list, description="Signals that the engine optimised here, so that they prove nothing."
    )


class QualityRecord(Record):
    """`quality.json`: how far a registration can be trusted, and the measures behind that."""

    current_version: ClassVar[int] = 1

    case: str = ""
    verdict: Verdict | None = Field(default=None, description="None in files of releases that had no judge.")
    reasons: list[str] = Field(default_factory=list)
    judgement: Judgement | None = None
    similarity: BeforeAfter
    local_gain: LocalGain | None = None
    overlap: Overlap
    field: FieldMeasures
    inverse_consistency_mm: Summary | None = None
    preset_spread_mm: Summary | None = None
    truth: dict[str, Any] | None = Field(default=None, description="Against a simulated truth.")
    seconds: float = 0.0

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The record in a case folder; None where there is none.

        Raises:
            InputError: A file that is no such record.
        """
        path = folder / QUALITY
        return cls.read(path) if path.is_file() else None


class FailureRecord(Record):
    """`failure.json`: why a case has no result."""

    current_version: ClassVar[int] = 1

    case: str = ""
    error: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class ExclusionsRecord(Record):
    """`exclusions.json`: cases of a registered cohort that are proposed for exclusion, with reasons."""

    current_version: ClassVar[int] = 1

    exclude: dict[str, str] = Field(
        default_factory=dict, description="Case id (the whole key where two cases share an id): reason."
    )
    doubtful: dict[str, str] = Field(default_factory=dict, description="Kept, but worth a look. Case id: reason.")
    cases: int = 0
    rule: dict[str, Any] = Field(default_factory=dict)
