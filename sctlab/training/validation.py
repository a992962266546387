"""Validation: whole volumes through the inference code, in HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sctlab.pictures import CT_WINDOW, DIFFERENCE_WINDOW, Layer, centre_index, save_planes
from sctlab.training.cache import PreparedCase
from sctlab_model.backends.torch_backend import TorchBackend
from sctlab_model.ensemble import predict_volume
from sctlab_model.network import build_network
from sctlab_model.preparation import unit_to_hu
from sctlab_model.recipe import Recipe
from sctlab_model.volume import AIR_HU, Geometry, Volume

HU_RANGE = (-1024.0, 3071.0)
METRICS = ("mae_hu", "psnr_db", "mae_all_water_hu")


def backend_of(weights: dict[str, Tensor], recipe: Recipe, device: torch.device) -> TorchBackend:
    """The inference backend of a network's weights; the weights themselves stay as they are."""
    with torch.device("meta"):
        network = build_network(recipe.network)
    network.load_state_dict({k: v.detach().to("cpu", copy=True) for k, v in weights.items()}, assign=True)
    return TorchBackend(network, recipe.network.slices, device)


def score(hu: np.ndarray, case: PreparedCase, recipe: Recipe) -> dict[str, float]:
    """MAE (HU), PSNR (dB, range 4095) and the MAE of an all-water CT, over body voxels with a target.

    The sCT is clipped to the CT's range, as the result of inference is.
    """
    known = case.mask & np.isfinite(case.target)
    target = unit_to_hu(case.target[known].astype(np.float64), recipe)
    found = np.clip(hu[known], *HU_RANGE).astype(np.float64)
    error = found - target
    width = HU_RANGE[1] - HU_RANGE[0]
    psnr = 10 * np.log10(width**2 / max(float(np.mean(error**2)), 1e-9))
    return {
        "mae_hu": float(np.abs(error).mean()),
        "psnr_db": float(psnr),
        "mae_all_water_hu": float(np.abs(target).mean()),
    }


def validate(
    weights: dict[str, Tensor],
    cases: Sequence[PreparedCase],
    recipe: Recipe,
    device: torch.device,
    *,
    picture: Path | None = None,
    gather: Callable[[np.ndarray], np.ndarray] | None = None,
    rank: int = 0,
    world: int = 1,
) -> dict[str, dict[str, float]]:
    """Predict the validation cases with every view of the recipe and score them.

    Args:
        weights: State of the network.
        cases: The fold's validation cases; processes share them out.
        device: Where to run.
        picture: PNG of the first case: source, sCT, CT, difference.
        gather: Adds an array over processes.

    Returns:
        Case id → metrics.
    """
    backend = backend_of(weights, recipe, device)
    table = np.zeros((len(cases), len(METRICS)), dtype=np.float64)
    for index in range(rank, len(cases), world):
        case = cases[index]
        hu = predict_volume(np.array(case.source), np.array(case.mask), [backend], recipe).hu
        found = score(hu, case, recipe)
        table[index] = [found[m] for m in METRICS]
        if picture is not None and index == 0:
            draw(hu, case, recipe, picture)
    if gather is not None:
        table = gather(table)
    return {c.id: dict(zip(METRICS, map(float, row), strict=True)) for c, row in zip(cases, table, strict=True)}


def average(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over cases."""
    return {m: float(np.mean([s[m] for s in scores.values()])) for m in METRICS}


def draw(hu: np.ndarray, case: PreparedCase, recipe: Recipe, path: Path) -> None:
    """Picture of a case on the canvas through the middle of its body: source, sCT, CT and their difference."""
    grid = Geometry(case.mask.shape[::-1], recipe.spacing_xyz)
    mask = np.asarray(case.mask)
    target = np.where(mask, unit_to_hu(np.nan_to_num(np.asarray(case.target), nan=-1.0), recipe), AIR_HU)
    found = np.where(mask, hu, AIR_HU)
    layers = [
        Layer("source", Volume(np.asarray(case.source), grid)),
        Layer("sCT (HU)", Volume(found, grid), CT_WINDOW),
        Layer("CT (HU)", Volume(target, grid), CT_WINDOW),
        Layer("sCT - CT (HU)", Volume(found - target, grid), DIFFERENCE_WINDOW, "RdBu_r"),
    ]
    body = Volume(mask, grid)
    save_planes(layers, path, index_xyz=centre_index(body, body), title=case.id)
