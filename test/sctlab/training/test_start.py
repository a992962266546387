"""Stages that go on from the networks of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from pydantic import ValidationError

from sctlab.training.check import check_plan
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.pack import pack_runs
from sctlab.training.plan import TrainingPlan, load_plan, write_plan
from sctlab.training.start import first_weights
from sctlab_model.bundle import load_fold, read_bundle
from sctlab_model.errors import InputError, WeightsError


@pytest.fixture(scope="module")
def bundle(make_plan: Callable, cohort_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folds 0 and 1 of three."""
    out = tmp_path_factory.mktemp("start")
    plan = make_plan(stages=({"name": "global", "iterations": 2},), validate_every=2)
    torch.set_num_threads(1)
    train_cohort(plan, cohort_folder, out / "run", TrainSettings((0, 1)), fabric=_fabric())
    pack_runs([out / "run"], out / "before")
    return out / "before"


def _fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def going_on(make_plan: Callable, bundle: Path | str, **changes: object) -> TrainingPlan:
    stage = {"name": "global", "iterations": 1, "learning_rate": 1e-9, "start_bundle": str(bundle)}
    return make_plan(stages=(stage,), validate_every=1, **changes)


def test_a_stage_goes_on_from_the_bundles_fold(
    make_plan: Callable, bundle: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    """A step of next to no length leaves the weights that it began with; the record says whose they were."""
    train_cohort(going_on(make_plan, bundle), cohort_folder, tmp_path / "run", TrainSettings((1, 2)), fabric=_fabric())
    packed = pack_runs([tmp_path / "run"], tmp_path / "after")
    before = read_bundle(bundle).groups[0].folds
    for fold, origin in zip(packed.groups[0].folds, (before[1], before[0]), strict=True):  # fold 2 of two is fold 0
        wanted, found = load_fold(bundle, origin), load_fold(tmp_path / "after", fold)
        for name in wanted:
            if "running" not in name and "num_batches" not in name:
                torch.testing.assert_close(found[name], wanted[name], atol=1e-7, rtol=0)
        assert set(origin.training_cases) <= set(fold.training_cases)
    assert [n["sha256"] for n in packed.provenance["networks"]] == [before[1].weights.sha256, before[0].weights.sha256]
    assert packed.provenance["plan"]["stages"][0]["start_bundle"] == "before"
    assert str(bundle.parent) not in (tmp_path / "after" / "bundle.json").read_text()


def test_what_does_not_fit_is_refused_before_anything_is_prepared(make_plan: Callable, bundle: Path) -> None:
    recipe = make_plan().recipe.model_dump()
    larger = recipe | {"network": recipe["network"] | {"decoder_channels": (16, 8, 8, 4, 4)}}
    with pytest.raises(InputError, match="network"):
        check_plan(going_on(make_plan, bundle, recipe=larger))
    with pytest.raises(WeightsError, match="no-such-weights"):
        check_plan(going_on(make_plan, "no-such-weights"))
    stages = ({"name": "a", "iterations": 1}, {"name": "b", "iterations": 1, "start": "a", "start_bundle": "x"})
    with pytest.raises(ValidationError, match="one of them"):
        make_plan(stages=stages)


def test_a_network_for_the_other_task_is_a_start(make_plan: Callable, bundle: Path) -> None:
    plan = going_on(make_plan, bundle, recipe=make_plan().recipe.model_dump() | {"task": "cbct"})
    check_plan(plan)
    weights, origin = first_weights(plan, plan.stages[0], 1)
    assert origin["task"] == "mri"
    for name, wanted in load_fold(bundle, read_bundle(bundle).groups[0].folds[1]).items():
        torch.testing.assert_close(weights[name], wanted, atol=0, rtol=0)


def test_relative_folders_start_at_the_plan(make_plan: Callable, bundle: Path) -> None:
    write_plan(going_on(make_plan, "before"), bundle.parent / "plan.yaml")
    plan = load_plan(str(bundle.parent / "plan.yaml"))
    assert plan.stages[0].start_bundle == str(bundle)
    weights, origin = first_weights(plan, plan.stages[0], 4)
    assert origin["file"] == "fold_0.safetensors"
    assert origin["bundle"] == "before"
    assert all(torch.isfinite(w).all() for w in weights.values())
