"""A pair to register: which image is fixed under each convention, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from model.body import body_mask
from model.errors import InputError
from model.interface import Case, Region, Task, find_image
from model.reading import read_mask, read_volume
from model.volume import AIR_HU, Volume
from sctlab.cohort import patient_of
from sctlab.registration.applying import field_of_view
from sctlab.registration.transforms import AffineTransform, Transform

MIN_OVERLAP = 0.05  # of the fixed body; elastix asks as much of its samples


class Convention(StrEnum):
    """Which image stays and which one is resampled.

    `ct_to_source` (the organisers'): fixed = MR/CBCT, the CT is resampled onto its grid.
    `source_to_ct` (IMPACT's): fixed = CT, which stays untouched; the MR/CBCT is resampled.
    """

    CT_TO_SOURCE = "ct_to_source"
    SOURCE_TO_CT = "source_to_ct"


@dataclass(frozen=True)
class PairFiles:
    """Where the images of a pair are.

    Args:
        id: Case id.
        task: What the source is.
        region: Body region; chooses settings.
        source: MR or CBCT.
        ct: CT.
        mask: Body mask on the fixed image's or the source's grid; computed where it is missing.
        ct_labels: Labels on the CT's grid.
        source_labels: The same labels on the source's grid, for Dice.
        truth: A simulated case's `truth` folder.
        mask_is_fixed: The mask belongs to the fixed image, even if the source has the same grid.
        patient: Whose images these are; empty where nothing but the id tells.
    """

    id: str
    task: Task
    region: Region
    source: Path
    ct: Path
    mask: Path | None = None
    ct_labels: Path | None = None
    source_labels: Path | None = None
    truth: Path | None = None
    mask_is_fixed: bool = False
    patient: str = ""

    @classmethod
    def of(cls, case: Case) -> PairFiles:
        """The files of a cohort's case.

        Raises:
            InputError: The case has no CT.
        """
        if case.target is None:
            raise InputError(case.folder or case.id, "no CT", "ct.mha beside the source image")
        truth = case.folder / "truth" if (case.folder / "truth").is_dir() else None
        return cls(
            case.id, case.task, case.region, case.source, case.target, case.mask, find_image(case.folder, "labels"),
            find_image(truth, "labels_source") if truth else None, truth, patient=patient_of(case.folder, case.id),
        )  # fmt: skip

    def inputs(self) -> list[Path]:
        """Every file that the result depends on."""
        return [p for p in (self.source, self.ct, self.mask, self.ct_labels, self.source_labels) if p is not None]


@dataclass(frozen=True)
class Pair:
    """The images of a pair, by their roles.

    Args:
        files: Where they came from.
        convention: Which one is fixed.
        fixed, moving: Images as they were read (array z, y, x).
        fixed_mask: The body on the fixed grid (bool).
        source_mask: The body on the source's grid (bool); the fixed mask itself under `ct_to_source`.
        moving_labels, fixed_labels: Labels on each grid, where given.
    """

    files: PairFiles
    convention: Convention
    fixed: Volume
    moving: Volume
    fixed_mask: Volume
    source_mask: Volume
    moving_labels: Volume | None = None
    fixed_labels: Volume | None = None

    @property
    def ct_is_fixed(self) -> bool:
        """Whether the source is carried to the CT."""
        return self.convention is Convention.SOURCE_TO_CT

    @property
    def fixed_name(self) -> str:
        """File stem of the fixed image: `mr`, `cbct` or `ct`."""
        return "ct" if self.ct_is_fixed else self.files.task.source_name

    @property
    def moving_name(self) -> str:
        """File stem of the moving image."""
        return self.files.task.source_name if self.ct_is_fixed else "ct"

    @property
    def outside(self) -> float:
        """The moving image's value where it has no data: air, or 0 for MR."""
        return 0.0 if self.moving_name == "mr" else float(AIR_HU)


def load_pair(files: PairFiles, convention: Convention) -> Pair:
    """Read a pair and refuse what can't be registered.

    Raises:
        InputError: Unreadable or non-finite images, a constant image, an empty mask, a mask on another grid,
            bodies that don't overlap in physical space.
    """
    source, ct = read_volume(files.source), read_volume(files.ct)
    for volume in (source, ct):
        if volume.array.min() == volume.array.max():
            raise InputError(volume.name, f"every voxel is {volume.array.flat[0]}", "an image with contrast",
                             "the export of this image failed: make it again")  # fmt: skip
    ct_is_fixed = convention is Convention.SOURCE_TO_CT
    fixed, moving = (ct, source) if ct_is_fixed else (source, ct)
    fixed_mask, source_mask = _masks(files, source, ct, ct_is_fixed)
    labels = [_labels(path, grid) for path, grid in ((files.ct_labels, ct), (files.source_labels, source))]
    moving_labels, fixed_labels = reversed(labels) if ct_is_fixed else labels
    pair = Pair(files, convention, fixed, moving, fixed_mask, source_mask, moving_labels, fixed_labels)
    check_overlap(pair, AffineTransform(np.eye(3)))
    return pair


def exchanged(pair: Pair) -> Pair:
    """The same images with their roles exchanged."""
    back = Convention.CT_TO_SOURCE if pair.ct_is_fixed else Convention.SOURCE_TO_CT
    moving_is_mr = pair.moving_name == "mr"
    mask = pair.source_mask if pair.ct_is_fixed else body_mask(pair.moving, Task.MRI if moving_is_mr else Task.CBCT)
    return Pair(
        pair.files, back, pair.moving, pair.fixed, mask, pair.source_mask, pair.fixed_labels, pair.moving_labels
    )


def check_overlap(pair: Pair, transform: Transform, *, stage: str = "before registration") -> float:
    """The share of the fixed body that has moving data under `transform`.

    Raises:
        InputError: It is below 5 %.
    """
    covered = field_of_view(pair.moving.geometry, transform, pair.fixed.geometry)
    share = float(covered.array[pair.fixed_mask.array].mean())
    if share < MIN_OVERLAP:
        raise InputError(pair.files.id, f"{share:.0%} of the fixed body lies inside the moving image {stage}",
                         f"at least {MIN_OVERLAP:.0%}",
                         "the images are in different frames of reference: check their origins and directions")  # fmt: skip
    return share


def _masks(files: PairFiles, source: Volume, ct: Volume, ct_is_fixed: bool) -> tuple[Volume, Volume]:
    """Fixed mask and source mask."""
    fixed = ct if ct_is_fixed else source
    if files.mask is None:
        source_mask = body_mask(source, files.task)
        return (body_mask(ct, Task.CBCT) if ct_is_fixed else source_mask), source_mask
    mask = read_mask(files.mask)
    if not mask.array.any():
        raise InputError(files.mask, "an empty mask", "a body mask", "leave the mask out to have one computed")
    if mask.geometry.same_grid(source.geometry, 1e-2) and not (files.mask_is_fixed and ct_is_fixed):
        mask = Volume(mask.array, source.geometry, mask.name)
        return (body_mask(ct, Task.CBCT) if ct_is_fixed else mask), mask
    if mask.geometry.same_grid(fixed.geometry, 1e-2):  # the CT's own body
        return Volume(mask.array, fixed.geometry, mask.name), body_mask(source, files.task)
    raise InputError(files.mask, f"a grid of {mask.geometry.size_xyz} voxels at {mask.geometry.origin_xyz} mm",
                     f"that of the {'source or CT' if ct_is_fixed else 'source image'}: {fixed.geometry.size_xyz} voxels "
                     f"at {fixed.geometry.origin_xyz} mm", "resample the mask")  # fmt: skip


def _labels(path: Path | None, image: Volume) -> Volume | None:
    if path is None:
        return None
    labels = read_volume(path)
    if labels.array.dtype.kind == "f":
        labels = labels.with_array(np.rint(labels.array).astype(np.int32))
    if not labels.geometry.same_grid(image.geometry, 1e-2):
        raise InputError(path, f"a grid of {labels.geometry.size_xyz} voxels", f"that of {image.name}",
                         "resample the labels")  # fmt: skip
    return Volume(labels.array, image.geometry, labels.name)
