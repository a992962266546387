"""A pair to register: which image is fixed under each convention, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sctlab.cohort.pairs import patient_of
from sctlab.registration.settings import Convention
from sctlab.transforms.apply import field_of_view
from sctlab.transforms.data import AffineTransform, Transform
from sctlab_model.body import body_mask
from sctlab_model.case_input import with_skin
from sctlab_model.cases import Case, Region, Task, find_image, list_images
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.io.paths import split_suffix
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import AIR_HU, Volume

MIN_OVERLAP = 0.05  # of the fixed body; elastix asks as much of its samples


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
        """The files of a cohort's case; see `in_folder`."""
        if case.folder is None or case.region is None:
            raise InputError(case.id, found="an image without a case folder", expected="a case of a cohort")
        return cls.in_folder(case.folder, case.task, case.region)

    @classmethod
    def in_folder(cls, folder: Path, task: Task, region: Region) -> PairFiles:
        """The files of a cohort's case folder.

        Raises:
            InputError: The case has no source image or no CT, or two images of one name.
        """
        source, ct = find_image(folder, task.source_name), find_image(folder, "ct") or find_image(folder, "ct_def")
        if source is None:
            raise InputError(
                folder, found=f"no {task.source_name.upper()}", expected=f"{task.source_name}.mha beside the CT"
            )
        if ct is None:
            raise InputError(folder, found="no CT", expected="ct.mha beside the source image")
        truth = folder / "truth" if (folder / "truth").is_dir() else None
        return cls(
            folder.name,
            task,
            region,
            source,
            ct,
            find_image(folder, "mask"),
            find_image(folder, "labels"),
            find_image(truth, "labels_source") if truth else None,
            truth,
            patient=patient_of(folder, folder.name),
        )

    def inputs(self) -> dict[str, Path]:
        """Every file that the result depends on, by its role; `truth.json` tells the patient only.

        Raises:
            InputError: Two images of one name in the truth folder.
        """
        found = {role: getattr(self, role) for role in ("source", "ct", "mask", "ct_labels", "source_labels")}
        if self.truth is not None:
            deformation = self.truth / "deformation.h5"
            found["deformation"] = deformation if deformation.is_file() else None
            found |= {name: find_image(self.truth, name) for name in ("ct_aligned", "content_changed")}
        return {role: path for role, path in found.items() if path is not None}


def find_case_folders(
    root: Path, *, task: Task | None = None, region: Region | None = None
) -> list[tuple[Path, Task, Region]]:
    """Folders of a SynthRAD cohort that hold a source image or a CT, sorted by task, region, id.

    What one of them lacks, or has twice, is found out by `PairFiles.in_folder`: that case fails, not the cohort.

    Raises:
        InputError: There is none.
    """
    found = []
    for this_task in [t for t in Task if task in (None, t)]:
        task_folder = root if root.name == this_task.folder else root / this_task.folder
        for this_region in [r for r in Region if region in (None, r)]:
            for folder in sorted((task_folder / this_region).glob("[!.]*")):
                if {split_suffix(p)[0] for p in list_images(folder)} & {this_task.source_name, "ct", "ct_def"}:
                    found.append((folder, this_task, this_region))
    if not found:
        wanted = "/".join((task.folder if task else "Task{1,2}", region or "{AB,HN,TH}", "<ID>", "mr|cbct.mha"))
        raise InputError(root, found="no cases", expected=wanted)
    return found


@dataclass(frozen=True)
class Pair:
    """The images of a pair, by their roles.

    Args:
        id: Case id.
        task: What the source is.
        region: Body region; chooses settings.
        convention: Which image is fixed.
        fixed, moving: Images as they were read (array z, y, x).
        fixed_mask: The body on the fixed grid (bool).
        source_mask: The body on the source's grid (bool); the fixed mask itself under `ct_to_source`, and None
            under `source_to_ct` where the given mask is the CT's.
        moving_labels, fixed_labels: Labels on each grid, where given.
        truth: A simulated case's `truth` folder.
    """

    id: str
    task: Task
    region: Region
    convention: Convention
    fixed: Volume
    moving: Volume
    fixed_mask: Volume
    source_mask: Volume | None
    moving_labels: Volume | None = None
    fixed_labels: Volume | None = None
    truth: Path | None = None

    @property
    def ct_is_fixed(self) -> bool:
        """Whether the source is carried to the CT."""
        return self.convention is Convention.SOURCE_TO_CT

    @property
    def fixed_name(self) -> str:
        """File stem of the fixed image: `mr`, `cbct` or `ct`."""
        return "ct" if self.ct_is_fixed else self.task.source_name

    @property
    def moving_name(self) -> str:
        """File stem of the moving image."""
        return self.task.source_name if self.ct_is_fixed else "ct"

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
    mask = None if files.mask is None else read_mask(files.mask)
    pair = make_pair(
        source,
        ct,
        task=files.task,
        region=files.region,
        convention=convention,
        case_id=files.id,
        mask=mask,
        mask_is_fixed=files.mask_is_fixed,
        ct_labels=None if files.ct_labels is None else read_volume(files.ct_labels),
        source_labels=None if files.source_labels is None else read_volume(files.source_labels),
        truth=files.truth,
    )
    check_overlap(pair, AffineTransform(np.eye(3)))
    return pair


def make_pair(
    source: Volume,
    ct: Volume,
    *,
    task: Task,
    region: Region,
    convention: Convention = Convention.CT_TO_SOURCE,
    case_id: str = "pair",
    mask: Volume | None = None,
    mask_is_fixed: bool = False,
    ct_labels: Volume | None = None,
    source_labels: Volume | None = None,
    truth: Path | None = None,
) -> Pair:
    """A pair of images in memory; the arguments are those of `PairFiles`.

    Raises:
        InputError: A constant image, an empty mask, a mask or labels on another grid.
    """
    for volume in (source, ct):
        if volume.array.min() == volume.array.max():
            raise InputError(
                volume.name or "image",
                found=f"every voxel is {volume.array.flat[0]}",
                expected="an image with contrast",
                advice="the export of this image failed: make it again",
            )
    ct_is_fixed = convention is Convention.SOURCE_TO_CT
    fixed, moving = (ct, source) if ct_is_fixed else (source, ct)
    fixed_mask, source_mask = _masks(mask, mask_is_fixed, source, ct, task, ct_is_fixed)
    on_ct, on_source = _labels(ct_labels, ct), _labels(source_labels, source)
    moving_labels, fixed_labels = (on_source, on_ct) if ct_is_fixed else (on_ct, on_source)
    return Pair(
        case_id,
        task,
        region,
        convention,
        fixed,
        moving,
        fixed_mask,
        source_mask,
        moving_labels,
        fixed_labels,
        truth,
    )


def exchanged(pair: Pair) -> Pair:
    """The same images with their roles exchanged."""
    back = Convention.CT_TO_SOURCE if pair.ct_is_fixed else Convention.SOURCE_TO_CT
    mask = pair.source_mask if pair.ct_is_fixed else None
    if mask is None:
        mask = _computed(pair.moving, Task.MRI if pair.moving_name == "mr" else Task.CBCT)
    return replace(
        pair,
        convention=back,
        fixed=pair.moving,
        moving=pair.fixed,
        fixed_mask=mask,
        source_mask=mask if pair.ct_is_fixed else pair.source_mask,
        moving_labels=pair.fixed_labels,
        fixed_labels=pair.moving_labels,
    )


def check_overlap(pair: Pair, transform: Transform, *, registered: bool = False) -> float:
    """The share of the fixed body that has moving data under `transform`.

    Raises:
        InputError: It is below 5 %, before registration.
        RegistrationError: … after it.
    """
    covered = field_of_view(pair.moving.geometry, transform, pair.fixed.geometry)
    share = float(covered.array[pair.fixed_mask.array].mean())
    if share < MIN_OVERLAP:
        error = RegistrationError if registered else InputError
        raise error(
            pair.id,
            found=f"{share:.0%} of the fixed body lies inside the moving image "
            f"{'after' if registered else 'before'} registration",
            expected=f"at least {MIN_OVERLAP:.0%}",
            advice="the images are in different frames of reference: check their origins and directions",
        )
    return share


def _masks(
    mask: Volume | None, mask_is_fixed: bool, source: Volume, ct: Volume, task: Task, ct_is_fixed: bool
) -> tuple[Volume, Volume | None]:
    """Fixed mask and source mask, as in `Pair`."""
    fixed = ct if ct_is_fixed else source
    if mask is None:
        source_mask = _computed(source, task)
        return (_computed(ct, Task.CBCT) if ct_is_fixed else source_mask), source_mask
    where = mask.name or "mask"
    if not mask.array.any():
        raise InputError(
            where, found="an empty mask", expected="a body mask", advice="leave the mask out to have one computed"
        )
    if mask.geometry.same_grid(source.geometry) and not (mask_is_fixed and ct_is_fixed):
        mask = Volume(mask.array, source.geometry, mask.name)
        return (_computed(ct, Task.CBCT) if ct_is_fixed else mask), mask
    if mask.geometry.same_grid(fixed.geometry):  # the CT's own body
        return Volume(mask.array, fixed.geometry, mask.name), None
    raise InputError(
        where,
        found=f"a grid of {mask.geometry.size_xyz} voxels at {mask.geometry.origin_xyz} mm",
        expected=f"that of the {'source or CT' if ct_is_fixed else 'source image'}: {fixed.geometry.size_xyz} voxels "
        f"at {fixed.geometry.origin_xyz} mm",
        advice="resample the mask",
    )


def _computed(image: Volume, task: Task) -> Volume:
    """The mask of an image that has none; as wide as those that come with images."""
    return with_skin(body_mask(image, task))


def _labels(labels: Volume | None, image: Volume) -> Volume | None:
    """Labels as whole numbers on the image's grid."""
    if labels is None:
        return None
    if labels.array.dtype.kind == "f":
        labels = labels.with_array(np.rint(labels.array).astype(np.int32))
    if not labels.geometry.same_grid(image.geometry):
        raise InputError(
            labels.name or "labels",
            found=f"a grid of {labels.geometry.size_xyz} voxels",
            expected=f"that of {image.name or 'their image'}",
            advice="resample the labels",
        )
    return Volume(labels.array, image.geometry, labels.name)
