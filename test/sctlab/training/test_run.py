"""A run's beginning: what is refused before anything is prepared, what is left alone, and several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning_fabric import Fabric

from sctlab.training import cohort as cohort_module
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.plan import TrainingPlan, load_plan, write_plan
from sctlab_model.errors import InputError

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
    text = "# mine\n" + plan_file.read_text()
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

    monkeypatch.setattr(cohort_module, "prepare_case", failing)
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
