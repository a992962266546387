"""Organ agreement: Dice from one pass of confusion counts, HD95 from cropped exact distances.

Classes are ids of TotalSegmentator's `total` task (version 2). Dice = 2 |A and B| / (|A| + |B|).
HD95 is the larger of the two directed 95th percentiles of distances between edge voxels, in mm; an edge voxel
has at least one of its six neighbours outside the organ (the image's border counts as outside). This is
MONAI's `HausdorffDistanceMetric(percentile=95, include_background=True)`, which the challenge calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import edt
import numpy as np
import torch
from scipy.ndimage import find_objects

from sctlab.evaluation.class_names import CLASS_NAMES
from sctlab.measures.overlap import confusion_counts, dice_of_counts
from sctlab_model.cases import Region
from sctlab_model.volume import Volume

_TRUNK = (2, 3, 5, 6, *range(10, 15), *range(26, 51), 51, 79, *range(92, 116), 116)
REGION_CLASSES: dict[Region, tuple[int, ...]] = {
    Region.AB: _TRUNK,
    Region.TH: _TRUNK,
    Region.HN: (15, 16, 17, *range(26, 51), 79, 90, 91),
}


@dataclass(frozen=True)
class OrganScore:
    """One class of one case.

    Args:
        label: Class id.
        dice: Dice coefficient; 0 for an organ that the prediction lost.
        hd95: 95th percentile Hausdorff distance in mm; NaN for a lost organ.
    """

    label: int
    dice: float
    hd95: float

    @property
    def lost(self) -> bool:
        """Whether the reference has the organ and the prediction hasn't."""
        return math.isnan(self.hd95)

    @property
    def name(self) -> str:
        """TotalSegmentator's name of the class."""
        return CLASS_NAMES.get(self.label, f"class {self.label}")


@dataclass(frozen=True)
class OrganMetrics:
    """Means over the classes of one case, and the classes.

    Args:
        dice: Mean Dice over classes present in the reference; 0 when none is.
        hd95: Mean HD95 over those that the prediction has too; 0 when the reference has none of the classes,
            NaN when the prediction lost them all.
        organs: Scores of the classes present in the reference.
        invented: Classes that only the prediction has. The challenge doesn't count them; we list them.
    """

    dice: float
    hd95: float
    organs: tuple[OrganScore, ...] = ()
    invented: tuple[int, ...] = field(default=())


def organ_metrics(
    prediction_labels: np.ndarray,
    reference_labels: np.ndarray,
    classes: Sequence[int],
    spacing_zyx: Sequence[float],
    *,
    threads: int | None = None,
    device: str | torch.device = "cpu",
) -> OrganMetrics:
    """Dice and HD95 per class and their means.

    Args:
        prediction_labels: Label ids, integers, axes z, y, x.
        reference_labels: Same shape.
        classes: Ids that count, a region's list from `REGION_CLASSES`.
        spacing_zyx: Voxel pitch in mm.
        threads: Organs worked on at a time on the CPU; as many as torch has threads when left out.
        device: `cpu`, or a CUDA device for both counting and distances.

    Raises:
        ValueError: Shapes differ or labels aren't integers.
    """
    if prediction_labels.shape != reference_labels.shape:
        raise ValueError(f"shapes differ: {prediction_labels.shape} and {reference_labels.shape}")
    predicted, reference = (_compact(a, classes) for a in (prediction_labels, reference_labels))
    confusion = confusion_counts(predicted, reference, len(classes) + 1, device=device)
    present = [i for i in range(1, len(classes) + 1) if confusion[i].sum() > 0]
    invented = tuple(
        int(classes[i - 1]) for i in range(1, len(classes) + 1) if confusion[i].sum() == 0 and confusion[:, i].sum() > 0
    )
    if not present:
        return OrganMetrics(0.0, 0.0, (), invented)
    dice = dice_of_counts(confusion)
    boxes_predicted, boxes_reference = (find_objects(a, len(classes)) for a in (predicted, reference))

    def distance(index: int) -> float:
        if boxes_predicted[index - 1] is None:
            return math.nan
        box = _union(boxes_predicted[index - 1], boxes_reference[index - 1])
        return hd95(predicted[box] == index, reference[box] == index, spacing_zyx, device=device)

    with ThreadPoolExecutor((threads or torch.get_num_threads()) if str(device) == "cpu" else 1) as pool:
        distances = list(pool.map(distance, present))
    organs = tuple(OrganScore(int(classes[i - 1]), float(dice[i]), d) for i, d in zip(present, distances, strict=True))
    defined = [o.hd95 for o in organs if not o.lost]
    return OrganMetrics(
        dice=float(np.mean([o.dice for o in organs])),
        hd95=float(np.mean(defined)) if defined else math.nan,
        organs=organs,
        invented=invented,
    )


def region_metrics(predicted: Volume, reference: Volume, region: Region | None) -> OrganMetrics:
    """`organ_metrics` of two label volumes with the region's classes; the abdomen's where the region isn't known."""
    classes = REGION_CLASSES[region if region is not None else Region.AB]
    return organ_metrics(predicted.array, reference.array, classes, reference.geometry.spacing_xyz[::-1])


def hd95(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx: Sequence[float], *, device: str | torch.device = "cpu"
) -> float:
    """Symmetric 95th percentile Hausdorff distance of two non-empty boolean arrays, in mm.

    The arrays may be crops, as long as the crop holds both organs whole.
    """
    edges = _edges(prediction), _edges(reference)
    directed = [_directed(a, b, spacing_zyx, device) for a, b in (edges, edges[::-1])]
    return max(directed)


def _directed(edges: np.ndarray, target: np.ndarray, spacing_zyx: Sequence[float], device: str | torch.device) -> float:
    """95th percentile over `edges` of the distance to the nearest voxel of `target`."""
    if str(device) == "cpu":
        distances = torch.from_numpy(edt.edt(~target, anisotropy=tuple(spacing_zyx), parallel=1)[edges])
    else:
        distances = _nearest(edges, target, spacing_zyx, device)
    # torch's quantile in float32, as MONAI's: its rank rounds in float32, which NumPy's doesn't
    return float(torch.quantile(distances.float(), 0.95))


def _nearest(
    edges: np.ndarray, target: np.ndarray, spacing_zyx: Sequence[float], device: str | torch.device
) -> torch.Tensor:
    """Distances by brute force, float64, in pieces: what a GPU is good at. Edges that coincide cost nothing."""
    scale = torch.tensor(tuple(spacing_zyx), dtype=torch.float64, device=device)
    distances = torch.zeros(int(edges.sum()), dtype=torch.float64, device=device)
    points = torch.from_numpy(np.argwhere(target)).to(device) * scale
    apart = ~torch.from_numpy(target[edges]).to(device)
    queries = torch.from_numpy(np.argwhere(edges)).to(device)[apart] * scale
    piece = max(1, 2**24 // max(1, len(points)))
    found = [torch.cdist(q, points, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for q in queries.split(piece)]
    if found:
        distances[apart] = torch.cat(found)
    return distances


def _edges(organ: np.ndarray) -> np.ndarray:
    """Voxels of the organ that an erosion with the 6-neighbourhood removes; outside the array is outside."""
    core = np.zeros_like(organ)
    inner = core[1:-1, 1:-1, 1:-1]
    if inner.size:
        np.logical_and(organ[:-2, 1:-1, 1:-1], organ[2:, 1:-1, 1:-1], out=inner)
        inner &= organ[1:-1, :-2, 1:-1]
        inner &= organ[1:-1, 2:, 1:-1]
        inner &= organ[1:-1, 1:-1, :-2]
        inner &= organ[1:-1, 1:-1, 2:]
    return organ & ~core


def _compact(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Class ids to 1, 2, … in the order of `classes`; everything else to 0."""
    if labels.dtype.kind not in "iub":
        rounded = np.rint(labels)
        if not np.array_equal(rounded, labels):
            raise ValueError("labels aren't integers")
        labels = rounded.astype(np.int32)
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0:
        labels = np.clip(labels, 0, None)
    table = np.zeros(max(high, *classes) + 1, np.uint8)
    table[list(classes)] = np.arange(1, len(classes) + 1)
    return table[labels]


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
