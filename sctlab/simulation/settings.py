"""What a person chooses about a simulated cohort and about one of its cases; everything else is random."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from sctlab_model.cases import Region, Task
from sctlab_model.settings import Settings


def _even_pitch(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(spacing) < 0.3 or max(spacing) > 10:
        raise ValueError("expected 0.3 to 10 mm along every axis")
    return spacing


def _possible_size(size: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
    if size is not None and (min(size) < 8 or max(size) > 1024):
        raise ValueError("expected 8 to 1024 voxels along every axis")
    return size


class CaseSettings(Settings):
    """Choices for one case."""

    spacing_xyz: Annotated[tuple[float, float, float], AfterValidator(_even_pitch)] = Field(
        default=(1.0, 1.0, 3.0), description="Voxel pitch of the case's images, mm."
    )
    size_xyz: Annotated[tuple[int, int, int] | None, AfterValidator(_possible_size)] = Field(
        default=None, description="Voxels of the source image; left out: what the region usually covers."
    )
    amplitude_mm: float = Field(
        default=8.0,
        ge=0,
        le=40,
        description="95th percentile of the displacement between CT and source; 0 aligns them perfectly.",
    )
    content: float = Field(default=1.0, ge=0, le=2, description="How much bowel content changes; 0 for none.")
    seed: int = Field(default=0, ge=0, description="Seed of the cohort.")
    ct: str | None = Field(default=None, description="A real CT to start from: an image file or a DICOM folder.")
    labels: str | None = Field(default=None, description="Labels of that CT (TotalSegmentator ids).")
    body_variation: float = Field(
        default=0.0, ge=0, le=2, description="How far a real CT is warped into other patients; 1: as adults differ."
    )
    iodine: float = Field(
        default=0.0, ge=0, le=1, description="Share of the cases that have a contrast medium in blood and organs."
    )
    fractions: bool = Field(
        default=False, description="Keep what the MR's voxels are made of: training draws new contrasts from it."
    )


class SimulationSettings(Settings):
    """Choices for a cohort."""

    task: Task = Field(default=Task.MRI, description="Source image: MR or CBCT.")
    regions: tuple[Region, ...] = Field(default=tuple(Region), min_length=1)
    cases: int = Field(default=1, ge=1, description="Cases per region.")
    centre: str = Field(
        default="S", pattern="^[A-Z]$", description="Centre letter of the case ids; keeps cohorts of other seeds apart."
    )
    case: CaseSettings = Field(default=CaseSettings(), description="Choices for every case.")
    cts: tuple[str, ...] = Field(default=(), description="Real CTs to start from, taken in turn.")
    labels: tuple[str, ...] = Field(default=(), description="Labels of the CTs, one for each or none.")

    @model_validator(mode="after")
    def _labels_belong_to_cts(self) -> SimulationSettings:
        if self.labels and len(self.labels) != len(self.cts):
            raise ValueError(f"{len(self.labels)} label files for {len(self.cts)} CTs; expected one for each or none")
        return self

    def of_case(self, index: int) -> CaseSettings:
        """The settings of the case `index` of a region."""
        if not self.cts:
            return self.case
        which = index % len(self.cts)
        return self.case.model_copy(
            update={"ct": self.cts[which], "labels": self.labels[which] if self.labels else None}
        )


def case_id(task: Task, region: Region, index: int, centre: str = "S") -> str:
    """SynthRAD's pattern, with S (simulated) as the default centre: `1ABS001`."""
    return f"{1 if task == Task.MRI else 2}{region}{centre}{index + 1:03d}"
