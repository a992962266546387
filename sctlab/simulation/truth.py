"""`truth/truth.json` of a simulated case: how it was made, typed and versioned."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from sctlab_model.records import Record

DIRECTION = (
    "points of the source grid to points of ct.mha (ITK's resampling direction): "
    "resample(ct.mha, source grid, deformation.h5) = ct_aligned.mha outside content_changed.mha"
)


class SimulationTruth(Record):
    """How a case was simulated. Files of earlier releases have no version and the same keys."""

    current_version: ClassVar[int] = 1

    direction: str = Field(default=DIRECTION, description="Direction of deformation.h5.")
    transform: str = "ITK DisplacementFieldTransform, mm, linear between nodes"
    breathing_phase: str = "exhale: the CT aligned to the source shows the patient as at the end of exhalation"
    region: str = Field(default="", description="AB, TH or HN.")
    options: dict[str, Any] = Field(default_factory=dict, description="Settings of the case, task and index.")
    motion: dict[str, Any] = Field(
        default_factory=dict, description="Amplitudes of the motion's parts, mm and degrees."
    )
    source: dict[str, Any] = Field(
        default_factory=dict, description="Sequence and acquisition, or the CBCT's protocol."
    )
    patient: str | None = Field(default=None, description="Where cases of one patient share a name.")
