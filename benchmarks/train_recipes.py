"""Every recipe's step as it is trained: time, share of it that the loader is waited for, peak memory.

    OMP_NUM_THREADS=1 python benchmarks/train_recipes.py --small --out benchmarks/train_recipes_cpu.csv
    python benchmarks/train_recipes.py --out benchmarks/train_recipes_<device>.csv          # whole batches on a GPU
    python benchmarks/train_recipes.py --batch 2 --repeats 1 --recipes mri --out FILE       # whole patches, fewer of them

`--small` cuts patches to 96x96 and batches to 4 for a CPU; networks, losses and objectives stay, in float32 without
compilation. Extractors are the real architectures with random weights. Cases are noise on disk, mapped and cut as in
training; worker processes are the recipe's own on a GPU and none on a CPU, where they would only take turns with the
step. Each row is measured in a process of its own, so that its peak memory is its own. Rows named `recipe: change` show
what a setting does.
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctlab.training.cache import PreparedCase
from sctlab.training.dataset import PatchDataset, batches
from sctlab.training.objectives import build_objective
from sctlab.training.plan import TrainingPlan, load_plan, recipe_names

COLUMNS = ("recipe", "objective", "batch", "ms_per_iteration", "ms_loading", "loader_share", "peak_memory_mb",
           "precision", "device", "torch")  # fmt: skip
# What a setting of the feature term changes, on the recipe that costs most.
VARIANTS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "mri: L1 alone": ("mri", None),
    "mri: half of the samples": ("mri", {"samples": 0.5}),
    "mri: frozen network in bf16": ("mri", {"precision": "bf16"}),
}


def main() -> None:
    """Measure and write a CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--batch", type=int, default=0, help="whole patches, so many of them; in float32, for a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--recipes", default=",".join([*recipe_names(), *VARIANTS]))
    options = parser.parse_args()
    rows = []
    for name in options.recipes.split(","):
        # spawn: a forked child of a process that used CUDA or threads can hang
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, name, options.small, options.batch, options.repeats).result())
        print(*rows[-1].values(), flush=True)
        with options.out.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


def plan_of(name: str, small: bool, batch: int = 0) -> TrainingPlan:
    """A recipe (or a variant of one) with random extractor weights, and for a CPU with small patches."""
    recipe, change = VARIANTS.get(name, (name, {}))
    plan = load_plan(recipe)
    patch = plan.patch.changed(size_yx=(96, 96), batch=4) if small else plan.patch
    if batch:
        patch = patch.changed(batch=batch)
    computing = plan.computing.changed(precision="32", compile=False) if small or batch else plan.computing
    losses: list[Any] = []
    for loss in plan.losses:
        if loss.kind == "impact_synth":
            if change is None:
                continue
            settings = dict(change)
            if "samples" in settings:
                settings["samples"] = max(1, int(patch.batch * settings["samples"]))
            weights = {} if loss.extractor.startswith("mind") else {"weights": "random"}
            loss = loss.changed(**weights, **settings)
        losses.append(loss)
    return plan.changed(patch=patch, computing=computing, losses=tuple(losses))


def measure(name: str, small: bool, batch: int, repeats: int) -> dict[str, object]:
    """Median times of a step and of loading its batch; peak memory of tensors on CUDA, of this process on a CPU."""
    from lightning_fabric import Fabric

    from sctlab.training.devices import PRECISIONS

    plan = plan_of(name, small, batch)
    cuda = torch.cuda.is_available()
    fabric = Fabric(accelerator="cuda" if cuda else "cpu", devices=1, precision=PRECISIONS[plan.computing.precision])
    torch.manual_seed(0)
    objective = build_objective(plan)
    objective.attach(fabric)
    for network in objective.networks.values():
        network.train()
    count = repeats + (3 if cuda else 1)
    # On a CPU the process' own time: what else runs on the machine doesn't count.
    clock = time.perf_counter if cuda else time.process_time
    steps, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(Path(folder) / str(k), k) for k in range(20 if cuda else 4)]
        dataset = PatchDataset(cases, plan.patch, plan.recipe.network.slices, (0,), pairing=plan.pairing)
        stream = batches(dataset, 0, count, workers=plan.data.workers if cuda else 0, pin=cuda)
        for _ in range(count):
            begin = clock()
            drawn = next(stream)
            loaded = clock()
            objective.step(drawn.to(fabric.device, plan.computing.channels_last))
            if cuda:
                torch.cuda.synchronize()
            loads.append(loaded - begin)
            steps.append(clock() - begin)
    step, load = (float(np.median(values[-repeats:])) for values in (steps, loads))
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    shape = f"{plan.patch.batch}x{plan.recipe.network.slices}x{plan.patch.size_yx[0]}x{plan.patch.size_yx[1]}"
    values = (name, plan.objective.kind, shape, round(step * 1000), round(load * 1000, 1), round(load / step, 4),
              round(memory / 1e6), plan.computing.precision, device, torch.__version__)  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def _case(folder: Path, seed: int) -> PreparedCase:
    rng = np.random.default_rng(seed)
    source = rng.random((60, 416, 320), dtype=np.float32)
    mask = np.ones(source.shape, bool)
    folder.mkdir()
    arrays = {"source": source, "target": source, "mask": mask, "voxels": np.cumsum(mask.sum(axis=2).ravel())}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "case.json").write_text('{"outside": -1.0}')
    return PreparedCase.open(f"Task1/AB/{seed}", folder, str(seed))


if __name__ == "__main__":
    main()
