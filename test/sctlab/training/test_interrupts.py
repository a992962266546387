"""Ctrl-C and SIGTERM: what was trained is kept, and going on from there is exact."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from sctlab.training import trainer
from sctlab.training.checkpoint import has_checkpoint, load_checkpoint, read_values
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.interrupts import Interrupts
from sctlab.training.plan import TrainingPlan
from sctlab_model.monitor import Monitor

STAGE = "fold_0/global"


class Lines(Monitor):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def plan(make_plan: Callable[..., TrainingPlan]) -> TrainingPlan:
    """Checkpoints at validations only: what an interruption keeps is its own doing."""
    return make_plan(stages=({"name": "global", "iterations": 6},), validate_every=4, checkpoint_every=1000)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def train(plan: TrainingPlan, cohort: Path, out: Path, cache: Path, resume: bool = False) -> list[str]:
    torch.set_num_threads(1)
    monitor = Lines()
    settings = TrainSettings(folds=(0,), cache=cache, resume=resume)
    try:
        train_cohort(plan, cohort, out, settings, fabric=Fabric(accelerator="cpu", devices=1), monitor=monitor)
    except KeyboardInterrupt:
        monitor.warnings.append("interrupted")
    return monitor.warnings


@pytest.fixture(scope="module")
def left_alone(plan: TrainingPlan, cohort_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("left_alone")
    assert train(plan, cohort_folder, out, cache) == []
    return out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("place", "iteration"), [("step", 2), ("validate", 4), ("save", 6)])
def test_what_was_trained_is_kept_and_goes_on_exactly(
    plan: TrainingPlan,
    cohort_folder: Path,
    cache: Path,
    tmp_path: Path,
    left_alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    place: str,
    iteration: int,
) -> None:
    original = getattr(trainer.Trainer, place)
    sent: list[int] = []

    def interrupting(self: Any, *arguments: Any, **keywords: Any) -> Any:
        at = {"step": lambda: arguments[1] + 1, "validate": lambda: 4, "save": lambda: arguments[1].iteration}
        if not sent and at[place]() == iteration:
            sent.append(iteration)
            os.kill(os.getpid(), number)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(trainer.Trainer, place, interrupting)
    warnings = train(plan, cohort_folder, tmp_path, cache)
    monkeypatch.setattr(trainer.Trainer, place, original)
    assert sent
    assert warnings[-1] == "interrupted"
    last = read_values(tmp_path / STAGE, "last")
    assert last["iteration"] == iteration
    assert last["validation_due"] is (place == "validate")
    if place != "save":  # there the checkpoint is the stage's own
        assert f"stopped after iteration {iteration}" in warnings[0]
        assert "--resume" in warnings[0]
    if place == "validate":
        assert not has_checkpoint(tmp_path / STAGE, "best")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert train(plan, cohort_folder, tmp_path, cache, resume=True) == []
    for name in ("last", "best"):
        one, two = (load_checkpoint(f / STAGE, name) for f in (left_alone, tmp_path))
        assert all(torch.equal(one[0][k], two[0][k]) for k in one[0])
        assert {k: one[1][k] for k in ("best_iteration", "best_score")} == {
            k: two[1][k] for k in ("best_iteration", "best_score")
        }


def test_a_second_signal_ends_a_step_too() -> None:
    with Interrupts() as interrupts, interrupts.step():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)


def test_processes_that_exchange_tensors_are_ended_by_the_loop_alone() -> None:
    with Interrupts(shared=True) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.wanted
