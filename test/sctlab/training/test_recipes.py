"""The published recipes end to end at a small size: every stage, pack and predict, and each way to compute a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from sctlab import cli
from sctlab.features import save_extractor
from sctlab.features.networks.sam import Sam2Hiera
from sctlab.training.checkpoint import load_checkpoint, part, read_values
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.plan import TrainingPlan, load_plan
from sctlab.training.run import Run
from sctlab_model.bundle import read_bundle
from sctlab_model.io.reading import read_mask, read_volume

STAGE = "fold_0/global"


def sctlab(*words: object) -> int:
    """Run the command in this process."""
    return cli.run(lambda: cli.app.main([str(w) for w in words], standalone_mode=False))


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 2.1 Hiera-small's real architecture with random weights on disk."""
    torch.manual_seed(0)
    return save_extractor(Sam2Hiera("small"), tmp_path_factory.mktemp("sam") / "sam2.1-small.safetensors")


def reduced(name: str, sam: Path) -> dict[str, Any]:
    """A recipe's own plan with a smaller grid, patch, canvas and length; network, losses and stages stay."""
    plan = load_plan(name).model_dump(mode="json")
    plan["recipe"]["spacing_xyz"] = [4.0, 4.0, 6.0]  # the cohort's own
    plan["recipe"]["canvas"]["minimum_yx"] = [64, 64]
    if plan["recipe"]["canvas"]["fixed_yx"]:
        plan["recipe"]["canvas"]["fixed_yx"] = [96, 96]
    plan["recipe"]["views"] = ["identity", "flip_x"]
    plan["data"] |= {"folds": 2, "held_out": 0.0, "workers": 0}
    plan["patch"] |= {"size_yx": [64, 64], "batch": 2}
    plan["losses"][1]["weights"] = str(sam)
    for stage in plan["stages"]:
        stage["iterations"] = 2
    plan["validate_every"] = plan["checkpoint_every"] = 2
    plan["computing"]["compile"] = False  # minutes on a CPU; test_compiled_training has it
    return plan


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["mri", "cbct", "mri-submission", "cbct-submission"])
def test_a_published_recipe_trains_packs_and_predicts(
    name: str, sam: Path, cohort_folder: Path, cbct_folder: Path, tmp_path: Path
) -> None:
    """bf16 mixed precision, L1 + SAM 2.1, each stage from its start, two folds, out-of-fold prediction."""
    plan = reduced(name, sam)
    assert plan["computing"]["precision"] == "bf16"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    cohort = cohort_folder if plan["recipe"]["task"] == "mri" else cbct_folder
    run, bundle_folder, predictions = (tmp_path / n for n in ("run", "bundle", "predictions"))
    torch.set_num_threads(1)
    assert sctlab("train", tmp_path / "plan.yaml", "--pairs", cohort, "--out", run, "--device", "cpu", "--jobs", 1) == 0
    for stage in plan["stages"]:
        folder = run / "fold_1" / stage["name"]
        (line, *_) = (json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines())
        assert {"l1", "impact_sam2_1_small"} <= set(line)
        assert line["impact_sam2_1_small"] > 0
        if stage["start"]:  # two steps away from where the stage before it ended
            before, after = (
                part(load_checkpoint(f, "last")[0], "model") for f in (run / "fold_1" / stage["start"], folder)
            )
            moved = max(float((before[k] - after[k]).abs().max()) for k in before if k.endswith("conv1.weight"))
            assert 0 < moved < 0.01

    assert sctlab("pack", run, bundle_folder) == 0
    bundle = read_bundle(bundle_folder)
    wanted = 2 if name.endswith("submission") else 1
    assert [len(g.folds) for g in bundle.groups] == [2] * wanted
    assert bundle.provenance["extractors"][0]["name"] == "sam2.1-small"

    # Two steps may leave a network that says one value everywhere, which the output gate refuses.
    command = ("predict", cohort, "--weights", bundle_folder, "--out", predictions, "--device", "cpu")
    assert sctlab(*command, "--accept-implausible") == 0
    scores = {
        case: values["mae_hu"]
        for fold in range(2)
        for stage in load_plan(str(tmp_path / "plan.yaml")).final_stages
        for case, values in read_values(run / f"fold_{fold}" / stage.name, "best")["cases"].items()
    }
    assert len(scores) == len(list(predictions.rglob("*.mha"))) == 6
    for case, score in scores.items():
        case = case.rsplit("/", 1)[-1]
        folder = next(cohort.rglob(case))
        mask, ct = read_mask(folder / "mask.mha").array, read_volume(folder / "ct.mha").array
        sct = read_volume(next(predictions.rglob(f"{case}.mha"))).array
        assert (sct[~mask] == -1024).all()
        # Two steps teach nothing, but the prediction is the one that validation saw.
        error = np.abs(sct.astype(float) - np.clip(ct, -1024, 3071))[mask].mean()
        assert error == pytest.approx(score, abs=0.6)  # int16


@pytest.fixture
def train(cohort_folder: Path, tmp_path: Path) -> Callable[..., Run]:
    """`train(plan, **fabric settings)` of fold 0 in this process."""

    def run(plan: TrainingPlan, **settings: Any) -> Run:
        torch.set_num_threads(1)
        train_cohort(
            plan,
            cohort_folder,
            tmp_path / "run",
            TrainSettings(folds=(0,)),
            fabric=Fabric(accelerator="cpu", devices=1, **settings),
        )
        return Run(tmp_path / "run")

    return run


def test_mixed_precision_is_close_to_float32(train, make_plan, tmp_path: Path, cohort_folder: Path) -> None:
    """bf16 autocast: the stored weights stay float32, and few steps end near those of float32."""
    plan = make_plan(computing={"precision": "bf16"})
    torch.set_num_threads(1)
    exact = tmp_path / "exact"
    train_cohort(
        make_plan(), cohort_folder, exact, TrainSettings(folds=(0,)), fabric=Fabric(accelerator="cpu", devices=1)
    )
    train(plan, precision="bf16-mixed")
    one, two = (part(load_checkpoint(f / STAGE, "last")[0], "model") for f in (exact, tmp_path / "run"))
    assert {v.dtype for v in two.values() if v.is_floating_point()} == {torch.float32}
    assert any(not torch.equal(one[k], two[k]) for k in one)  # autocast was on
    scores = [read_values(f / STAGE, "best")["metrics"]["mae_hu"] for f in (exact, tmp_path / "run")]
    assert scores[1] == pytest.approx(scores[0], rel=0.1)


class _Overflow(MixedPrecision):
    """fp16's loss scaling on a CPU, with steps whose gradients overflow."""

    def __init__(self, overflow: set[int]) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        super().__init__("16-mixed", "cpu", scaler)
        self.overflow, self.calls = overflow, 0

    def forward_context(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16)  # fp16 arithmetic itself is a GPU's

    def backward(self, tensor: torch.Tensor, model: Any, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        super().backward(tensor * float("inf") if self.calls in self.overflow else tensor, model, *args, **kwargs)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_whose_gradients_overflow_is_left_out(train, make_plan, tmp_path: Path, clip: float | None) -> None:
    """Weights and Adam's count stay, the scale is halved, the batch is spent, and the run goes on."""
    plan = make_plan(
        stages=({"name": "global", "iterations": 2},),
        validate_every=1,
        checkpoint_every=1,
        optimiser={"learning_rate": 2e-3, "clip_norm": clip},
        early_stopping=None,
    )
    seen: list[dict[str, torch.Tensor]] = []
    save = "sctlab.training.trainer.Trainer.save"
    from sctlab.training import trainer

    original = trainer.Trainer.save

    def watching(self: Any, name: str, *args: Any, **kwargs: Any) -> None:
        if name == "last":
            seen.append({k: v.detach().clone() for k, v in self.network.named_parameters()})
        original(self, name, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, watching)
        train(plan, plugins=[_Overflow({2})])
    assert all(torch.equal(seen[0][k], seen[1][k]) for k in seen[0])
    tensors, values = load_checkpoint(tmp_path / "run" / STAGE, "last")
    assert (values["iteration"], values["finished"]) == (2, True)
    assert values["scaler"]["scale"] == 2.0**9
    counts = {float(v) for k, v in tensors.items() if k.endswith(".step")}
    assert counts == {1.0}


@pytest.mark.heavy
def test_compiled_training_gives_the_same_weights(
    train, make_plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile changes speed, not what is learnt; checkpoints carry the plain names."""
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))  # hundreds of MB, not for the system's
    stages = ({"name": "global", "iterations": 2},)
    train(make_plan(stages=stages))
    (tmp_path / "run").rename(tmp_path / "plain")
    train(make_plan(stages=stages, computing={"compile": True}))
    one, two = (part(load_checkpoint(tmp_path / n / STAGE, "last")[0], "model") for n in ("plain", "run"))
    assert one.keys() == two.keys()
    scores = [read_values(tmp_path / n / STAGE, "best")["metrics"]["mae_hu"] for n in ("plain", "run")]
    assert scores[1] == pytest.approx(scores[0], rel=0.01)
