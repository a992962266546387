"""Which organs two images of one patient share, and which moved or are gone: MR beside sCT, or fixed beside registered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab_model.anatomy.classes import CLASSES, FILE_IDS, IGNORE, NAMES
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume, resample

SMALLEST_ML = 5.0  # less than this is not called an organ
GONE = 0.2  # share of its volume below which an organ is called missing


@dataclass(frozen=True)
class OrganChange:
    """One structure in two images.

    Args:
        name: Of the class.
        first_ml: Volume in the first image.
        second_ml: In the second.
        dice: Overlap.
        moved_mm: Distance between the centres of mass; None where one of them lacks the structure.
    """

    name: str
    first_ml: float
    second_ml: float
    dice: float
    moved_mm: float | None

    @property
    def remark(self) -> str:
        """`missing` or `only in the second` where an image lacks the structure, else nothing."""
        if self.first_ml >= SMALLEST_ML and self.second_ml < GONE * self.first_ml:
            return "missing"
        if self.second_ml >= SMALLEST_ML and self.first_ml < GONE * self.second_ml:
            return "only in the second"
        return ""


def compare_anatomy(first: Volume, second: Volume) -> list[OrganChange]:
    """Every organ and bone that one of two label maps has, largest first; tissues that fill gaps are left out.

    Args:
        first: Ids as `see_anatomy` writes them.
        second: The same of another image of the patient, in the same place; any grid. What it does not cover counts in
            neither: an organ beyond its end isn't missing.

    Raises:
        InputError: The two share no place.
    """
    if not second.geometry.same_grid(first.geometry):
        second = resample(second, first.geometry, interpolation="nearest", outside=IGNORE)
    a, b = (v.array.astype(np.uint8) for v in (first, second))
    if not (b != IGNORE).any():
        raise InputError(
            second.name,
            found="no voxel where the first image is",
            expected="an image in the same place",
            advice="register the two first",
        )
    a = np.where(b == IGNORE, 0, a)
    ml = first.geometry.voxel_volume_mm3 / 1000
    counts = [np.bincount(v.ravel(), minlength=256) * ml for v in (a, b)]
    both = np.bincount(a[a == b].ravel(), minlength=256) * ml
    changes = []
    for k, entry in enumerate(CLASSES):
        one, other = (float(c[FILE_IDS[k]]) for c in counts)  # IGNORE is nobody's id
        if not entry.ids or max(one, other) < SMALLEST_ML:
            continue
        centres = [_centre(v, int(FILE_IDS[k]), first) for v in (a, b)] if min(one, other) > 0 else None
        changes.append(
            OrganChange(
                NAMES[k],
                one,
                other,
                2 * float(both[FILE_IDS[k]]) / (one + other),
                None if centres is None else float(np.linalg.norm(centres[0] - centres[1])),
            )
        )
    return sorted(changes, key=lambda c: -c.first_ml)


def _centre(labels: np.ndarray, value: int, grid: Volume) -> np.ndarray:
    index = np.argwhere(labels == value).mean(0)[::-1]
    return np.asarray(grid.geometry.to_physical(index[None])[0])
