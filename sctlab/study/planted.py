"""Planted misregistration: aligned pairs whose CT is displaced by a known amount, and the record of it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.ndimage import gaussian_filter

from sctlab.cohort.pairs import patient_of
from sctlab.registration.records import PairRecord
from sctlab.study.plan import PairsPlan
from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import DisplacementField
from sctlab_model.cases import Region, Task, find_image
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_folder
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.records import Record
from sctlab_model.volume import AIR_HU, Geometry

SMOOTHNESS_MM = 40.0
PLANTED = "planted.json"


class PlantedRecord(Record):
    """`planted.json`: the displacement between a planted pair's CT and the aligned one; CT(x) = aligned CT(x + u(x))."""

    current_version: ClassVar[int] = 1

    case: str = Field(description="Case id.")
    systematic_xyz_mm: tuple[float, float, float] = Field(description="The part that every pair shares.")
    variable_rms_mm: float = Field(description="RMS length of the part that is new in this pair, over the body.")
    mean_xyz_mm: tuple[float, float, float] = Field(description="Mean of the whole displacement over the body.")
    smoothness_mm: float = Field(default=SMOOTHNESS_MM, description="Standard deviation of the smoothing kernel.")
    seed: int = 0


def planted_field(
    grid: Geometry, mask: np.ndarray, pairs: PairsPlan, rng: np.random.Generator, smoothness_mm: float = SMOOTHNESS_MM
) -> np.ndarray:
    """Displacements [3 (x, y, z), z, y, x] in mm.

    Args:
        grid: Of the CT.
        mask: The body (bool, z y x); the RMS of the variable part over it is `variable_mm` exactly.
        pairs: How much of which part.
        rng: Of this pair.
        smoothness_mm: Standard deviation of the Gaussian that smooths white noise.
    """
    field = np.zeros((3, *grid.shape_zyx))
    if pairs.variable_mm:
        sigma = [smoothness_mm / s for s in grid.spacing_xyz[::-1]]
        for axis in range(3):
            field[axis] = gaussian_filter(rng.standard_normal(grid.shape_zyx), sigma, mode="reflect")
        field *= pairs.variable_mm / np.sqrt((field[:, mask] ** 2).sum(0).mean())
    return field + pairs.shift_xyz[:, None, None, None]


def plant_case(folder: Path, target: Path, task: Task, region: Region, pairs: PairsPlan, seed: int) -> PlantedRecord:
    """Write a case whose CT is the aligned one, displaced.

    Args:
        folder: A simulated case.
        target: The new case folder; appears whole or not at all.
        task, region: Of the case.
        pairs: Which displacement.
        seed: Of the variable part, with the case's name.

    Raises:
        InputError: The case has no truth, source or mask.
    """
    aligned, source, mask_file = (
        find_image(folder / "truth", "ct_aligned"),
        find_image(folder, task.source_name),
        find_image(folder, "mask"),
    )
    if aligned is None or source is None or mask_file is None:
        raise InputError(folder, found="no truth, source or mask", expected="a simulated case")
    ct, mask = read_volume(aligned), read_mask(mask_file).array > 0
    name = int.from_bytes(hashlib.sha256(folder.name.encode()).digest()[:4], "big")
    field = planted_field(ct.geometry, mask, pairs, np.random.default_rng([seed, name]))
    transform = DisplacementField(ct.geometry, field)
    variable = field - pairs.shift_xyz[:, None, None, None]
    mean = field[:, mask].mean(1)
    record = PlantedRecord(
        case=folder.name,
        systematic_xyz_mm=tuple(map(float, pairs.shift_xyz)),
        variable_rms_mm=float(np.sqrt((variable[:, mask] ** 2).sum(0).mean())),
        mean_xyz_mm=tuple(map(float, mean)),
        seed=seed,
    )
    with atomic_folder(target) as part:
        for file in (source, mask_file):
            shutil.copy2(file, part / file.name)
        write_volume(apply_to_image(ct, transform, ct.geometry, outside=AIR_HU), part / "ct.mha")
        seen = field_of_view(ct.geometry, transform, ct.geometry)
        write_volume(seen, part / "fov.mha")
        record.write(part / PLANTED)
        PairRecord(
            case=folder.name,
            patient=patient_of(folder, folder.name),
            task=str(task),
            region=str(region),
            convention="aligned",
            method="planted",
            seed=seed,
        ).write(part / "pair.json")
    return record
