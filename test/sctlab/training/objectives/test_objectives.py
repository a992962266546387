"""One contract for every objective: it trains, resumes exactly, validates and packs through the same trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sctlab.training import trainer
from sctlab.training.batch import Batch
from sctlab.training.checkpoint import load_checkpoint, part, read_values
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.objectives import Objective, build_objective
from sctlab.training.objectives.base import GENERATOR, adamw
from sctlab.training.objectives.networks import PatchDiscriminator, is_real
from sctlab.training.pack import pack_runs
from sctlab.training.plan import TrainingPlan
from sctlab.training.run import Run
from sctlab_model.bundle import load_fold, read_bundle

STAGE = "fold_0/global"
SMALL = {"channels": 4, "layers": 1}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "supervised": {"kind": "supervised"},
    "cut": {"kind": "cut", "patches": 16, "projection": 16, "discriminator": SMALL},
    "cyclegan": {"kind": "cyclegan", "identity_weight": 1.0, "discriminator": SMALL},
    "reggan": {"kind": "reggan", "channels": 4, "discriminator": SMALL},
}
PAIRED = ("supervised", "reggan")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=OBJECTIVES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def plan(kind: str, make_plan: Callable[..., TrainingPlan]) -> TrainingPlan:
    losses = ({"kind": "l1", "weight": 2.0},) if kind in PAIRED else ()
    return make_plan(
        objective=OBJECTIVES[kind],
        losses=losses,
        stages=({"name": "global", "iterations": 4},),
        validate_every=2,
        checkpoint_every=1,
        ema=0.9,
    )


def train(plan: TrainingPlan, cohort: Path, out: Path, cache: Path, **options: Any) -> Run:
    torch.set_num_threads(1)
    settings = TrainSettings(folds=(0,), cache=cache, **options)
    train_cohort(plan, cohort, out, settings, fabric=Fabric(accelerator="cpu", devices=1))
    return Run(out)


@pytest.fixture(scope="module")
def run(plan: TrainingPlan, cohort_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(plan, cohort_folder, tmp_path_factory.mktemp("run") / "run", cache)


def test_the_type_that_leaves_the_loader_changes_no_bit_of_a_step(plan: TrainingPlan, kind: str) -> None:
    """Under bf16 a source may travel in bfloat16 where only the generator sees it; elsewhere it stays float32."""
    assert build_objective(plan).source_type == torch.float32
    mixed = plan.model_copy(update={"computing": plan.computing.model_copy(update={"precision": "bf16"})})
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.rand(2, n, 32, 32, generator=generator) * 2 - 1 for n in (3, 1))
    body = torch.ones(2, 1, 32, 32, dtype=torch.bool)

    def step(travels_in: torch.dtype) -> dict[str, Tensor]:
        torch.manual_seed(0)
        objective = build_objective(mixed)
        objective.attach(Fabric(accelerator="cpu", devices=1, precision="bf16-mixed"))
        return objective.step(Batch.of_pairs(source.to(travels_in), target, body).to(torch.device("cpu"), True))

    chosen = build_objective(mixed).source_type
    assert (chosen == torch.bfloat16) == (kind in PAIRED)
    before, after = step(torch.float32), step(chosen)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_every_network_learns_and_is_kept(plan: TrainingPlan, run: Run) -> None:
    tensors, _ = load_checkpoint(run.folder / STAGE, "last")
    torch.manual_seed(0)
    objective = build_objective(plan)
    for name, network in objective.networks.items():
        kept = part(tensors, "model" if name == GENERATOR else f"networks.{name}")
        assert kept.keys() == network.state_dict().keys()
    for name, optimiser in objective.optimisers.items():
        prefix = "optimiser" if name == GENERATOR else f"optimisers.{name}"
        steps = {float(v) for k, v in part(tensors, prefix).items() if k.endswith(".step")}
        assert steps == {4.0}, name
        assert optimiser.param_groups


def test_cut_anywhere_it_resumes_exactly(
    plan: TrainingPlan, run: Run, cohort_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = trainer.Trainer.step
    for cut in (1, 3):

        def breaking(self: Any, batch: Batch, iteration: int, cut: int = cut) -> dict[str, Tensor]:
            if iteration == cut:
                raise KeyboardInterrupt
            return step(self, batch, iteration)

        monkeypatch.setattr(trainer.Trainer, "step", breaking)
        with pytest.raises(KeyboardInterrupt):
            train(plan, cohort_folder, tmp_path / "run", cache, resume=True)
    monkeypatch.setattr(trainer.Trainer, "step", step)
    train(plan, cohort_folder, tmp_path / "run", cache, resume=True)
    for name in ("last", "best"):
        one, two = (load_checkpoint(f / STAGE, name)[0] for f in (run.folder, tmp_path / "run"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)


def test_it_validates_by_its_rule(kind: str, run: Run) -> None:
    best = read_values(run.folder / STAGE, "best")
    assert best["selected_by"] == ("mae" if kind in PAIRED else "unpaired")
    assert best["best_score"] == best["metrics"]["mae_hu" if kind in PAIRED else "unpaired"]
    assert 0 < best["best_score"] < 3000
    if kind not in PAIRED:
        assert {"nmi_source", "hu_distance", "mae_hu"} <= set(best["metrics"])


def test_it_packs_into_an_ordinary_bundle(plan: TrainingPlan, run: Run, tmp_path: Path) -> None:
    """Nothing of what only training needs goes into it."""
    pack_runs([run.folder], tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    weights = load_fold(tmp_path / "bundle", bundle.groups[0].folds[0])
    best = part(load_checkpoint(run.folder / STAGE, "best")[0], "model")
    assert weights.keys() == best.keys()
    assert all(torch.equal(weights[k], best[k].to(weights[k].dtype)) for k in best)
    assert bundle.provenance["plan"]["objective"]["kind"] == plan.objective.kind
    assert isinstance(bundle.groups[0].folds[0].metrics["AB"], dict) or len(run.folds.validation[0]) < 3


class TwoPlayers(Objective):
    """A new objective: a network and an optimiser more than supervised has, unknown to the trainer."""

    def __init__(self, plan: TrainingPlan) -> None:
        super().__init__(plan)
        self.networks["judge"] = PatchDiscriminator(4, 1)
        self.optimisers[GENERATOR] = adamw([self.networks[GENERATOR]], plan.optimiser)
        self.optimisers["judge"] = torch.optim.SGD(self.networks["judge"].parameters(), lr=1e-2, momentum=0.9)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        sct = self.models[GENERATOR](batch.source)
        fooled = is_real(self.models["judge"](sct))
        self.update(GENERATOR, fooled + (sct - batch.known()[0].target).abs().mean())
        caught = self.models["judge"](sct.detach()).square().mean()
        self.update("judge", caught)
        return {"loss": fooled.detach(), "caught": caught.detach()}


def test_a_new_objective_needs_nothing_from_the_trainer(
    make_plan: Callable[..., TrainingPlan],
    cohort_folder: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer, "build_objective", TwoPlayers)
    plan = make_plan(stages=({"name": "global", "iterations": 3},), validate_every=3, checkpoint_every=1)
    whole = train(plan, cohort_folder, tmp_path / "whole", cache)
    step = trainer.Trainer.step

    def breaking(self: Any, batch: Batch, iteration: int) -> dict[str, Tensor]:
        if iteration == 2:
            raise KeyboardInterrupt
        return step(self, batch, iteration)

    monkeypatch.setattr(trainer.Trainer, "step", breaking)
    with pytest.raises(KeyboardInterrupt):
        train(plan, cohort_folder, tmp_path / "cut", cache)
    monkeypatch.setattr(trainer.Trainer, "step", step)
    cut = train(plan, cohort_folder, tmp_path / "cut", cache, resume=True)
    one, two = (load_checkpoint(r.folder / STAGE, "last")[0] for r in (whole, cut))
    assert any(k.startswith("networks.judge.") for k in one)
    assert any(k.startswith("optimisers.judge.") and k.endswith("momentum_buffer") for k in one)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_every_rate_follows_the_schedule_and_keeps_its_ratio(
    make_plan: Callable[..., TrainingPlan], cohort_folder: Path, cache: Path, tmp_path: Path
) -> None:
    plan = make_plan(
        objective=OBJECTIVES["cut"],
        losses=(),
        optimiser={"learning_rate": 1e-3},
        schedule={"kind": "step", "every": 1, "factor": 0.5},
        stages=({"name": "global", "iterations": 3},),
        validate_every=3,
    )
    seen: list[tuple[float, float]] = []
    step = trainer.Trainer.step

    def watching(self: Any, batch: Batch, iteration: int) -> dict[str, Tensor]:
        logs = step(self, batch, iteration)
        seen.append(tuple(o.param_groups[0]["lr"] for o in self.objective.optimisers.values()))
        return logs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", watching)
        train(plan, cohort_folder, tmp_path / "run", cache)
    np.testing.assert_allclose(seen, [(1e-3, 2e-4), (5e-4, 1e-4), (2.5e-4, 5e-5)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": {"kind": "cut"}, "losses": ({"kind": "l1"},)}, "takes no losses"),
        ({"objective": {"kind": "supervised"}, "losses": ()}, "needs losses"),
        ({"objective": {"kind": "gan"}}, "does not match any of the expected tags"),
    ],
)
def test_objectives_and_losses_must_fit(make_plan: Callable[..., TrainingPlan], changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(**changes)


def test_modules_are_placed_and_called_through_the_objective(plan: TrainingPlan) -> None:
    objective = build_objective(plan)
    objective.attach(Fabric(accelerator="cpu", devices=1))
    assert objective.models.keys() == objective.networks.keys()
    assert all(isinstance(n, nn.Module) for n in objective.networks.values())
