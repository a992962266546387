"""What a training of the anatomy network is told; apart from it, because a plan is read, and refused, without PyTorch."""

from __future__ import annotations

from pydantic import Field

from sctlab_model.anatomy.settings import NetworkSettings
from sctlab_model.settings import Settings


class LabelledImage(Settings):
    """A real anatomy to make bodies of.

    Args:
        image: A CT in HU (file or DICOM folder), or a head label map with FreeSurfer ids.
        labels: TotalSegmentator ids on the CT's grid; none for a label map.
        copies: How many bodies are warped from it.
        weight: How often it is shown, beside the other sources.
    """

    image: str
    labels: str | None = None
    copies: int = Field(12, ge=1)
    weight: float = Field(1.0, gt=0)


class AnatomySettings(Settings):
    """A training of the anatomy network.

    Args:
        network: The U-Net.
        sources: Real anatomies that bodies are warped from.
        procedural: Drawn bodies of each region.
        real_share: Chance that a sample shows a real anatomy.
        hu_share: Chance that a view is in HU (CT, CBCT, synthetic CT) and no MR.
        iterations: Steps.
        batch: Bodies a step, each seen twice.
        learning_rate: At its highest (AdamW), after the first fiftieth; it falls to nothing along a cosine.
        contrast_weight: Of the term that makes decoder features of two contrasts agree (InfoNCE).
        region_weight: Of the slice's region.
        start: A network's file whose weights are the first ones; random ones when left out.
        seed: Of bodies, weights and samples.
        bf16: Convolutions in bfloat16: about 1.5 times as fast on processors that have it.
        save_every: Steps between checkpoints.
    """

    network: NetworkSettings = NetworkSettings()
    sources: tuple[LabelledImage, ...] = ()
    procedural: int = Field(24, ge=0)
    real_share: float = Field(0.6, ge=0, le=1)
    hu_share: float = Field(0.6, ge=0, le=1)
    iterations: int = Field(20000, ge=1)
    batch: int = Field(1, ge=1)
    learning_rate: float = Field(0.003, gt=0)
    contrast_weight: float = Field(0.1, ge=0)
    region_weight: float = Field(0.2, ge=0)
    start: str | None = None
    seed: int = 0
    bf16: bool = True
    save_every: int = Field(50, ge=1)
