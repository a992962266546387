"""Scores of arrays or volumes in memory: what a notebook calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sctlab.evaluation.organs import REGION_CLASSES, OrganMetrics, organ_metrics
from sctlab.evaluation.steps import finite
from sctlab.evaluation.tissues import TissueError, tissue_errors
from sctlab.measures.image import image_metrics
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

Image = np.ndarray | Volume


@dataclass(frozen=True)
class Scores:
    """Scores of one synthetic CT.

    Args:
        metrics: Key of `definitions.METRICS` and value; None where it is undefined.
        tissues: Errors by tissue of the reference.
        organs: Dice and HD95 of every class; None without labels.
    """

    metrics: dict[str, float | None]
    tissues: dict[str, TissueError] = field(default_factory=dict)
    organs: OrganMetrics | None = None


def evaluate(
    sct: Image,
    ct: Image,
    mask: Image,
    *,
    sct_labels: Image | None = None,
    ct_labels: Image | None = None,
    region: Region | str = Region.AB,
    spacing_xyz: Sequence[float] | None = None,
    device: str = "cpu",
) -> Scores:
    """Score a synthetic CT against a reference CT.

    Args:
        sct, ct: HU, arrays with axes z, y, x (or volumes), one shape; compared voxel by voxel as the challenge does.
        mask: Body mask, above 0 inside.
        sct_labels, ct_labels: Class ids of TotalSegmentator's `total` task; both or none.
        region: Whose classes count.
        spacing_xyz: Voxel pitch in mm for the distances; the reference's where that is a volume.
        device: `cpu` or a CUDA device.

    Raises:
        InputError: Shapes differ, the mask is empty, only one label map, or no spacing for arrays with labels.

    Example:
        >>> ct = np.zeros((4, 8, 8)); ct[:, 2:6, 2:6] = 50
        >>> scores = evaluate(ct + 10, ct, ct > 0)
        >>> scores.metrics["mae"]
        10.0
    """
    arrays = [_array(image) for image in (sct, ct, mask)]
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1:
        raise InputError("evaluate", found=f"shapes {sorted(shapes)}", expected="one shape of sct, ct and mask")
    inside = arrays[2] > 0
    if not inside.any():
        raise InputError("evaluate", found="an empty mask", expected="a body mask")
    scores = image_metrics(arrays[0], arrays[1], inside, device=device)
    metrics: dict[str, float | None] = {k: finite(v) for k, v in scores.as_dict().items()}
    organs = None
    if (sct_labels is None) != (ct_labels is None):
        raise InputError("evaluate", found="labels of one image", expected="labels of both, or of none")
    if sct_labels is not None and ct_labels is not None:
        if spacing_xyz is None:
            if not isinstance(ct, Volume):
                raise InputError("evaluate", found="arrays without spacing_xyz", expected="the voxel pitch in mm")
            spacing_xyz = ct.geometry.spacing_xyz
        classes = REGION_CLASSES[Region.parse(str(region), "region")]
        organs = organ_metrics(_array(sct_labels), _array(ct_labels), classes, tuple(spacing_xyz)[::-1], device=device)
        metrics |= {"DICE": finite(organs.dice), "HD95": finite(organs.hd95)}
    return Scores(metrics, tissue_errors(arrays[0], arrays[1], inside), organs)


def _array(image: Image) -> np.ndarray:
    return image.array if isinstance(image, Volume) else np.asarray(image)
