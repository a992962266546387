"""A run's beginning: what is refused before anything is prepared, what is left alone, and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric import Fabric

from sctlab.training import cohort as cohort_module
from sctlab.training import setup
from sctlab.training.checkpoint import load_checkpoint
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.pack import pack_runs
from sctlab.training.plan import TrainingPlan, load_plan, write_plan
from sctlab.training.run import Run
from sctlab_model.cases import read_json
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_json

ROOT = Path(__file__).parents[3]


@pytest.fixture
def begin(cohort_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`begin(plan, out, **options)`: a run without its training; the names of what would be trained."""

    def run(plan: TrainingPlan, out: Path, **options: object) -> list[str]:
        trained = []

        def stand_in(job, fabric, monitor):
            trained.append(job.name)
            return {"best_iteration": 1, "metrics": {"mae_hu": 1.0, "mae_all_water_hu": 1.0}}

        monkeypatch.setattr(cohort_module, "train_stage", stand_in)
        train_cohort(plan, cohort_folder, out, TrainSettings(**options), fabric=Fabric(accelerator="cpu", devices=1))
        return trained

    return run


def test_a_recipe_in_the_folder_of_the_run_stays_as_it_was_written(begin, plan_file: Path, make_plan) -> None:
    text = "# mine\n" + plan_file.read_text(encoding="utf-8")
    written = plan_file.rename(plan_file.with_name("plan.yaml"))
    written.write_text(text)
    assert begin(load_plan(str(written)), written.parent) == [f"fold {k}, stage global" for k in range(3)]
    assert written.read_text() == text
    with pytest.raises(InputError, match="another plan"):
        begin(make_plan(validate_every=5), written.parent)
    assert written.read_text() == text


STAGES = ({"name": "all", "iterations": 1}, {"name": "HN", "regions": ("HN",), "iterations": 1})


def test_a_fold_without_a_case_is_refused_before_anything_is_prepared(begin, make_plan, tmp_path: Path) -> None:
    plan = make_plan(stages=STAGES)  # two cases of HN for three folds
    with pytest.raises(InputError, match="stage HN: no validation case of regions HN"):
        begin(plan, tmp_path / "run")
    assert not any((tmp_path / "run" / name).exists() for name in ("cache", "plan.yaml", "folds.json"))
    assert begin(plan, tmp_path / "run", folds=(0,), stages=("all",)) == ["fold 0, stage all"]


def test_a_stage_whose_start_is_missing_is_refused_before_anything_is_prepared(
    begin, make_plan, tmp_path: Path
) -> None:
    plan = make_plan(stages=({"name": "all", "iterations": 1}, {"name": "second", "start": "all", "iterations": 1}))
    with pytest.raises(InputError, match="stage all isn't finished"):
        begin(plan, tmp_path / "run", stages=("second",))
    assert not (tmp_path / "run" / "cache").exists()
    assert len(begin(plan, tmp_path / "run")) == 6


def test_memory_that_runs_out_excludes_no_case(begin, make_plan, tmp_path: Path, monkeypatch) -> None:
    def failing(pair, recipe, cache, fractions):
        raise MemoryError

    monkeypatch.setattr(setup, "prepare_case", failing)
    with pytest.raises(InputError, match="preparing cases: 6 of 6 cases weren't finished"):
        begin(make_plan(), tmp_path / "run")


def test_the_other_processes_end_without_a_word_where_the_first_fails() -> None:
    def refuse() -> None:
        raise InputError("here", found="something wrong")

    first = SimpleNamespace(is_global_zero=True, broadcast=lambda value: value)
    other = SimpleNamespace(is_global_zero=False, broadcast=lambda value: True)
    with pytest.raises(InputError, match="something wrong"):
        cohort_module._in_first_process(first, refuse)
    with pytest.raises(SystemExit):
        cohort_module._in_first_process(other, refuse)


@pytest.mark.heavy
def test_two_processes_end_with_the_error_of_the_first(make_plan, cohort_folder: Path, tmp_path: Path) -> None:
    write_plan(make_plan(stages=STAGES), tmp_path / "tiny.yaml")
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "train.py"),
            str(tmp_path / "tiny.yaml"),
            "--pairs",
            str(cohort_folder),
            "--out",
            str(tmp_path / "run"),
            "--device",
            "cpu",
            "--devices",
            "2",
            "--jobs",
            "1",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("no validation case of regions HN") == 1
    assert "Traceback" not in ended.stderr


def test_a_run_of_an_earlier_release_goes_on_and_is_packed(make_plan, cohort_folder: Path, tmp_path: Path) -> None:
    """Its records named cases by their ids, its plan had no objective, and its checkpoints said best_mae_hu."""
    plan, out = make_plan(stages=({"name": "global", "iterations": 4},), validate_every=2), tmp_path / "run"
    fabric = Fabric(accelerator="cpu", devices=1)
    whole = train_cohort(plan, cohort_folder, out, TrainSettings(folds=(0,)), fabric=fabric)
    before = load_checkpoint(out / "fold_0/global", "last")[0]

    def rewrite(path: Path, change: Callable[[dict], dict]) -> None:
        write_json(path, change(read_json(path)))

    def ids(value: Any) -> Any:
        if isinstance(value, dict):
            return {ids(k): ids(v) for k, v in value.items()}
        if isinstance(value, list):
            return [ids(v) for v in value]
        return value.rsplit("/", 1)[-1] if isinstance(value, str) and value.startswith("Task1/") else value

    for name in ("cohort.json", "folds.json"):
        rewrite(out / name, lambda v: {k: w for k, w in ids(v).items() if k != "version"})
    (out / "checks.json").unlink()
    new = ("best_score", "validation_due", "selected_by")
    for name in ("last", "best"):
        rewrite(
            out / f"fold_0/global/{name}.json",
            lambda v: {k: w for k, w in ids(v).items() if k not in new} | {"best_mae_hu": v["best_score"]},
        )
    rewrite(out / "fold_0/global/last.json", lambda v: v | {"finished": False, "iteration": 3})
    old = yaml.safe_load((out / "plan.yaml").read_text())
    (out / "plan.yaml").write_text(
        yaml.safe_dump({k: v for k, v in old.items() if k not in ("objective", "selection")})
    )

    assert Run(out).folds.patients.keys() == Run(out).cohort.cases.keys()
    assert all(key.startswith("Task1/") for key in Run(out).cohort.cases)
    again = train_cohort(plan, cohort_folder, out, TrainSettings(folds=(0,), resume=True), fabric=fabric)
    assert again.stages[0].iteration == whole.stages[0].iteration or again.stages[0].iteration == 4
    after = load_checkpoint(out / "fold_0/global", "last")[0]
    assert after.keys() == before.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)  # it went on from the checkpoint's tensors
    fold = pack_runs([out], tmp_path / "bundle").groups[0].folds[0]
    assert set(fold.validation_cases) == {key.rsplit("/", 1)[-1] for key in Run(out).folds.validation[0]}
    assert any(isinstance(v, dict) for v in fold.metrics.values())
