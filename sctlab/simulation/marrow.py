"""How much of the marrow is fat, by bone, age and patient.

Vertebrae 30 % in the young to 60 % in the old (Schellinger et al., AJNR 2004; Griffith et al., MRM 2012), ribs and sternum
alike; pelvis, skull and long bones 80 to 95 % (Vande Berg et al., Skeletal Radiol 1998: conversion from the limbs inwards).
"""

from __future__ import annotations

import numpy as np

from sctlab.simulation.phantom import CONVERTED_BONE, MANDIBLE, SPINE
from sctlab.simulation.tissues import Tissue

# TotalSegmentator ids (and private ones) → share of fat at 20 and at 85 years
_AXIAL, _CONVERTED, _BETWEEN = (0.30, 0.60), (0.80, 0.95), (0.55, 0.80)
BY_BONE: dict[int, tuple[float, float]] = {
    **dict.fromkeys(range(26, 51), _AXIAL), SPINE: _AXIAL, **dict.fromkeys(range(92, 117), (0.35, 0.60)),
    25: _BETWEEN, **dict.fromkeys((71, 72, 73, 74), _BETWEEN),
    **dict.fromkeys((69, 70, 75, 76, 77, 78, 91, MANDIBLE, CONVERTED_BONE), _CONVERTED),
}  # fmt: skip


def sample_marrow_fat(rng: np.random.Generator) -> np.ndarray:
    """Share of fat in the marrow of every bone of one patient, indexed by label [256]; unlabelled bone lies between."""
    age = rng.random()
    table = np.full(256, 0.45 + 0.25 * age, np.float32)
    for label, (young, old) in BY_BONE.items():
        table[label] = young + age * (old - young)
    return np.clip(table + rng.normal(0, 0.03) + rng.normal(0, 0.01, 256), 0.15, 0.97).astype(np.float32)


def marrow_fat(table: np.ndarray, label: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Share of fat in every voxel's marrow, float32; yellow marrow has at least 80 %."""
    fat = table[label]
    yellow = tissue == Tissue.YELLOW_MARROW
    fat[yellow] = np.maximum(fat[yellow], 0.8 + 0.2 * (table[75] - 0.8))
    return fat
