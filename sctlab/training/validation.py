"""Validation: whole volumes through the inference code, in HU.

Two rules choose the best network; the lower score is the better one.

`mae`: the mean MAE against the validation cases' CT.

`unpaired`, which looks at no pair, so that runs with and without pairs can be chosen alike:
(2 - NMI(sCT, source)) + W(sCT, training CTs) / W(water, training CTs).
NMI is the normalised mutual information (1 to 2) of sCT and source in the body: the anatomy is kept. W is the first
Wasserstein distance between the HU of body voxels of the validation's sCTs, all together, and those of the training
cases' CTs, which are other patients': the values are those of CTs. Water in the whole body scores 1 in the second part,
and about 1 in the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sctlab.measures.similarity import normalised_mutual_information
from sctlab.pictures import CT_WINDOW, DIFFERENCE_WINDOW, Layer, centre_index, save_planes
from sctlab.training.cache import PreparedCase
from sctlab_model.backends.torch_backend import TorchBackend
from sctlab_model.ensemble import predict_volume
from sctlab_model.gates import ResultStatistics, measure_result
from sctlab_model.network import build_network
from sctlab_model.preparation import unit_to_hu
from sctlab_model.recipe import Recipe
from sctlab_model.volume import AIR_HU, Geometry, Volume

HU_RANGE = (-1024.0, 3071.0)
METRICS = ("mae_hu", "psnr_db", "mae_all_water_hu")
UNPAIRED_METRICS = ("nmi_source", "hu_distance")
# What the output gate measures; one network has no spread.
MEASURED = tuple(name for name in ResultStatistics.model_fields if name != "spread_hu")
# Histogram of body voxels: 8 HU a bin resolves soft tissues.
HU_EDGES = np.arange(-1024, 3072, 8, dtype=np.float64)
REFERENCE_CASES = 40  # of the training cases, spread evenly: their pooled histogram hardly changes with more


@dataclass(frozen=True)
class Scores:
    """What a validation found.

    Args:
        cases: Case key → metrics.
        measured: Case key → what the output gate measures of the result; the bundle keeps the ranges.
        mean: Mean of each metric over cases; with the unpaired rule also `hu_distance` of all cases together and
            `unpaired`, the rule's score.
        rule: `mae` or `unpaired`.
    """

    cases: dict[str, dict[str, float]]
    mean: dict[str, float]
    rule: Literal["mae", "unpaired"] = "mae"
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """What the best network has least of."""
        return self.mean["mae_hu" if self.rule == "mae" else "unpaired"]


@dataclass(frozen=True)
class UnpairedReference:
    """The HU of the training cases' CTs, for the unpaired rule.

    Args:
        shares: Share of body voxels up to each of `HU_EDGES` (a cumulative distribution).
        water: Wasserstein distance between it and a body of water, HU.
    """

    shares: np.ndarray
    water: float

    @classmethod
    def of(cls, cases: Sequence[PreparedCase], recipe: Recipe) -> UnpairedReference:
        """From prepared training cases."""
        chosen = cases[:: max(1, len(cases) // REFERENCE_CASES)]
        bodies = (c.target[c.mask & np.isfinite(c.target)] for c in chosen)
        counts = np.sum([hu_counts(unit_to_hu(body, recipe)) for body in bodies], axis=0)
        reference = cls(_shares(counts), 1.0)
        return cls(reference.shares, max(reference.distance(hu_counts(np.zeros(1))), 1.0))

    def distance(self, counts: np.ndarray) -> float:
        """First Wasserstein distance in HU: the area between the two cumulative distributions."""
        return float(np.abs(_shares(counts) - self.shares).sum() * (HU_EDGES[1] - HU_EDGES[0]))


def hu_counts(hu: np.ndarray) -> np.ndarray:
    """Histogram over `HU_EDGES`; values beyond the ends count in the last bins."""
    return np.histogram(np.clip(hu, HU_EDGES[0], HU_EDGES[-1] - 1e-3), HU_EDGES)[0].astype(np.float64)


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) / max(counts.sum(), 1.0)


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
    reference: UnpairedReference | None = None,
    picture: Path | None = None,
    gather: Callable[[np.ndarray], np.ndarray] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Scores:
    """Predict the validation cases with every view of the recipe and score them.

    Args:
        weights: State of the network.
        cases: The fold's validation cases; processes share them out.
        device: Where to run.
        reference: Scores by the unpaired rule, too.
        picture: PNG of the first case: source, sCT, CT, difference.
        gather: Adds an array over processes.
    """
    backend = backend_of(weights, recipe, device)
    names = METRICS + (UNPAIRED_METRICS if reference is not None else ())
    columns = names + MEASURED
    table = np.zeros((len(cases), len(columns)), dtype=np.float64)
    counts = np.zeros(len(HU_EDGES) - 1)
    for index in range(rank, len(cases), world):
        case = cases[index]
        hu = predict_volume(np.array(case.source), np.array(case.mask), [backend], recipe).hu
        values = score(hu, case, recipe)
        if reference is not None:
            body = np.asarray(case.mask)
            own = hu_counts(hu[body])
            counts += own / own.sum()
            nmi = normalised_mutual_information(np.clip(hu[body], *HU_RANGE), np.asarray(case.source)[body])
            values |= {"nmi_source": nmi, "hu_distance": reference.distance(own)}
        values |= measure_result(hu, np.asarray(case.mask), upper_hu=recipe.target_range_hu[1]).model_dump()
        table[index] = [values[m] for m in columns]
        if picture is not None and index == 0:
            draw(hu, case, recipe, picture)
    if gather is not None:
        table, counts = gather(table), gather(counts)
    rows = {c.key: dict(zip(columns, map(float, row), strict=True)) for c, row in zip(cases, table, strict=True)}
    scores = {key: {m: row[m] for m in names} for key, row in rows.items()}
    measured = {key: {m: row[m] for m in MEASURED} for key, row in rows.items()}
    mean = average(scores)
    if reference is None:
        return Scores(scores, mean, measured=measured)
    mean["hu_distance"] = reference.distance(counts)
    mean["unpaired"] = 2 - mean["nmi_source"] + mean["hu_distance"] / reference.water
    return Scores(scores, mean, "unpaired", measured)


def average(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over cases."""
    names = next(iter(scores.values()))
    return {name: float(np.mean([values[name] for values in scores.values()])) for name in names}


def draw(hu: np.ndarray, case: PreparedCase, recipe: Recipe, path: Path) -> None:
    """Picture of a case on the canvas through the middle of its body: source, sCT, CT and their difference."""
    grid = Geometry(case.mask.shape[::-1], recipe.spacing_xyz)
    mask = np.asarray(case.mask)
    target = np.where(mask, unit_to_hu(np.nan_to_num(np.asarray(case.target), nan=-1.0), recipe), AIR_HU)
    found = np.where(mask, hu, AIR_HU)
    layers = [
        Layer("source", Volume(np.asarray(case.source), grid)),
        Layer("sCT", Volume(found, grid), CT_WINDOW, unit="HU"),
        Layer("CT", Volume(target, grid), CT_WINDOW, unit="HU"),
        Layer("sCT − CT", Volume(found - target, grid), DIFFERENCE_WINDOW, "RdBu_r", unit="HU"),
    ]
    body = Volume(mask, grid)
    save_planes(layers, path, index_xyz=centre_index(body, body), title=case.key)
