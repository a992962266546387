"""A patient ready to be imaged: HU, tissue and labels on one grid, in the pose of the planning CT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sctlab_model.volume import Geometry


@dataclass(frozen=True)
class Phantom:
    """What simulation starts from, procedural or real.

    Args:
        hu: CT numbers without noise, float32 [z, y, x].
        tissue: `Tissue` codes, uint8.
        label: TotalSegmentator v2 `total` ids, uint8; 0 where nothing is labelled. Ids from 200 are private
            (rigid parts that `total` does not tell apart) and are mapped by `public_labels`.
        geometry: The grid (axes LPS).
    """

    hu: np.ndarray
    tissue: np.ndarray
    label: np.ndarray
    geometry: Geometry

    def with_hu(self, hu: np.ndarray) -> Phantom:
        """The same patient with other CT numbers."""
        return replace(self, hu=hu)


MANDIBLE = 200  # moves against the skull; `total` counts it as skull (91)
SPINE = 201  # unlabelled bone of the spine or the thorax: marrow that is half fat
CONVERTED_BONE = 202  # unlabelled bone of skull, pelvis or limbs: marrow that is nearly all fat


def public_labels(label: np.ndarray) -> np.ndarray:
    """TotalSegmentator ids for files: private ids are mapped to the structure they belong to, or to none."""
    public = np.arange(256, dtype=np.uint8)
    public[200:] = 0
    public[MANDIBLE] = 91
    return public[label]
