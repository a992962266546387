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
from sctlab.training.start import first_weights, unseen
from sctlab_model.bundle import load_fold, read_bundle
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.monitor import Monitor


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


def test_patients_that_the_start_trained_on_are_no_validation() -> None:
    """By id, and by patient where several cases are of one."""
    before = [{"training_cases": ["1ABA001", "1ABR001"], "patients": {"1ABR001": "a CT"}}]
    patients = {"Task1/AB/1ABA001": "1ABA001", "Task1/AB/1ABA002": "1ABA002", "Task2/AB/2ABR007": "a CT"}
    assert unseen(patients, before, patients) == ["Task1/AB/1ABA002"]
    assert unseen(patients, [], patients) == list(patients)


class Listening(Monitor):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def test_a_fold_is_validated_on_what_its_start_has_not_seen(
    make_plan: Callable, bundle: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    """Two folds of three cases: some of these trained the bundle's folds, whose two validation cases did not."""
    heard, data = Listening(), make_plan().data.changed(folds=2)
    plan = going_on(make_plan, bundle, data=data)
    train_cohort(plan, cohort_folder, tmp_path / "run", TrainSettings(), fabric=_fabric(), monitor=heard)
    packed = pack_runs([tmp_path / "run"], tmp_path / "after").groups[0].folds
    for fold, origin in zip(packed, read_bundle(bundle).groups[0].folds, strict=True):
        assert set(fold.validation_cases) <= set(origin.validation_cases)
        assert 0 < len(fold.validation_cases) < 3
        assert "mae_hu" in fold.metrics
    assert sum("not validated on" in w for w in heard.warnings) == 2
    assert "trained on" not in (tmp_path / "after" / "MODEL_CARD.md").read_text().replace("did not train on", "")


def test_validation_on_seen_patients_alone_is_said(
    make_plan: Callable, bundle: Path, cohort_folder: Path, tmp_path: Path
) -> None:
    """Fold 2 goes on from the bundle's fold 0, which trained on all that fold 2 holds."""
    heard = Listening()
    plan = going_on(make_plan, bundle)
    train_cohort(plan, cohort_folder, tmp_path / "run", TrainSettings((2,)), fabric=_fabric(), monitor=heard)
    pack_runs([tmp_path / "run"], tmp_path / "after")
    assert any("nothing about new patients" in w for w in heard.warnings)
    assert "2 of its 2 validation cases are of patients" in (tmp_path / "after" / "MODEL_CARD.md").read_text()
