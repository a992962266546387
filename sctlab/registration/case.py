"""One case from files to files: register, judge, picture, and write a folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sctlab.registration.assess import assess
from sctlab.registration.judge.signals import UNKNOWN_MM
from sctlab.registration.methods import MethodResult, register_back, register_pair, result_key
from sctlab.registration.overview import save_overview
from sctlab.registration.pairs import Pair, PairFiles, check_overlap, load_pair
from sctlab.registration.records import FAILURE, PAIR, QUALITY, FailureRecord, PairRecord, QualityRecord, TransformFiles
from sctlab.registration.scratch import scratch_folder
from sctlab.registration.settings import RegistrationSettings
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.elastix_writing import fits_elastix, write_elastix
from sctlab.transforms.field import displacement_field
from sctlab.transforms.itk_files import write_displacement, write_itk
from sctlab_model.errors import InputError, ProductError
from sctlab_model.io.atomic import replace_folder
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume, resample

OVERVIEW = "overview.png"
RESIDUAL = "residual_mm"  # where in the body another place fits better, by the judge
PARTIAL = ".partial-"  # folders that aren't complete
COARSE_RANGE = 50.0  # an image with a smaller range would lose its contrast as whole numbers


@dataclass(frozen=True)
class CaseResult:
    """One registered case.

    Args:
        folder: Where its files lie.
        pair, quality: Its records.
        skipped: It was finished before.
    """

    folder: Path
    pair: PairRecord
    quality: QualityRecord
    skipped: bool = False


def register_case(
    files: PairFiles, settings: RegistrationSettings, folder: str | Path, scratch: str | Path | None = None
) -> CaseResult:
    """Register one case into `folder`, or leave a finished one as it is.

    The folder is made beside its place and moved there when it is complete. A case that fails leaves a folder
    with `failure.json` and no images, so nothing downstream takes it for a pair.

    Args:
        files: The images.
        settings: How.
        folder: The case's folder.
        scratch: Where the folder is made, on the same file system; beside `folder` when left out.

    Raises:
        ProductError: What the case lacks; it is recorded as well, unless the folder is one that a result must not
            replace.
    """
    folder, scratch = Path(folder), Path(scratch or Path(folder).parent)
    refuse_inputs(folder, *(p for p in (files.source, files.ct, files.mask, files.ct_labels, files.source_labels) if p))
    refuse_foreign(folder)
    try:
        key = result_key(settings, files)
        finished = is_finished(folder, key)
        if not finished:
            with scratch_folder(scratch, f"{PARTIAL}{files.id}-") as partial:
                _register_into(partial, files, settings, key)
                _replace(folder, partial)
    except Exception as error:
        reason = str(error) if isinstance(error, ProductError) else f"{type(error).__name__}: {error}"
        record_failure(folder, scratch, files.id, reason, settings)
        raise
    pair, quality = PairRecord.read(folder / PAIR), QualityRecord.read(folder / QUALITY)
    if finished:
        # The patient is no setting: what an older version wrote is corrected without registering again.
        corrected = pair.model_copy(update=_origin(files))
        if corrected != pair:
            corrected.write(folder / PAIR)
            pair = corrected
    return CaseResult(folder, pair, quality, skipped=finished)


def record_failure(folder: Path, scratch: Path, case_id: str, reason: str, settings: RegistrationSettings) -> None:
    """Make `folder` hold nothing but `failure.json`.

    Raises:
        InputError: The folder holds files that are no earlier result.
    """
    with scratch_folder(scratch, f"{PARTIAL}{case_id}-") as partial:
        record = FailureRecord(case=case_id, error=reason, settings=settings.model_dump(mode="json"))
        record.write(partial / FAILURE)
        _replace(folder, partial)


def recorded_failure(folder: Path) -> str:
    """The reason in a folder's `failure.json`; empty without one."""
    try:
        return FailureRecord.read(folder / FAILURE).error
    except InputError:
        return ""


def refuse_inputs(folder: Path, *inputs: Path) -> None:
    """Refuse a result's folder that holds what it is made of (files or folders).

    Raises:
        InputError: One of them lies in it.
    """
    for path in inputs:
        # A link is lost where it lies, and its image where it points to.
        lies = path.parent.resolve() / path.name
        if folder.resolve() in (path.resolve(), *path.resolve().parents, *lies.parents):
            raise InputError(
                folder, found=f"the folder of the case's own {path.name}", expected="another folder for the result"
            )


def refuse_foreign(folder: Path) -> None:
    """Refuse a result's folder that a result must not replace.

    Raises:
        InputError: It holds other files than an earlier result's.
    """
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / n).is_file() for n in (PAIR, FAILURE)):
        raise InputError(
            folder, found="a folder with other files", expected="an empty or new folder, or an earlier result"
        )


def is_finished(folder: Path, key: str) -> bool:
    """Whether a folder holds the complete result of the same settings and inputs."""
    try:
        pair, _ = PairRecord.read(folder / PAIR), QualityRecord.read(folder / QUALITY)
    except InputError:
        return False
    return pair.key == key


def _register_into(folder: Path, files: PairFiles, settings: RegistrationSettings, key: str) -> None:
    pair = load_pair(files, settings.convention)
    start = time.monotonic()
    result = register_pair(pair, settings)
    seconds = round(time.monotonic() - start, 2)
    coverage = check_overlap(pair, result.transform, registered=True)
    backward = register_back(pair, settings) if settings.both_ways else None

    names = write_images(pair, result, folder)
    transforms = write_transforms(pair, result, folder, displacement=settings.displacement)
    quality, residual = assess(pair, result, settings, backward)
    quality.seconds = seconds
    quality.write(folder / QUALITY)
    if residual is not None:
        on_fixed = resample(residual, pair.fixed.geometry, interpolation="nearest", outside=UNKNOWN_MM)
        write_volume(on_fixed, folder / f"{RESIDUAL}.mha")
        names.append(f"{RESIDUAL}.mha")
    title = f"{files.id} · {files.task.folder} {files.region} · {settings.method} · {settings.convention}"
    save_overview(pair, result.transform, folder / OVERVIEW, title=title)
    PairRecord(
        case=files.id,
        **_origin(files),
        task=files.task,
        region=files.region,
        convention=settings.convention,
        method=settings.method,
        presets=list(result.details.get("presets", settings.presets)),
        fixed_image=pair.fixed_name,
        fixed_file=files.ct.name if pair.ct_is_fixed else files.source.name,
        moving_image=pair.moving_name,
        moving_file=files.source.name if pair.ct_is_fixed else files.ct.name,
        outside_value=pair.outside,
        images=names,
        transform=transforms,
        body_with_data=coverage,
        seed=settings.seed,
        device=result.device,
        seconds=seconds,
        notes=list(result.notes),
        details=result.details,
        key=key,
    ).write(folder / PAIR)


def write_images(pair: Pair, result: MethodResult, folder: Path) -> list[str]:
    """Fixed image as it is, moving image on the fixed grid, mask, field of view, labels; returns their names.

    The mask is the fixed image's own, or the source's where that alone is known under `source_to_ct`. Labels are the
    CT's, or else the source's.
    """
    grid = pair.fixed.geometry
    registered = apply_to_image(pair.moving, result.transform, grid, outside=pair.outside)
    mask = pair.fixed_mask
    if pair.ct_is_fixed and pair.source_mask is not None:
        mask = _as_mask(apply_to_labels(pair.source_mask, result.transform, grid))
    volumes = {
        pair.fixed_name: pair.fixed,
        pair.moving_name: as_int16(registered),
        "mask": mask,
        "fov": field_of_view(pair.moving.geometry, result.transform, grid),
    }
    if pair.fixed_labels is not None and (pair.ct_is_fixed or pair.moving_labels is None):
        volumes["labels"] = pair.fixed_labels
    elif pair.moving_labels is not None:
        volumes["labels"] = apply_to_labels(pair.moving_labels, result.transform, grid)
    if result.spread is not None:
        volumes["spread_mm"] = result.spread.with_array(result.spread.array.astype(np.float32))
    for name, volume in volumes.items():
        write_volume(volume, folder / f"{name}.mha")
    return [f"{name}.mha" for name in volumes]


def write_transforms(pair: Pair, result: MethodResult, folder: Path, *, displacement: bool) -> TransformFiles:
    """elastix text files (none for a field too large for text), an ITK composite and, if asked for, vectors on the fixed grid."""
    grid = pair.fixed.geometry
    paths: list[Path] = []
    if fits_elastix(result.transform):
        paths = write_elastix(result.transform, folder, grid, default_value=pair.outside)
    itk_path = write_itk(result.transform, folder / "transform.h5", grid=grid)
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in paths or [itk_path])).hexdigest()
    field = None
    if displacement:
        field = write_displacement(displacement_field(result.transform, grid), folder / "displacement.mha").name
    return TransformFiles(elastix=[p.name for p in paths], itk=itk_path.name, sha256=digest, displacement=field)


def as_int16(volume: Volume) -> Volume:
    """Whole numbers as int16; float32 where the range is too small for them or values don't fit."""
    array = volume.array
    low, high = np.rint(float(array.min())), np.rint(float(array.max()))
    fits = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    if not fits or (array.dtype.kind == "f" and float(np.ptp(array)) < COARSE_RANGE):
        return volume.with_array(array.astype(np.float32))
    return volume.with_array(np.rint(array).astype(np.int16))


def _as_mask(volume: Volume) -> Volume:
    return volume.with_array(volume.array > 0)


def _origin(files: PairFiles) -> dict[str, Any]:
    """The patient, and SHA-256 of the images as they were delivered: cases that share one are one patient."""
    return {
        "patient": files.patient or files.id,
        "inputs": {"source": file_sha256(files.source), "ct": file_sha256(files.ct)},
    }


def _replace(folder: Path, complete: Path) -> None:
    """Put `complete` in the place of `folder`, which is new, empty or an earlier result."""
    refuse_foreign(folder)
    replace_folder(complete, folder)
