"""One pair, without a cohort: by files from the command line, or by images in memory from a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sctlab.registration.assess import assess
from sctlab.registration.case import PARTIAL, CaseResult, as_int16, register_case
from sctlab.registration.methods import check_settings, register_back, register_pair
from sctlab.registration.pairs import PairFiles, check_overlap, make_pair
from sctlab.registration.records import QualityRecord
from sctlab.registration.request import check_images
from sctlab.registration.scratch import remove_stale
from sctlab.registration.settings import Convention, RegistrationSettings
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import AffineTransform, Transform
from sctlab.workflow.locking import one_run
from sctlab.workflow.signals import sigterm_as_interrupt
from sctlab_model.cases import Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.monitor import Monitor
from sctlab_model.volume import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

    # A volume, a SimpleITK image, or an array [z, y, x] with its affine (index x, y, z → mm, LPS; 4x4).
    Image: TypeAlias = Volume | sitk.Image | tuple[np.ndarray, np.ndarray]

CBCT_BELOW = -300.0  # a source image with lower values is in HU


@dataclass(frozen=True)
class RegisteredPair:
    """A pair that was registered in memory.

    Args:
        transform: Points of the fixed image to points of the moving image, mm, LPS.
        registered: The moving image on the fixed grid.
        field_of_view: Where the moving image has data, on the fixed grid (bool).
        quality: The verdict and the measures behind it.
        residual_mm: Where in the body another place fits better, on a coarse grid; −1 where nothing tells.
        notes: Decisions of the method.
    """

    transform: Transform
    registered: Volume
    field_of_view: Volume
    quality: QualityRecord
    residual_mm: Volume | None = None
    notes: tuple[str, ...] = ()


def register(
    fixed: Image,
    moving: Image,
    settings: RegistrationSettings = RegistrationSettings(),
    *,
    task: Task | None = None,
    region: Region = Region.AB,
    fixed_mask: Image | None = None,
    fixed_labels: Image | None = None,
    moving_labels: Image | None = None,
) -> RegisteredPair:
    """Register two images in memory.

    Args:
        fixed: MR or CBCT (the CT, under `source_to_ct`).
        moving: CT (MR or CBCT, under `source_to_ct`).
        settings: How; see `RegistrationSettings`.
        task: What the source is; by its values when left out.
        region: Chooses the preset.
        fixed_mask: The body on the fixed grid; computed when left out.
        fixed_labels, moving_labels: TotalSegmentator's `total` ids on either grid: the CT's say where organs slide (presets
            with `sliding`), both together are compared.

    Raises:
        InputError: Images or settings that can't be used.
        RegistrationError: No usable transform.

    Example:
        >>> result = register(mr, ct, RegistrationSettings(method="rigid"))  # doctest: +SKIP
        >>> result.quality.verdict, result.quality.judgement.error_mm  # doctest: +SKIP
    """
    check_settings(settings)
    images = as_volume(fixed), as_volume(moving)
    ct_is_fixed = settings.convention is Convention.SOURCE_TO_CT
    source, ct = reversed(images) if ct_is_fixed else images
    mask = None if fixed_mask is None else as_volume(fixed_mask)
    on_fixed, on_moving = (None if labels is None else as_volume(labels) for labels in (fixed_labels, moving_labels))
    pair = make_pair(
        source,
        ct,
        task=task or guess_task(source),
        region=region,
        convention=settings.convention,
        mask=None if mask is None else mask.with_array(mask.array > 0),
        mask_is_fixed=True,
        ct_labels=on_fixed if ct_is_fixed else on_moving,
        source_labels=on_moving if ct_is_fixed else on_fixed,
    )
    check_overlap(pair, AffineTransform(np.eye(3)))
    result = register_pair(pair, settings)
    check_overlap(pair, result.transform, registered=True)
    backward = register_back(pair, settings) if settings.both_ways else None
    quality, residual = assess(pair, result, settings, backward)
    grid = pair.fixed.geometry
    return RegisteredPair(
        result.transform,
        as_int16(apply_to_image(pair.moving, result.transform, grid, outside=pair.outside)),
        field_of_view(pair.moving.geometry, result.transform, grid),
        quality,
        residual,
        result.notes,
    )


def register_files(
    fixed: Path,
    moving: Path,
    out: Path,
    settings: RegistrationSettings = RegistrationSettings(),
    *,
    task: Task | None = None,
    region: Region | None = None,
    fixed_mask: Path | None = None,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    monitor: Monitor = Monitor(),
) -> CaseResult:
    """Register one pair of files into the folder `out`.

    Args:
        fixed, moving, settings, task, region, fixed_mask: As for `register`.
        fixed_labels, moving_labels: The same labels on both grids, for their overlap; the CT's also say where organs slide.

    Raises:
        InputError, RegistrationError: As for `register`; recorded in `out/failure.json` as well.
    """
    check_images(fixed, moving, fixed_mask, moving_labels, fixed_labels)
    check_settings(settings)
    ct_is_fixed = settings.convention is Convention.SOURCE_TO_CT
    source, ct = (moving, fixed) if ct_is_fixed else (fixed, moving)
    if task is None:
        task = guess_task(read_volume(source))
        monitor.info(f"task {task} (by the values of {source.name}; --task says otherwise)")
    if region is None:
        region = Region.AB
        monitor.info("region AB (--region says otherwise)")
    ct_labels, source_labels = (fixed_labels, moving_labels) if ct_is_fixed else (moving_labels, fixed_labels)
    name = moving.name.split(".")[0]
    files = PairFiles(name, task, region, source, ct, fixed_mask, ct_labels, source_labels, mask_is_fixed=True)
    with sigterm_as_interrupt(), one_run(out.absolute(), monitor):
        remove_stale(out.parent, f"{PARTIAL}{files.id}-")
        return register_case(files, settings, out)


def guess_task(source: Volume) -> Task:
    """CBCT where the values go as low as air in HU does, else MR."""
    return Task.CBCT if float(source.array.min()) < CBCT_BELOW else Task.MRI


def as_volume(image: Image) -> Volume:
    """A volume of whatever a notebook holds.

    Raises:
        InputError: Neither a volume, nor a SimpleITK image, nor an array [z, y, x] with a 4x4 affine.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, Sequence) and len(image) == 2:
        array, affine = np.asarray(image[0]), np.asarray(image[1], dtype=np.float64)
        if array.ndim == 3 and affine.shape == (4, 4) and np.isfinite(affine).all():
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            if (spacing > 0).all():
                direction = tuple((affine[:3, :3] / spacing).ravel())
                return Volume(array, Geometry(array.shape[::-1], tuple(spacing), tuple(affine[:3, 3]), direction))
        raise InputError(
            "image",
            found=f"an array of shape {array.shape} with an affine of shape {affine.shape}",
            expected="an array [z, y, x] and a finite 4x4 affine (index x, y, z to mm, LPS)",
        )
    if hasattr(image, "GetDirection"):
        return Volume.from_sitk(image)
    raise InputError(
        "image",
        found=f"a {type(image).__name__}",
        expected="a Volume, a SimpleITK image, or an array [z, y, x] with its affine",
    )
