"""How far a registration can be trusted: similarity before and after, overlap, the field itself; and against truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sctlab.measures.jacobian import jacobian_determinant
from sctlab.measures.overlap import confusion_counts, dice, dice_of_counts
from sctlab.measures.similarity import edge_agreement, normalised_mutual_information
from sctlab.registration.pairs import Pair
from sctlab.registration.records import QualityRecord
from sctlab.transforms.apply import apply_to_image, apply_to_labels, field_of_view
from sctlab.transforms.data import AffineTransform, DisplacementField, Transform
from sctlab.transforms.field import displacement_field, grid_points
from sctlab.transforms.invert import inverse_consistency
from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import InputError, ProductError
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import Geometry, Volume, resample, triple

MEASURE_MM = 3.0  # similarity is measured at this spacing: features of a full grid would take gigabytes
LOCAL_MM = 12.0  # standard deviation of the windows in which agreement is looked at locally
IDENTITY = AffineTransform(np.eye(3))


def measure(
    pair: Pair,
    transform: Transform,
    *,
    backward: Transform | None = None,
    spread: Volume | None = None,
) -> QualityRecord:
    """Every measure of a registration that needs no truth.

    Args:
        pair: The images.
        transform: From fixed points to moving points.
        backward: A registration of the same pair with the roles exchanged, for inverse consistency.
        spread: Standard deviation of several presets' fields in mm, on the fixed grid.

    Returns:
        `similarity` (before, after: NMI, feature distance, edges), `local_gain`, `overlap` (Dice of bodies and labels, before
        and after, share of the body with data), `field` (displacements, deformation beyond a rigid motion,
        Jacobian), `inverse_consistency_mm`, `preset_spread_mm` (None where not measured).
    """
    grid = measure_grid(pair)
    mask = resample(pair.fixed_mask, grid, interpolation="nearest")
    field = displacement_field(transform, grid)
    steps: dict[str, Transform] = {"before": IDENTITY, "after": field}
    fixed = _smooth_resample(pair.fixed, grid)
    moving = anti_aliased(pair.moving, MEASURE_MM)
    views = {name: field_of_view(pair.moving.geometry, t, grid).array for name, t in steps.items()}
    region = mask.array & views["before"] & views["after"]
    if region.sum() < 100:
        region = mask.array & views["after"]
    similarity: dict[str, Any] = {}
    overlap: dict[str, Any] = {"field_of_view": float(views["after"][mask.array].mean())}
    bodies = _bodies(pair, grid)
    warped = {
        name: apply_to_image(moving, step, grid, interpolation="linear", outside=pair.outside)
        for name, step in steps.items()
    }
    distances = feature_distances(fixed, list(warped.values()), region)
    for (name, step), distance in zip(steps.items(), distances, strict=True):
        similarity[name] = {
            "nmi": normalised_mutual_information(fixed.array[region], warped[name].array[region]),
            "feature_distance": float(distance.mean()) if distance.size else 1.0,
            "edges": edge_agreement(fixed, warped[name], region),
        }
        overlap[name] = {
            "body_dice": body_dice(step, grid, bodies, views[name]),
            "label_dice": label_dice(pair, IDENTITY if name == "before" else transform),
        }
    return QualityRecord(
        similarity=similarity,
        local_gain=local_gain(distances[0], distances[1], region, grid),
        overlap=overlap,
        field=field_measures(field, mask.array),
        inverse_consistency_mm=None
        if backward is None
        else _summary(inverse_consistency(transform, backward, grid, region)),
        preset_spread_mm=None if spread is None else _summary(spread.array[pair.fixed_mask.array]),
    )


def measure_grid(pair: Pair) -> Geometry:
    """The box around the fixed body at about 3 mm (its own spacing where that is coarser)."""
    index = np.argwhere(pair.fixed_mask.array)
    low, high = index.min(0)[::-1], index.max(0)[::-1]
    margin = np.ceil(4 * MEASURE_MM / np.array(pair.fixed.geometry.spacing_xyz)).astype(int)
    low = np.maximum(low - margin, 0)
    high = np.minimum(high + margin, np.array(pair.fixed.geometry.size_xyz) - 1)
    box = pair.fixed.geometry.cropped(triple(int(n) for n in low), triple(int(n) for n in high - low + 1))
    grid = box.resized(triple(max(MEASURE_MM, s) for s in box.spacing_xyz))
    return grid if min(grid.size_xyz) > 1 else box


# --- similarity -------------------------------------------------------------------------------------


def feature_distances(fixed: Volume, warped: Sequence[Volume], region: np.ndarray) -> list[np.ndarray]:
    """Absolute difference of MIND-SSC features of each image to the fixed one's (0 to 1) at the voxels of `region`."""
    import torch

    from sctlab.features import MindSSC

    extractor = MindSSC()
    inside = torch.from_numpy(region)

    def features(volume: Volume) -> torch.Tensor:
        image = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
        return extractor(image[None, None])[0][0][:, inside]

    with torch.inference_mode():
        reference = features(fixed)
        return [(features(v) - reference).abs_().mean(0).numpy() for v in warped]


def local_gain(before: np.ndarray, after: np.ndarray, region: np.ndarray, grid: Geometry) -> dict[str, float] | None:
    """Where registration made things worse: a mean over the body hides an error in one place.

    Args:
        before, after: Feature distances at the voxels of `region`, which lies on `grid`.

    Returns:
        Distance before minus after in Gaussian windows (of `LOCAL_MM`, inside the region), as multiples of the
        mean distance after: median, the worst 5 % and the worst window. None without a region.
    """
    from scipy.ndimage import gaussian_filter

    if not region.any():
        return None
    sigma = LOCAL_MM / np.array(grid.spacing_xyz[::-1])
    gain = np.zeros(region.shape, np.float32)
    gain[region] = before - after
    share = gaussian_filter(region.astype(np.float32), sigma, mode="constant")[region]
    windows = gaussian_filter(gain, sigma, mode="constant")[region] / np.maximum(share, 1e-9)
    windows = windows[share > 0.3] if (share > 0.3).any() else windows
    windows = windows / max(float(after.mean()), 1e-6)
    return {
        "median": float(np.median(windows)),
        "worst_5_percent": float(np.percentile(windows, 5)),
        "worst": float(windows.min()),
    }


# --- overlap ----------------------------------------------------------------------------------------


def body_dice(step: Transform, grid: Geometry, bodies: tuple[Volume, Volume] | None, view: np.ndarray) -> float | None:
    """Dice of the two images' own body masks where the moving image has data; None where a body isn't found."""
    if bodies is None:
        return None
    fixed, moving = bodies
    warped = apply_to_labels(moving, step, grid).array > 0
    value = dice((fixed.array > 0) & view, warped & view)
    return None if math.isnan(value) else value


def label_dice(pair: Pair, step: Transform) -> dict[str, float] | None:
    """Mean Dice over the labels that both images have, and the Dice of each; None without labels on both grids.

    Labels are the positive numbers: 0 is the background, and a negative one ("not drawn", "unknown") counts as that.
    """
    if pair.moving_labels is None or pair.fixed_labels is None:
        return None
    grid = pair.fixed.geometry
    warped = np.maximum(apply_to_labels(pair.moving_labels, step, grid).array, 0)
    view = field_of_view(pair.moving.geometry, step, grid).array
    fixed = np.where(view, np.maximum(pair.fixed_labels.array, 0), 0)
    count = int(max(fixed.max(), warped.max())) + 1
    joint = confusion_counts(warped, fixed, count)
    scores, there = dice_of_counts(joint), np.isin(np.arange(count), pair.moving_labels.array)
    each = {str(i): float(scores[i]) for i in range(1, count) if joint[i].any() and there[i]}
    return {"mean": float(np.mean(list(each.values()))), **each} if each else None


def _bodies(pair: Pair, grid: Geometry) -> tuple[Volume, Volume] | None:
    try:
        kinds = [Task.MRI if name == "mr" else Task.CBCT for name in (pair.fixed_name, pair.moving_name)]
        fixed = resample(pair.fixed, grid, interpolation="linear", outside=0)
        return body_mask(fixed, kinds[0]), body_mask(pair.moving, kinds[1])
    except ProductError:
        return None


# --- the field --------------------------------------------------------------------------------------


def field_measures(field: DisplacementField, mask: np.ndarray) -> dict[str, Any]:
    """Displacement, deformation and Jacobian inside `mask` [z, y, x].

    `deformation_mm` is what remains of the displacements after the best rigid motion. `folds` is the share of
    voxels with a Jacobian determinant of at most 0.
    """
    points = grid_points(field.grid)[mask]
    vectors = np.moveaxis(field.vectors, 0, -1)[mask]
    determinant = jacobian_determinant(field)[mask]
    return {
        "displacement_mm": _summary(np.linalg.norm(vectors, axis=1)),
        "deformation_mm": _summary(
            np.linalg.norm(points + vectors - best_rigid(points, points + vectors)(points), axis=1)
        ),
        "jacobian": {
            "minimum": float(determinant.min()),
            "p1": float(np.percentile(determinant, 1)),
            "p99": float(np.percentile(determinant, 99)),
            "maximum": float(determinant.max()),
            "log_std": float(np.std(np.log(np.maximum(determinant, 1e-3)))),
            "folds": float((determinant <= 0).mean()),
        },
    }


def best_rigid(points: np.ndarray, moved: np.ndarray) -> AffineTransform:
    """The rigid motion nearest to a set of displacements (Kabsch, Acta Cryst A32, 1976)."""
    centre, moved_centre = points.mean(0), moved.mean(0)
    u, _, vt = np.linalg.svd((points - centre).T @ (moved - moved_centre))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    return AffineTransform(vt.T @ flip @ u.T, tuple(moved_centre - centre), tuple(centre))


def _summary(values: np.ndarray) -> dict[str, float]:
    if values.size == 0:
        raise InputError("quality", found="no voxels to measure", expected="a body with data in both images")
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
    }


def _smooth_resample(volume: Volume, grid: Geometry) -> Volume:
    edge = float(np.percentile(volume.array, 1))
    return resample(anti_aliased(volume, MEASURE_MM), grid, interpolation="linear", outside=edge)
