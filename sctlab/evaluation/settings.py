"""What an evaluation computes, the same for every case."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sctlab.evaluation.dose.plan import Modality
from sctlab_model.cases import Region, Task
from sctlab_model.settings import Settings


class EvaluationSettings(Settings):
    """Settings of `evaluate_cohort`; everything has a default."""

    reference: str = Field(
        "",
        description="File stem of the reference in the case folder. Empty takes `ct`, or `ct_def` where only that is "
        "there; in simulated cohorts that nobody registered, `truth/ct_aligned`.",
    )
    labels: Path | None = Field(None, description="Folder with labels of the predictions, `<ID>.*`.")
    segmenter: str = Field(
        "auto",
        description="Where no label file is: none, a registered segmenter (totalsegmentator), or a TorchScript file. `auto` takes a "
        "registered one that has all it needs here, and none where `labels` are given or there is no such one.",
    )
    input_labels: Path | None = Field(
        None, description="Folder with labels drawn on the inputs; `truth/labels_source` of simulated cases by default."
    )
    structures: Path | None = Field(
        None,
        description="Folder with an RTSTRUCT of each reference, `<ID>.dcm`; `structures.dcm` in the case folder by default.",
    )
    target: int | str | None = Field(
        None,
        description="What rays and plans aim at: a label of the reference, or the name of a structure. None takes the RTSTRUCT's "
        "only PTV, CTV or GTV, or a ball at the mask's centre.",
    )
    truth: Path | None = Field(None, description="Cohort that holds `truth/` folders, if it isn't the evaluated one.")
    round_trip: bool = Field(False, description="Send each reference through its registration and back.")
    control: Path | None = Field(
        None, description="Pairs of another registration: each reference goes through that one, then through its own."
    )
    features: tuple[str, ...] = Field(
        (), description="Registered extractors (or their files) whose feature distance is measured; `lpips` for LPIPS."
    )
    dose: tuple[Modality, ...] = Field((), description="Plan on the CT and recalculate on the sCT: photons, protons.")
    dose_cache: Path | None = Field(None, description="Folder of doses; `dose` in the output folder by default.")
    by: tuple[str, ...] = Field(
        (),
        description="Parameters by which scores are also told apart: field_strength, sequence, scanner, centre, or a column's name.",
    )
    parameters: Path | None = Field(
        None, description="Folder with `overviews/*_parameters.xlsx`, if it isn't the cohort."
    )
    challenge_only: bool = Field(False, description="Only the challenge's metrics.")
    task: Task | None = Field(None, description="Only this task.")
    region: Region | None = Field(None, description="Only this region.")
    only: tuple[str, ...] = Field((), description="Only these cases: ids, or keys such as Task1/AB/1ABA001.")
    allow_seen: bool = Field(False, description="Score cases that the weights were trained on, too.")
    report: bool = Field(True, description="Write report.html.")
    device: str = Field("cpu", description="auto, cpu, cuda or cuda:N.")
