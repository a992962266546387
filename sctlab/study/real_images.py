"""Real images of a study: no aligned CT of them exists, so what a network makes of them is judged without one."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from sctlab_model.anatomy.classes import CLASSES
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError, meant
from sctlab_model.io.reading import read_header
from sctlab_model.settings import Settings

TOTAL_IDS: dict[str, tuple[int, ...]] = {c.name: c.ids for c in CLASSES if c.ids}


class Organ(Settings):
    """One organ that is labelled on a real source.

    Args:
        labels: Its values in the label file.
        hu: Lowest and highest mean that a CT may have there, from the literature; nothing is said of its HU when left out.
    """

    labels: tuple[int, ...] = Field(min_length=1)
    hu: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Organ:
        if self.hu is not None and self.hu[0] > self.hu[1]:
            raise ValueError(f"hu runs from {self.hu[0]:g} to {self.hu[1]:g}; the lower one first")
        return self


class RealImage(Settings):
    """A real source image, which every trained network of its task predicts. A relative path starts at the working directory.

    Args:
        source: MR or CBCT, a file.
        task: What it is.
        region: Of the body.
        labels: Organs of the source, outlined on it; on its grid.
        organs: Which of them count, by the names of the anatomy network's classes (`liver`, `spine`, …).
        segmenter: Of `sctlab evaluate`: labels the sCT, for the Dice of these organs; `none` leaves it out.
        ct: The patient's own CT in the same frame of reference, not registered.
    """

    source: Path
    task: Task
    region: Region | None = None
    labels: Path | None = None
    organs: dict[str, Organ] = Field(default_factory=dict)
    segmenter: str = "none"
    ct: Path | None = None

    @model_validator(mode="after")
    def _labelled(self) -> RealImage:
        if bool(self.organs) != (self.labels is not None):
            raise ValueError("labels and organs belong together: the file, and what its values are")
        if self.segmenter != "none" and self.labels is None:
            raise ValueError(f"segmenter {self.segmenter} has no labels of the source to be compared with")
        for name in self.organs:
            if name not in TOTAL_IDS:
                raise ValueError(f"organs.{name} is none of {', '.join(TOTAL_IDS)} {meant(name, TOTAL_IDS)}".rstrip())
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read."""
        return tuple(p for p in (self.source, self.labels, self.ct) if p is not None)

    def check(self) -> None:
        """Look at the files' headers, and load the segmenter.

        Raises:
            InputError: One that can't be read, or labels on another grid than the source.
        """
        grid, *_ = (read_header(path).geometry for path in self.files)
        if self.labels is not None and not read_header(self.labels).geometry.same_grid(grid):
            raise InputError(
                self.labels,
                found="another grid than the source's",
                expected=f"that of {self.source}",
                advice="resample the labels by nearest neighbour",
            )
        if self.segmenter != "none":
            from sctlab.evaluation.segmentation import make_segmenter  # here, because it loads torch

            make_segmenter(self.segmenter)
