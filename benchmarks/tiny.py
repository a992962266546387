"""A bundle with random weights that is fast on a CPU, and a trunk to convert: for what doesn't depend on quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sctlab_model.bundle import Bundle, Fold, RegionGroup, Registration, save_fold, write_bundle
from sctlab_model.cases import Region, Task
from sctlab_model.network.settings import UNetPlusPlusSettings
from sctlab_model.recipe import Canvas, RangeNormalisation, Recipe
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((60, 48, 10), (6.0, 6.0, 6.0))


def tiny_bundle(folder: Path) -> Path:
    """Two folds for CBCT. Their head is made small, so that results lie around -30 HU and pass the output gate."""
    import torch

    from sctlab_model.network import build_network

    recipe = Recipe(
        name="tiny",
        task=Task.CBCT,
        spacing_xyz=GRID.spacing_xyz,
        network=UNetPlusPlusSettings(encoder="tu-mobilenetv3_small_100", slices=3, decoder_channels=(16, 16, 8, 8, 4)),
        normalisation=RangeNormalisation(lower=-1024, upper=3071),
        canvas=Canvas(minimum_yx=(64, 64)),
    )
    folds = []
    for k in range(2):
        torch.manual_seed(k)
        state = build_network(recipe.network).state_dict()
        for name in state:
            if "segmentation_head" in name:
                state[name] = state[name] * 0.05 if name.endswith("weight") else state[name] * 0 - 0.57
        folds.append(Fold(weights=save_fold(state, folder, f"fold_{k}.safetensors", "float32"), storage="float32"))
    bundle = Bundle(
        name="tiny",
        recipe=recipe,
        groups=(RegionGroup(regions=tuple(Region), folds=tuple(folds)),),
        registration=Registration(method="none", convention="aligned"),
        intended_use="benchmark",
        demonstration=True,
    )
    write_bundle(bundle, folder)
    return folder


def trunk(seed: int = 0) -> tuple[Volume, Volume]:
    """A trunk of 300 mm by 190 mm in HU (fat around muscle, gas, a spine) with noise, and its mask."""
    x, y = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(GRID.size_xyz[:2], GRID.spacing_xyz[:2], strict=True))
    x, y = np.meshgrid(x, y)
    radius = (x / 150) ** 2 + (y / np.where(y > 0, 80.0, 110.0)) ** 2
    hu = np.where(radius < 0.75, 40.0, np.where(radius < 1, -100.0, -1000.0))
    hu[(x - 40) ** 2 + (y + 60) ** 2 < 20**2] = -900
    hu[x**2 + (y - 45) ** 2 < 20**2] = 400
    noise = np.random.default_rng(seed).normal(0, 10, GRID.shape_zyx)
    array = (np.broadcast_to(hu, GRID.shape_zyx) + noise).astype(np.int16)
    return Volume(array, GRID, "trunk"), Volume(np.broadcast_to(radius < 1, GRID.shape_zyx).copy(), GRID, "mask")
