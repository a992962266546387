"""The loop end to end: exact resume, stages, several processes, and every way a run can end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from sctlab.training import trainer
from sctlab.training.checkpoint import load_checkpoint, part, read_values
from sctlab.training.cohort import TrainSettings, train_cohort
from sctlab.training.plan import TrainingPlan, write_plan
from sctlab.training.run import Run
from sctlab.training.validation import Scores
from sctlab_model.errors import ExitCode, InputError, ProductError, WeightsError

ROOT = Path(__file__).parents[3]
CLI = [sys.executable, "-W", "ignore", str(ROOT / "train.py")]
STAGE = "fold_0/global"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared cases that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(cohort_folder: Path, cache: Path) -> Callable[..., Run]:
    """`train(plan, out, **options)` in this process."""

    def run(plan: TrainingPlan, out: Path, **options: object) -> Run:
        settings = TrainSettings(**({"folds": (0,), "cache": cache} | options))
        torch.set_num_threads(1)
        train_cohort(plan, cohort_folder, out, settings, fabric=Fabric(accelerator="cpu", devices=1))
        return Run(out)

    return run


def weights_of(run: Path, name: str = "last", stage: str = STAGE) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / stage, name)[0]


def assert_same(first: Path, second: Path, stage: str = STAGE) -> None:
    for name in ("last", "best"):
        one, two = weights_of(first, name, stage), weights_of(second, name, stage)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)


def command(plan: TrainingPlan, folder: Path, cohort: Path, out: Path, cache: Path, *more: str) -> list[str]:
    write_plan(plan, folder / "plan.yaml")
    return [
        *CLI,
        str(folder / "plan.yaml"),
        "--pairs",
        str(cohort),
        "--out",
        str(out),
        "--fold",
        "0",
        "--cache",
        str(cache),
        "--device",
        "cpu",
        "--jobs",
        "1",
        *more,
    ]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def left_alone(make_plan, cohort_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny plan with a moving average, trained in one go."""
    out = tmp_path_factory.mktemp("left_alone") / "run"
    torch.set_num_threads(1)
    settings = TrainSettings(folds=(0,), cache=cache)
    train_cohort(make_plan(ema=0.9), cohort_folder, out, settings, fabric=Fabric(accelerator="cpu", devices=1))
    return out


def test_a_run_leaves_what_it_promises(left_alone: Path) -> None:
    run = Run(left_alone)
    assert run.finished(0, "global")
    lines = [json.loads(line) for line in (left_alone / STAGE / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] for line in trained] == [2, 4, 6, 8]
    assert {"loss", "l1", "impact_mind_2d", "learning_rate", "iterations_per_s", "waiting_share"} <= set(trained[0])
    validated = [line for line in lines if line["kind"] == "validation"]
    assert [line["iteration"] for line in validated] == [4, 8]
    assert {"mae_hu", "psnr_db", "mae_all_water_hu"} <= set(validated[0])
    assert (left_alone / STAGE / "pictures" / "iteration_0000008.png").is_file()
    assert list((left_alone / STAGE / "tensorboard").glob("events*"))
    best = read_values(left_alone / STAGE, "best")
    assert best["metrics"]["mae_hu"] == min(line["mae_hu"] for line in validated)
    assert set(best["cases"]) == set(run.folds.validation[0])
    assert set(run.cohort.cases) == set(run.folds.patients)
    suffixes = {p.suffix for p in left_alone.rglob("*") if p.is_file() and "tensorboard" not in p.parts}
    assert suffixes <= {".json", ".jsonl", ".yaml", ".png", ".safetensors"}  # nothing pickled


def test_validation_sees_the_inference_code(left_alone: Path, cohort_folder: Path, cache: Path) -> None:
    """The recorded MAE is that of the bundle's own pipeline on the same case."""
    import numpy as np

    from sctlab.cohort.load import load_cohort
    from sctlab.training.validation import backend_of
    from sctlab_model.body import body_mask  # noqa: F401 (the pipeline's import order)
    from sctlab_model.cases import Task
    from sctlab_model.ensemble import predict_volume
    from sctlab_model.io.reading import read_mask, read_volume
    from sctlab_model.preparation import prepare, restore

    run = Run(left_alone)
    recipe = run.plan.recipe
    backend = backend_of(part(weights_of(left_alone, "best"), "model"), recipe, torch.device("cpu"))
    scores = read_values(left_alone / STAGE, "best")["cases"]
    pair = next(p for p in load_cohort(cohort_folder, Task.MRI).pairs if p.key in scores)
    source, mask, ct = read_volume(pair.source), read_mask(pair.mask), read_volume(pair.target)
    prepared = prepare(source, mask, recipe)
    sct = restore(predict_volume(prepared.source, prepared.mask, [backend], recipe).hu, prepared, recipe)
    error = np.abs(sct.array.astype(float) - ct.array)[mask.array].mean()
    assert scores[pair.key]["mae_hu"] == pytest.approx(error, abs=0.6)  # int16


@pytest.mark.heavy
def test_killed_and_resumed_it_ends_with_the_same_weights(
    make_plan, cohort_folder: Path, cache: Path, tmp_path: Path, left_alone: Path
) -> None:
    out = tmp_path / "run"
    plan = make_plan(ema=0.9)
    for stop_at in (2, 6):
        process = subprocess.Popen(
            command(plan, tmp_path, cohort_folder, out, cache, "--resume"),
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < deadline:
            last = out / STAGE / "last.json"
            if last.is_file() and json.loads(last.read_text())["iteration"] >= stop_at:
                break
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(
        command(plan, tmp_path, cohort_folder, out, cache, "--resume"), env=ENVIRONMENT, check=True, capture_output=True
    )
    assert_same(out, left_alone)
    iterations = [json.loads(line)["iteration"] for line in (out / STAGE / "metrics.jsonl").read_text().splitlines()]
    assert iterations == sorted(iterations)


def test_interrupted_anywhere_it_resumes_exactly(
    make_plan, train, tmp_path: Path, left_alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same without processes: cut after each iteration in turn."""
    plan, step = make_plan(ema=0.9), trainer.Trainer.step
    for cut in (1, 5, 7):

        def breaking(self, batch, iteration, cut=cut):
            if iteration == cut:
                raise KeyboardInterrupt
            return step(self, batch, iteration)

        monkeypatch.setattr(trainer.Trainer, "step", breaking)
        with pytest.raises(KeyboardInterrupt):
            train(plan, tmp_path / "run", resume=True)
    monkeypatch.setattr(trainer.Trainer, "step", step)
    train(plan, tmp_path / "run", resume=True)
    assert_same(tmp_path / "run", left_alone)


def test_a_finished_run_is_left_alone(train, make_plan, left_alone: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (left_alone / STAGE).glob("*.safetensors")}
    train(make_plan(ema=0.9), left_alone, resume=True)
    assert {p: p.stat().st_mtime_ns for p in (left_alone / STAGE).glob("*.safetensors")} == before


def test_existing_checkpoints_need_resume_and_the_same_plan(train, make_plan, left_alone: Path) -> None:
    with pytest.raises(InputError, match="--resume"):
        train(make_plan(ema=0.9), left_alone)
    with pytest.raises(InputError, match=r"another plan: ema is 0\.9 there, and None here"):
        train(make_plan(), left_alone, resume=True)
    steeper = make_plan(ema=0.9, losses=({"kind": "l1", "weight": 3.0}, make_plan().losses[1]))
    with pytest.raises(InputError, match=r"losses\.0\.weight is 1\.0 there, and 3\.0 here"):
        train(steeper, left_alone, resume=True)


def test_a_best_network_that_is_gone_is_said_before_hours_are_spent(
    train, make_plan, left_alone: Path, tmp_path: Path
) -> None:
    """None that follows need be better than it: the stage would end without a network."""
    copy = shutil.copytree(left_alone, tmp_path / "run")
    values = json.loads((copy / STAGE / "last.json").read_text())
    (copy / STAGE / "last.json").write_text(json.dumps(values | {"finished": False, "iteration": 6}))
    (copy / STAGE / "best.json").unlink()
    with pytest.raises(WeightsError, match=r"best\.json: no such file"):
        train(make_plan(ema=0.9), copy, resume=True)


def test_an_out_folder_that_is_a_file_is_named(train, make_plan, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run: can't be written"):
        train(make_plan(), tmp_path / "run")


def test_wrong_folds_and_stages_are_refused(train, make_plan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 to 2"):
        train(make_plan(), tmp_path / "run", folds=(3,))
    with pytest.raises(InputError, match="one of global"):
        train(make_plan(), tmp_path / "run", stages=("second",))


STAGES = (
    {"name": "first", "iterations": 4},
    {"name": "AB-TH", "start": "first", "regions": ("AB", "TH"), "iterations": 2},
    {"name": "HN", "start": "first", "regions": ("HN",), "iterations": 2, "learning_rate": 1e-5},
)


def test_the_second_stage_starts_from_the_first_ones_best(train, make_plan, tmp_path: Path) -> None:
    plan = make_plan(stages=STAGES, data={"folds": 2, "workers": 0}, validate_every=2)
    with pytest.raises(InputError, match="stage first isn't finished"):
        train(plan, tmp_path / "run", stages=("HN",))
    train(plan, tmp_path / "run")
    best = part(weights_of(tmp_path / "run", "best", "fold_0/first"), "model")
    second = part(weights_of(tmp_path / "run", "last", "fold_0/HN"), "model")
    moved = max(float((best[k] - second[k]).abs().max()) for k in best if "weight" in k)
    assert 0 < moved < 1e-4  # two steps of 1e-5
    division = Run(tmp_path / "run").folds
    scored = read_values(tmp_path / "run" / "fold_0/HN", "best")["cases"]
    assert set(scored) == {key for key in division.validation[0] if "/HN/" in key}


def test_early_stopping(train, make_plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(validate_every=1, early_stopping={"patience": 2}, optimiser={"learning_rate": 1e-12})
    scores = iter([100.0, 90.0, 95.0, 92.0, 10.0])

    def scripted(self, picture):
        values = {"mae_hu": next(scores), "psnr_db": 1.0, "mae_all_water_hu": 1.0}
        return Scores({"case": values}, values)

    monkeypatch.setattr(trainer.Trainer, "validate", scripted)
    train(plan, tmp_path / "run")
    last = read_values(tmp_path / "run" / STAGE, "last")
    assert (last["iteration"], last["best_iteration"], last["finished"]) == (4, 2, True)


def test_an_average_of_the_weights_is_what_validates(left_alone: Path) -> None:
    last = weights_of(left_alone)
    average, model = part(last, "average"), part(last, "model")
    assert average.keys() == model.keys()
    assert any(not torch.equal(average[k], model[k]) for k in model)
    values = read_values(left_alone / STAGE, "best")
    if values["best_iteration"] == 8:
        best = part(weights_of(left_alone, "best"), "model")
        assert all(torch.equal(best[k], average[k]) for k in best)


@pytest.mark.parametrize("ending", ["nan", "memory", "infinite weights"])
def test_bad_endings_say_so_and_keep_a_checkpoint(
    train, make_plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    plan, step = make_plan(), trainer.Trainer.step

    def failing(self, batch, iteration):
        terms = step(self, batch, iteration)
        if iteration == 5:
            if ending == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            if ending == "nan":
                terms["loss"] = terms["loss"] * float("nan")
            else:
                next(self.network.parameters()).data[0] = float("inf")
        return terms

    monkeypatch.setattr(trainer.Trainer, "step", failing)
    with pytest.raises(ProductError) as error:
        train(plan, tmp_path / "run")
    words = {"memory": "out of memory", "nan": "the loss is nan", "infinite weights": "a weight isn't finite"}[ending]
    assert words in str(error.value)
    assert "the checkpoint of iteration 4 is kept: --resume" in str(error.value)
    monkeypatch.setattr(trainer.Trainer, "step", step)
    train(plan, tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").finished(0, "global")


def test_a_validation_without_a_number_ends_the_run(
    train, make_plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(validate_every=4)
    nothing = Scores({}, {"mae_hu": float("nan")})
    monkeypatch.setattr(trainer.Trainer, "validate", lambda self, picture: nothing)
    with pytest.raises(InputError, match=r"iteration 4: the validation's score is nan \(mae\)"):
        train(plan, tmp_path / "run")


@pytest.mark.heavy
def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint(
    make_plan, train, cohort_folder: Path, cache: Path, tmp_path: Path
) -> None:
    """Files above a limit fail as on a full disk, in a process of their own."""
    plan, out = make_plan(), tmp_path / "run"
    first = make_plan(stages=({"name": "global", "iterations": 8},))
    step = trainer.Trainer.step

    def stop(self, batch, iteration):
        if iteration == 5:
            raise KeyboardInterrupt
        return step(self, batch, iteration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(first, out)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    ended = subprocess.run(
        command(plan, tmp_path, cohort_folder, out, cache, "--resume"),
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        preexec_fn=limit,
    )
    assert ended.returncode == ExitCode.RESOURCES
    assert "can't be written" in ended.stderr
    assert "the checkpoint of iteration 5 is kept: --resume" in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
    assert read_values(out / STAGE, "last")["iteration"] == 5  # which the interruption wrote
    assert not list((out / STAGE).glob(".*"))
    train(plan, out, resume=True)
    assert Run(out).finished(0, "global")


OBJECTIVES = {
    "supervised": {},
    "reggan": {"objective": {"kind": "reggan", "channels": 4, "discriminator": {"channels": 4, "layers": 1}}},
    "cyclegan": {"objective": {"kind": "cyclegan", "discriminator": {"channels": 4, "layers": 1}}, "losses": ()},
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_two_processes_reach_the_weights_of_one(
    make_plan, cohort_folder: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    """Same global batch, frozen batch-norm statistics, gloo; every network of the objective."""
    plan = make_plan(
        **{
            "computing": {"batch_norm": "frozen"},
            "losses": (
                {"kind": "l1", "over": "mask"},
                {"kind": "impact_synth", "weight": 0.02, "extractor": "mind-2d"},
            ),
            "stages": ({"name": "global", "iterations": 4},),
            "validate_every": 4,
            "optimiser": {"learning_rate": 1e-4},
        }
        | OBJECTIVES[kind]
    )
    for devices in (1, 2):
        subprocess.run(
            command(plan, tmp_path, cohort_folder, tmp_path / f"run{devices}", cache, "--devices", str(devices)),
            env=ENVIRONMENT,
            check=True,
            capture_output=True,
            timeout=300,
        )
    one, two = (weights_of(tmp_path / f"run{n}") for n in (1, 2))
    for key in [k for k in one if k.startswith(("model.", "networks."))]:
        torch.testing.assert_close(two[key], one[key], atol=2e-6, rtol=1e-4, msg=key)
    scores = [read_values(tmp_path / f"run{n}" / STAGE, "best")["metrics"]["mae_hu"] for n in (1, 2)]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)
