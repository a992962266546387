"""A registration against a simulated truth: target registration error, and the HU that a perfect sCT would be off by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from sctlab.registration.pairs import Pair
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import AffineTransform, Transform
from sctlab.transforms.field import displacement_field
from sctlab.transforms.invert import invert
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import find_image
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import Volume

EDGE_HU_PER_MM = 25.0  # fat against muscle, blurred over a 3 mm voxel, and everything sharper


def tissue_edges(ct: Volume, mask: np.ndarray, threshold: float = EDGE_HU_PER_MM) -> np.ndarray:
    """Where two tissues meet: voxels of `mask` [z, y, x] with a CT gradient above `threshold` HU/mm."""
    values = ndimage.gaussian_filter(np.clip(ct.array.astype(np.float32), -1000, 1000), 0.5)
    gradient = np.gradient(values, *ct.geometry.spacing_xyz[::-1])
    return mask & (np.sqrt(sum(g**2 for g in gradient)) > threshold)


def target_registration_error(
    transform: Transform, truth: Transform, ct_on_fixed: Volume, mask: np.ndarray, excluded: np.ndarray | None = None
) -> dict[str, dict[str, float]]:
    """|transform(x) − truth(x)| in mm over the body and over tissue edges.

    Args:
        transform, truth: From fixed to moving points.
        ct_on_fixed: The true CT on the fixed grid; its gradients tell the edges.
        mask: Where points count [z, y, x], on the same grid.
        excluded: Where no transform can be right (content that came or went).
    """
    grid = ct_on_fixed.geometry
    if excluded is not None:
        mask = mask & ~excluded
    difference = displacement_field(transform, grid).vectors - displacement_field(truth, grid).vectors
    error = np.sqrt((difference**2).sum(0))
    parts = {"body": error[mask], "edges": error[tissue_edges(ct_on_fixed, mask)]}
    return {name: summarise_errors(values) for name, values in parts.items() if values.size}


def summarise_errors(values: np.ndarray) -> dict[str, float]:
    """Mean, median and 95th percentile."""
    return {"mean": float(values.mean()), "median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def measure_truth(pair: Pair, transform: Transform) -> dict[str, Any] | None:
    """TRE and HU floor of a simulated case; None without a truth folder.

    The stored truth maps source points to CT points. Under `source_to_ct` it is inverted numerically (its error
    is reported) and there is no HU floor, because the CT isn't resampled.
    """
    folder = pair.truth
    if folder is None or not (folder / "deformation.h5").is_file():
        return None
    truth = read_itk(folder / "deformation.h5")
    result: dict[str, Any] = {}
    mask = pair.fixed_mask.array
    if pair.ct_is_fixed:
        truth, error = invert(truth, pair.fixed.geometry)
        result["inverse_of_truth_mm"] = {"mean": error.mean_mm, "p95": error.p95_mm, "missing": error.missing}
        reference = pair.fixed
        # Only where the source image has data does the truth say anything.
        mask = mask & field_of_view(pair.moving.geometry, truth, pair.fixed.geometry).array
    else:
        path = find_image(folder, "ct_aligned")
        aligned = read_volume(path) if path else None
        reference = aligned or apply_to_image(pair.moving, truth, pair.fixed.geometry, outside=pair.outside)
        mask = mask & field_of_view(pair.moving.geometry, truth, pair.fixed.geometry).array
    changed = _excluded(folder, pair, truth)
    result["tre_mm"] = target_registration_error(transform, truth, reference, mask, changed)
    if not pair.ct_is_fixed:
        registered = apply_to_image(pair.moving, transform, pair.fixed.geometry, outside=pair.outside)
        valid = mask & field_of_view(pair.moving.geometry, transform, pair.fixed.geometry).array
        valid = valid if changed is None else valid & ~changed
        difference = np.abs(registered.array.astype(np.float32) - reference.array.astype(np.float32))[valid]
        result["hu_floor"] = {"mae": float(difference.mean()), "p95": float(np.percentile(difference, 95))}
    return result


def _excluded(folder: Path, pair: Pair, truth: Transform) -> np.ndarray | None:
    """Voxels of changed content on the fixed grid; the file is on the source's."""
    path = find_image(folder, "content_changed")
    if path is None:
        return None
    changed = read_mask(path)
    to_source = truth if pair.ct_is_fixed else AffineTransform(np.eye(3))
    return apply_to_labels(changed, to_source, pair.fixed.geometry).array > 0
