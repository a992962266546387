"""Dose metrics of one case: target and organs from its structures, both images on the dose grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sctlab.evaluation.dose.calculation import Anatomy, calculate_doses
from sctlab.evaluation.dose.gamma import gamma_pass_rate
from sctlab.evaluation.dose.metrics import dose_metrics, volume_histogram
from sctlab.evaluation.dose.plan import TARGET_RADIUS_MM, Modality, default_plan
from sctlab.evaluation.images import Images
from sctlab.evaluation.structures import Structures
from sctlab_model.cases import Region
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

HISTOGRAM_TO = 1.2  # of the prescription
SUFFIX = {"photons": "photon", "protons": "proton"}


def score_dose(
    modality: Modality,
    images: Images,
    structures: Structures,
    region: Region | None,
    cache: Path | None = None,
    out: Path | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Plan on the reference CT, calculate on both images, and compare.

    Args:
        structures: Organs at risk and the target; without a target it is a ball of 12.5 mm radius at the mask's centre.
        cache: Folder that keeps doses by the content of what was asked.
        out: Where the doses go as images on the dose grid: `<modality>_ct.mha`, `<modality>_sct.mha`, and `target.mha`.

    Returns:
        Metrics by key (`dose_mae_photon`, …), and the plan with its curves and files for the record.

    Raises:
        InputError: A rotated grid, no such target, a plan that reaches nothing, or what `calculate_doses` raises.
    """
    plan = default_plan(modality, region)
    if not np.allclose(images.reference.geometry.axes, np.eye(3), atol=1e-4):
        raise InputError(images.reference.name, found="a rotated or flipped grid", expected="axes along the patient's")
    grid = images.reference.geometry.resized((plan.grid_mm,) * 3)
    body = _nearest(images.reference.with_array(images.mask.astype(np.uint8)), grid) > 0
    chosen = structures.target(grid)
    name, target = chosen if chosen is not None else ("a ball at the mask's centre", _ball(body, grid.spacing_xyz))
    target &= body
    if not target.any():
        raise InputError(images.reference.name, found=f"{name} outside the body mask", expected="a target in the body")
    ct, sct = (
        np.where(body, resample(v.with_array(v.array.astype(np.float32)), grid, outside=AIR_HU).array, AIR_HU)
        for v in (images.reference, images.prediction)
    )
    on_ct, on_sct = calculate_doses(ct, [ct, sct], Anatomy(target, body, grid.spacing_xyz), plan, cache)
    organs = structures.organs(grid)
    scores = dose_metrics(on_sct, on_ct, plan.prescription_gy, target, organs)
    gamma = gamma_pass_rate(Volume(on_sct, grid), Volume(on_ct, grid), prescription=plan.prescription_gy)
    suffix = SUFFIX[modality]
    metrics = {
        f"dose_mae_{suffix}": scores.mae,
        f"dvh_{suffix}": scores.dvh,
        f"gamma_{suffix}": gamma.pass_rate,
        f"coverage_{suffix}": scores.coverage_difference,
    }
    edges = np.linspace(0, HISTOGRAM_TO * plan.prescription_gy, 61)
    curves = {
        key: {"ct": volume_histogram(on_ct[s], edges).tolist(), "sct": volume_histogram(on_sct[s], edges).tolist()}
        for key, s in ({"target": target} | {organ: organs[organ] for organ in scores.organs}).items()
    }
    record = {"plan": plan.model_dump(mode="json"), "target": name, "dose_gy": edges.tolist(), "histograms": curves}
    if out is not None:
        files = {"ct": out / f"{modality}_ct.mha", "sct": out / f"{modality}_sct.mha", "target": out / "target.mha"}
        for key, array in (("ct", on_ct), ("sct", on_sct), ("target", target.astype(np.uint8))):
            write_volume(Volume(array, grid), files[key])
        record["files"] = {key: str(path) for key, path in files.items()}
    return metrics, record


def _nearest(volume: Volume, grid: Geometry) -> np.ndarray:
    return resample(volume, grid, interpolation="nearest").array


def _ball(body: np.ndarray, spacing_xyz: tuple[float, float, float]) -> np.ndarray:
    centre = [c.mean() for c in np.nonzero(body)]
    parts = zip(body.shape, centre, spacing_xyz[::-1], strict=True)
    z, y, x = (((np.arange(n) - c) * s) ** 2 for n, c, s in parts)
    return (z[:, None, None] + y[None, :, None] + x[None, None, :] <= TARGET_RADIUS_MM**2) & body
