"""The classes of the anatomy network: TotalSegmentator's `total` ids merged into groups that 3 mm can hold.

A class is written to files as the first `total` id of its group; classes that `total` does not know (soft tissue that is
left over, gas) have ids from 201. A reference is brought to the same groups by `merge_total` before Dice is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab_model.cases import Region

IGNORE = 255  # no class is known there: neither loss nor score counts it


@dataclass(frozen=True)
class AnatomyClass:
    """A group of structures.

    Args:
        name: In words, for tables.
        ids: TotalSegmentator v2 `total` ids that belong to it; empty for what `total` does not label.
        region: Which region a slice belongs to that shows it; None where it says nothing.
    """

    name: str
    ids: tuple[int, ...]
    region: Region | None = None


_HN, _TH, _AB = Region.HN, Region.TH, Region.AB
CLASSES: tuple[AnatomyClass, ...] = (
    AnatomyClass("background", ()),
    AnatomyClass("spleen", (1,), _AB),
    AnatomyClass("kidney_right", (2, 24), _AB),
    AnatomyClass("kidney_left", (3, 23), _AB),
    AnatomyClass("gallbladder", (4,), _AB),
    AnatomyClass("liver", (5,), _AB),
    AnatomyClass("stomach", (6,), _AB),
    AnatomyClass("pancreas", (7,), _AB),
    AnatomyClass("lungs", (10, 11, 12, 13, 14), _TH),
    AnatomyClass("esophagus", (15,)),
    AnatomyClass("airway", (16,)),
    AnatomyClass("thyroid", (17,), _HN),
    AnatomyClass("bowel", (18, 19, 20), _AB),
    AnatomyClass("urinary_bladder", (21,), _AB),
    AnatomyClass("prostate", (22,), _AB),
    AnatomyClass("sacrum", (25, 26), _AB),
    AnatomyClass("spine", tuple(range(27, 51))),
    AnatomyClass("heart", (51, 53, 61), _TH),
    AnatomyClass("aorta", (52,)),
    AnatomyClass("great_vessels", (63, 54, 55, 56, 57, 58, 59, 60, 62, 64)),
    AnatomyClass("iliac_vessels", (65, 66, 67, 68), _AB),
    AnatomyClass("humeri", (69, 70), _TH),
    AnatomyClass("shoulder_girdle", (71, 72, 73, 74), _TH),
    AnatomyClass("femora", (75, 76), _AB),
    AnatomyClass("hips", (77, 78), _AB),
    AnatomyClass("spinal_cord", (79,)),
    AnatomyClass("gluteal_muscles", (80, 81, 82, 83, 84, 85), _AB),
    AnatomyClass("back_muscles", (86, 87)),
    AnatomyClass("iliopsoas", (88, 89), _AB),
    AnatomyClass("brain", (90,), _HN),
    AnatomyClass("skull", (91,), _HN),
    AnatomyClass("mandible", (), _HN),
    AnatomyClass("ribs", tuple(range(92, 116)), None),
    AnatomyClass("sternum", (116, 117), _TH),
    AnatomyClass("outer_fat", ()),
    AnatomyClass("inner_fat", ()),
    AnatomyClass("other_soft_tissue", ()),
    AnatomyClass("gas", ()),
)
NAMES = tuple(c.name for c in CLASSES)
INDEX = {name: k for k, name in enumerate(NAMES)}
BONES = tuple(
    INDEX[name]
    for name in (
        "sacrum", "spine", "humeri", "shoulder_girdle", "femora", "hips", "skull", "mandible", "ribs", "sternum",
    )
)  # fmt: skip
# What no contrast medium makes as dense as bone: the others are bones, hold blood or its filtrate, or can be filled with a medium.
SOFT = tuple(
    INDEX[name]
    for name in (
        "liver", "pancreas", "lungs", "esophagus", "airway", "prostate", "spinal_cord", "gluteal_muscles", "back_muscles",
        "iliopsoas", "brain", "outer_fat", "inner_fat", "other_soft_tissue", "gas",
    )
)  # fmt: skip
_PRIVATE = {"mandible": 91}  # to `total` the mandible is skull


def _file_ids() -> np.ndarray:
    ids, own = np.zeros(len(CLASSES), np.uint8), 201
    for k, entry in enumerate(CLASSES[1:], 1):
        if entry.ids:
            ids[k] = entry.ids[0]
        elif entry.name in _PRIVATE:
            ids[k] = _PRIVATE[entry.name]
        else:
            ids[k], own = own, own + 1
    return ids


FILE_IDS = _file_ids()  # class → id in files


def _of_total() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    for k, entry in enumerate(CLASSES):
        for total in entry.ids:
            table[total] = k
    for k, file_id in enumerate(FILE_IDS):
        if file_id > 200:
            table[file_id] = k
    return table


OF_TOTAL = _of_total()  # `total` id, or an id of our own files → class


def to_classes(labels: np.ndarray) -> np.ndarray:
    """Classes of a map of `total` ids (or of our own files), uint8; ids of no group are background.

    The mandible is part of `total`'s skull, and stays skull.
    """
    return OF_TOTAL[np.clip(labels, 0, 255).astype(np.uint8)]


def merge_total(labels: np.ndarray) -> np.ndarray:
    """A map of `total` ids with every group under the id that our files use, so that it can be compared with one."""
    merged = FILE_IDS[to_classes(labels)]
    merged[merged > 200] = 0
    return merged


def slice_regions(classes: np.ndarray) -> np.ndarray:
    """Region of every slice of a class map [z, y, x]: index into `list(Region)`, or IGNORE where nothing tells.

    The region whose telling structures hold most voxels.
    """
    regions = list(Region)
    counts = np.zeros((len(classes), len(regions)))
    for k, entry in enumerate(CLASSES):
        if entry.region is not None:
            counts[:, regions.index(entry.region)] += (classes == k).sum((1, 2))
    found = counts.argmax(1).astype(np.uint8)
    found[counts.sum(1) < 20] = IGNORE
    return found
