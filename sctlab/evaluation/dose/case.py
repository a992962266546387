"""Dose metrics of one case: target and organs from labels, both images on the dose grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sctlab.evaluation.class_names import CLASS_NAMES
from sctlab.evaluation.dose.calculation import Anatomy, calculate_doses
from sctlab.evaluation.dose.gamma import gamma_pass_rate
from sctlab.evaluation.dose.metrics import dose_metrics, volume_histogram
from sctlab.evaluation.dose.plan import TARGET_RADIUS_MM, Modality, default_plan
from sctlab.evaluation.images import Images
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

SUFFIX = {"photons": "photon", "protons": "proton"}


def score_dose(
    modality: Modality,
    images: Images,
    labels: Volume | None,
    target_label: int | None,
    region: Region | None,
    cache: Path | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Plan on the reference CT, calculate on both images, and compare.

    Args:
        labels: Of the reference, on its grid: organs at risk, and the target where `target_label` is given.
        target_label: None takes a ball of 12.5 mm radius at the mask's centre.
        cache: Folder for doses.

    Returns:
        Metrics by key (`dose_mae_photon`, …), and the plan with its curves for the record.

    Raises:
        InputError: A rotated grid, no such target, or what `calculate_doses` raises.
    """
    plan = default_plan(modality, region)
    if not np.allclose(images.reference.geometry.axes, np.eye(3), atol=1e-4):
        raise InputError(images.reference.name, found="a rotated or flipped grid", expected="axes along the patient's")
    grid = images.reference.geometry.resized((plan.grid_mm,) * 3)
    body = _nearest(images.reference.with_array(images.mask.astype(np.uint8)), grid) > 0
    coarse = None if labels is None else _nearest(labels, grid)
    if target_label is not None:
        if coarse is None or not (coarse == target_label).any():
            raise InputError("--target", found=f"no voxel of label {target_label}", expected="a label of the reference")
        target = coarse == target_label
    else:
        target = _ball(body, grid.spacing_xyz)
    ct, sct = (
        np.where(body, resample(v.with_array(v.array.astype(np.float32)), grid, outside=AIR_HU).array, AIR_HU)
        for v in (images.reference, images.prediction)
    )
    on_ct, on_sct = calculate_doses(ct, [ct, sct], Anatomy(target, body, grid.spacing_xyz), plan, cache)
    organs = {
        CLASS_NAMES.get(int(i), f"class {i}"): coarse == i
        for i in (np.unique(coarse) if coarse is not None else ())
        if i not in (0, target_label)
    }
    scores = dose_metrics(on_sct, on_ct, plan.prescription_gy, target, organs)
    gamma = gamma_pass_rate(Volume(on_sct, grid), Volume(on_ct, grid), prescription=plan.prescription_gy)
    suffix = SUFFIX[modality]
    metrics = {
        f"dose_mae_{suffix}": scores.mae,
        f"dvh_{suffix}": scores.dvh,
        f"gamma_{suffix}": gamma.pass_rate,
        f"coverage_{suffix}": scores.coverage_difference,
    }
    edges = np.linspace(0, 1.2 * plan.prescription_gy, 61)
    structures = {"target": target} | {name: organs[name] for name in scores.organs}
    curves = {
        name: {"ct": volume_histogram(on_ct[s], edges).tolist(), "sct": volume_histogram(on_sct[s], edges).tolist()}
        for name, s in structures.items()
    }
    record = {"plan": plan.model_dump(mode="json"), "dose_gy": edges.tolist(), "histograms": curves}
    return metrics, record


def _nearest(volume: Volume, grid: Geometry) -> np.ndarray:
    return resample(volume, grid, interpolation="nearest").array


def _ball(body: np.ndarray, spacing_xyz: tuple[float, float, float]) -> np.ndarray:
    centre = [c.mean() for c in np.nonzero(body)]
    parts = zip(body.shape, centre, spacing_xyz[::-1], strict=True)
    z, y, x = (((np.arange(n) - c) * s) ** 2 for n, c, s in parts)
    return (z[:, None, None] + y[None, :, None] + x[None, None, :] <= TARGET_RADIUS_MM**2) & body
