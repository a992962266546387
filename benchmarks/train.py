"""The network step of training: iterations/s and memory by precision, layout, compilation and extractor.

    python benchmarks/train.py                                               # reference setting on a GPU, as a table
    python benchmarks/train.py --out benchmarks/train_<device>.csv           # the same, and kept
    OMP_NUM_THREADS=1 python benchmarks/train.py --small --reference --out benchmarks/train_cpu.csv
    python benchmarks/train.py --loader runs/mri                             # share of time a real run waited for data

The reference setting is batch 32 of 5x320x320 with ResNet-34. `--small` is a batch of 4 of 5x96x96 for a CPU. The
extractors are the real architectures with random weights: their speed doesn't depend on the values.
TotalSegmentator sees in 3D and needs 64 adjacent slices, so it has a setting of its own, a slab of 64 slices of
64x64 (`--small`) or 128x128, and a row without extractor to compare with. `--reference` adds the step of the
reference framework's own network class (PyPI `konfai`). Each row is measured in a process of its own, so that its
peak memory is its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from markdown import markdown

from sctlab.features import FeatureExtractor, load_extractor
from sctlab.training.batch import Batch
from sctlab.training.cache import PreparedCase
from sctlab.training.dataset import PatchDataset, batches
from sctlab.training.loss_terms import FeatureL1, SynthesisLoss
from sctlab.training.losses import L1
from sctlab.training.plan import Patch
from sctlab_model.network import build_network
from sctlab_model.recipe import Recipe

COLUMNS = ("what", "extractor", "precision", "channels_last", "compiled", "ms_per_iteration", "iterations_per_s",
           "peak_memory_mb", "device", "torch")  # fmt: skip
EXTRACTORS = "none,mind-2d,vgg16,sam2.1-small,totalsegmentator"
# As in the recipes; of the two others a shallow and a deeper layer.
LAYERS = {"mind-2d": (0,), "vgg16": (0, 1, 2, 3), "sam2.1-small": (1, 2), "totalsegmentator": (1, 2)}


def main() -> None:
    """Measure and write a CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--extractors", default=EXTRACTORS)
    parser.add_argument("--loader", type=Path, help="Only read the logs of this run.")
    options = parser.parse_args()
    if options.loader is not None:
        print(f"{options.loader}: waited for data {logged_share(options.loader):.2%} of the time")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, object]] = []
    for arguments in work(device, options.extractors.split(","), options.small, options.reference):
        # spawn: a forked child of a process that used CUDA or threads can hang
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, device, *arguments, options.repeats).result())
        print(*rows[-1].values(), flush=True)
        if options.out is not None:
            with options.out.open("w", newline="") as handle:
                writer = csv.DictWriter(handle, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    print(markdown(rows, {name: name.replace("_", " ") for name in COLUMNS}))
    # The fastest step of ours waits the most.
    fastest = min(
        (r for r in rows if r["extractor"] == "none" and "reference" not in str(r["what"])),
        key=lambda r: float(r["ms_per_iteration"]),
    )
    share = waiting_share(device, patch_of("none", options.small), fastest)
    print(f"share of the time that the loader is waited for: {share:.2%}")


def work(
    device: torch.device, extractors: list[str], small: bool, reference: bool
) -> Iterator[tuple[Patch, str, str, bool, bool, bool]]:
    """Patch, extractor, precision, channels_last, compiled, reference network: the rows in order."""
    for extractor in extractors:
        patch = patch_of(extractor, small)
        if patch.slab > 1:
            yield patch, "none", "fp32", True, False, False
        for row in settings(device, extractor):
            yield patch, extractor, *row, False
    if reference:
        yield patch_of("none", small), "none", "fp32", False, False, True


def patch_of(extractor: str, small: bool) -> Patch:
    """The batch of a setting."""
    if extractor == "totalsegmentator":
        return Patch(size_yx=(64, 64) if small else (128, 128), batch=64, slab=64)
    return Patch(size_yx=(96, 96), batch=4) if small else Patch()


def settings(device: torch.device, extractor: str) -> Iterator[tuple[str, bool, bool]]:
    """Precision, channels_last, compiled."""
    if device.type == "cpu" and extractor != "none":
        yield from (("fp32", True, False), ("bf16", True, False))
        return
    yield from (("fp32", False, False), ("fp32", True, False), ("bf16", False, False), ("bf16", True, False))
    if device.type == "cuda":
        yield "fp16", True, False
    yield from (("fp32", True, True), ("bf16", True, True))


def step_of(
    device: torch.device,
    patch: Patch,
    extractor: str,
    precision: str,
    channels_last: bool,
    compiled: bool,
    reference: bool,
) -> Callable[[], None]:
    """One whole optimiser step on random data."""
    torch.manual_seed(0)
    recipe = Recipe(task="mri")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = (_reference() if reference else build_network(recipe.network)).to(device, memory_format=layout).train()
    loss = SynthesisLoss([L1()], recipe, patch.slab)
    if extractor != "none":
        layers = dict.fromkeys(LAYERS[extractor], 1.0)
        loss.terms["impact"] = FeatureL1(_extractor(extractor), layers, recipe, patch.slab)
        loss.weights["impact"] = 1.0
    loss = loss.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), fused=device.type == "cuda" or None)
    model = torch.compile(network) if compiled else network
    shape = (patch.batch, 1, *patch.size_yx)
    source = torch.randn(patch.batch, 5, *patch.size_yx, device=device).to(memory_format=layout)
    target, mask = torch.rand(shape, device=device) * 2 - 1, torch.ones(shape, dtype=torch.bool, device=device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def step() -> None:
        with torch.autocast(device.type, kind) if kind else nullcontext():
            total, _ = loss(model(source), Batch.of_pairs(source, target, mask))
        optimiser.zero_grad()
        scaler.scale(total).backward()
        scaler.step(optimiser)
        scaler.update()

    return step


def _extractor(name: str) -> FeatureExtractor:
    """The real architecture; random weights where it has any."""
    if name == "totalsegmentator":
        from sctlab.features.networks.nnunet import TotalSegmentator

        return TotalSegmentator()
    return load_extractor(name, weights=None if name.startswith("mind") else "random")


def _reference() -> torch.nn.Module:
    """The reference framework's own port of the network."""
    from konfai.models.python.segmentation.unetplusplus import UNetPlusPlus

    port = UNetPlusPlus(in_channels=5, classes=1, encoder_name="resnet34")

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.port = port

        def forward(self, source: torch.Tensor) -> torch.Tensor:
            for _, value in self.port.named_forward(source):
                last = value
            return torch.tanh(last)

    return Last()


def measure(
    device: torch.device,
    patch: Patch,
    extractor: str,
    precision: str,
    channels_last: bool,
    compiled: bool,
    reference: bool,
    repeats: int,
) -> dict[str, object]:
    """Median time of a step; peak memory of tensors on CUDA, of this whole process on a CPU."""
    cuda = device.type == "cuda"
    torch.backends.cudnn.benchmark = cuda  # as training has it from its first step
    step = step_of(device, patch, extractor, precision, channels_last, compiled, reference)
    for _ in range(3 if cuda else 1):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        # On a CPU the process' own time: what else runs on the machine doesn't count.
        clock = time.perf_counter if cuda else time.process_time
        start = clock()
        step()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - start)
    seconds = float(np.median(times))
    memory = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    name = (
        torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} thread(s), CPU time"
    )
    return dict(
        zip(
            COLUMNS,
            (
                f"{'reference framework' if reference else 'this'} {patch.batch}x5x{patch.size_yx[0]}x{patch.size_yx[1]}",
                extractor,
                precision,
                channels_last,
                compiled,
                round(seconds * 1000, 1),
                round(1 / seconds, 3),
                round(memory / 1e6),
                name,
                torch.__version__,
            ),
            strict=True,
        )
    )


def waiting_share(device: torch.device, patch: Patch, row: dict[str, object]) -> float:
    """Share of an epoch that goes by in `next(loader)` while a step of the measured length runs.

    The cohort is 20 canvases of 60x416x320 voxels on disk. On a CPU no worker process helps, so this is the
    cost of cutting the patches itself.
    """
    workers = 8 if device.type == "cuda" else 0
    seconds = float(row["ms_per_iteration"]) / 1000
    with tempfile.TemporaryDirectory() as folder:
        cases = [_case(Path(folder) / str(k), k) for k in range(20 if device.type == "cuda" else 4)]
        dataset = PatchDataset(cases, patch, 5, (0,))
        count, waited = (200 if device.type == "cuda" else 30), 0.0
        stream = batches(dataset, 0, count + 10, workers=workers, pin=device.type == "cuda")
        for index in range(count + 10):
            start = time.perf_counter()
            next(stream)
            if index >= 10:
                waited += time.perf_counter() - start
            if workers:
                time.sleep(seconds)  # the device works by itself
    return waited / (waited + count * seconds)


def logged_share(run: Path) -> float:
    """Share of the time that a run waited for its loader: the mean over what its folds and stages logged."""
    lines = [json.loads(text) for log in sorted(run.glob("fold_*/*/metrics.jsonl")) for text in log.open()]
    return float(np.mean([line["waiting_share"] for line in lines if line["kind"] == "train"]))


def _case(folder: Path, seed: int) -> PreparedCase:
    rng = np.random.default_rng(seed)
    source = rng.random((60, 416, 320), dtype=np.float32)
    mask = np.ones(source.shape, bool)
    folder.mkdir()
    for name, array in (
        ("source", source),
        ("target", source),
        ("mask", mask),
        ("voxels", np.cumsum(mask.sum(axis=2).ravel())),
    ):
        np.save(folder / f"{name}.npy", array)
    (folder / "case.json").write_text('{"outside": -1.0}')
    return PreparedCase.open(str(seed), folder)


if __name__ == "__main__":
    main()
