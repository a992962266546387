"""A 3D network goes the same way as the 2.5D one: trainer, bundle, ensemble, ONNX and the main job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sctlab import cli
from sctlab_model.backends import load_backend
from sctlab_model.bundle import read_bundle
from sctlab_model.io.reading import read_mask, read_volume


def sctlab(*words: object) -> int:
    return cli.run(lambda: cli.app.main([str(w) for w in words], standalone_mode=False))


@pytest.mark.heavy
def test_a_3d_network_trains_packs_exports_and_predicts(
    make_plan: Callable, cohort_folder: Path, tmp_path: Path
) -> None:
    plan = make_plan(stages=({"name": "global", "iterations": 40},), validate_every=40).model_dump(mode="json")
    plan["recipe"]["network"] = {"architecture": "residual_unet_3d", "slices": 3, "features": [8, 16, 16]}
    plan["recipe"]["views"] = ["identity", "flip_x"]
    plan["data"]["folds"] = 2
    plan["losses"] = [{"kind": "l1", "over": "mask"}]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    run, folder, out = (tmp_path / n for n in ("run", "bundle", "predictions"))
    torch.set_num_threads(1)
    assert sctlab("train", tmp_path / "plan.yaml", "--pairs", cohort_folder, "--out", run, "--fold", "all") == 0
    assert sctlab("pack", run, folder) == 0
    bundle = read_bundle(folder)
    assert bundle.recipe.network.architecture == "residual_unet_3d"
    for fold in bundle.groups[0].folds:  # forty steps beat water
        assert fold.metrics["mae_hu"] < 0.7 * fold.metrics["mae_all_water_hu"]

    assert sctlab("predict", cohort_folder, "--weights", folder, "--out", out) == 0
    found = sorted(out.rglob("*.mha"))
    assert len(found) == 6
    for path in found:
        case = next(cohort_folder.rglob(path.stem))
        mask = read_mask(case / "mask.mha").array
        error = np.abs(read_volume(path).array.astype(float) - read_volume(case / "ct.mha").array)[mask]
        assert error.mean() < 150

    assert sctlab("export-onnx", folder) == 0
    bundle = read_bundle(folder)
    fold, settings, cpu = bundle.groups[0].folds[0], bundle.recipe.network, torch.device("cpu")
    stacks = torch.rand(2, 3, 64, 96) * 2 - 1
    wanted, exported = (load_backend(folder, fold, settings, cpu, runtime)(stacks) for runtime in ("torch", "onnx"))
    assert (exported - wanted).abs().max() * 2047.5 <= 0.5
