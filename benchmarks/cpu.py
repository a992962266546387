"""CPU runtimes side by side, on the same weights and the same input: seconds, system time and memory of each.

    python benchmarks/cpu.py --out benchmarks/cpu.json                   # about 4 minutes on two cores
    python benchmarks/cpu.py --folds 5 --slices 8 --out …                # the size of the documentation's older figure

The full network (ResNet-34 U-Net++, random weights), `--folds` folds, three views, `--slices` slices of 192x224 on a
512x512 canvas. Ours with the allocator's thresholds and without (`SCTLAB_MALLOC=system`), OpenVINO in fp32 and bf16, ONNX Runtime,
and the reference framework's network over the same stacks, fold by fold and view by view. Each runs in a process of its
own, in turn. `predict_seconds` is the ensemble after loading and after one small call; `memory_gb` the process's peak.
`max_hu` and `p999_hu` are the distance of the mean of folds and views from ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
KINDS = ("ours", "ours, system allocator", "openvino", "openvino bf16", "onnx", "reference")
HU = 2047.5


def make_bundle(folder: Path, folds: int) -> None:
    """Folds of the paper's recipe with random weights: the time doesn't depend on their values."""
    import torch

    from sctlab.training.plan import load_plan
    from sctlab_model.bundle import Bundle, Fold, RegionGroup, Registration, save_fold, write_bundle
    from sctlab_model.network import build_network

    recipe = load_plan("mri-paper").recipe
    made = []
    for k in range(folds):
        torch.manual_seed(k)
        weights = save_fold(build_network(recipe.network).state_dict(), folder, f"fold_{k}.safetensors", "float32")
        made.append(Fold(weights=weights, storage="float32"))
    write_bundle(
        Bundle(
            name="benchmark",
            recipe=recipe,
            groups=(RegionGroup(regions=("AB",), folds=tuple(made)),),
            registration=Registration(method="none", convention="aligned"),
            intended_use="benchmark",
        ),
        folder,
    )


def child(kind: str, folder: Path, slices: int, report: Path) -> None:
    """One runtime: load, warm up, predict, and write what it took."""
    os.environ["SCTLAB_MALLOC"] = "system" if kind in ("ours, system allocator", "reference") else ""
    from sctlab_model.processors import start_process

    start_process()
    import torch

    from sctlab_model.backends import load_backend
    from sctlab_model.bundle import read_bundle
    from sctlab_model.ensemble import predict_volume

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    bundle = read_bundle(folder)
    recipe, folds = bundle.recipe, bundle.groups[0].folds
    rng = np.random.default_rng(0)
    source = rng.uniform(-1, 1, (slices, 192, 224)).astype(np.float32)
    mask = np.ones(source.shape, bool)
    started = time.perf_counter()
    if kind == "reference":
        networks = [reference_network(folder, fold, recipe) for fold in folds]
        load_seconds = time.perf_counter() - started
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        hu = reference_loop(networks, source, recipe)
    else:
        runtime = "openvino" if kind.startswith("openvino") else "onnx" if kind == "onnx" else "torch"
        precision = "bf16" if kind.endswith("bf16") else "fp32"
        backends = [load_backend(folder, f, recipe.network, torch.device("cpu"), runtime, precision) for f in folds]
        load_seconds = time.perf_counter() - started
        backends[0](torch.zeros(1, recipe.network.slices, 64, 64))
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        hu = predict_volume(source, mask, backends, recipe).hu
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    np.save(report.with_suffix(".npy"), hu)
    report.write_text(
        json.dumps(
            {
                "predict_seconds": round(seconds, 1),
                "user_seconds": round(after.ru_utime - before.ru_utime, 1),
                "system_seconds": round(after.ru_stime - before.ru_stime, 1),
                "load_seconds": round(load_seconds, 1),
                "memory_gb": round(after.ru_maxrss / 1024**2, 2),
            }
        ),
        encoding="utf-8",
    )


def reference_network(folder: Path, fold, recipe):
    """The framework's network of the published model, with a fold's weights."""
    import segmentation_models_pytorch as smp
    import torch
    from konfai.network import network

    from sctlab_model.bundle import load_fold

    class Published(network.Network):
        def __init__(self) -> None:
            super().__init__(in_channels=recipe.network.slices, dim=2)
            self.add_module(
                "model",
                smp.UnetPlusPlus(
                    "resnet34",
                    encoder_weights=None,
                    in_channels=recipe.network.slices,
                    classes=1,
                    decoder_channels=recipe.network.decoder_channels,
                ),
            )
            self.add_module("Tanh", torch.nn.Tanh())

    made = Published()
    state = {k.removeprefix("unet."): v for k, v in load_fold(folder, fold).items()}
    made["model"].load_state_dict(state)
    return made.eval()


def reference_loop(networks, source: np.ndarray, recipe) -> np.ndarray:
    """What its predictor computes: a view flipped, padded at the end, one slice at a time, fold after fold."""
    import torch

    from sctlab_model.preparation import stack_indices

    volume, (rows, columns) = torch.from_numpy(source), source.shape[1:]
    neighbours = stack_indices(len(volume), recipe.network.slices)
    total, count = torch.zeros_like(volume), 0
    with torch.no_grad():
        for network in networks:
            for flips in ((), (-1,), (-2,)):
                count += 1
                for k in range(len(volume)):
                    stack = torch.flip(volume[neighbours[k : k + 1]], flips)
                    pads = (0, 512 - columns, 0, 512 - rows)
                    stack = torch.nn.functional.pad(stack, pads, value=recipe.canvas.pad_value)
                    result = [value for _, value in network.named_forward(stack)][-1]
                    total[k] += torch.flip(result[0, 0, :rows, :columns], flips)
    return ((total / count + 1) * HU - 1024).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=KINDS, action="append", help="only this one; repeat it for several")
    parser.add_argument("--out", type=Path)
    for hidden in ("--child", "--folder", "--report"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, Path(options.folder), options.slices, Path(options.report))
        return
    from sctlab.training.onnx_export import export_bundle

    chosen = [k for k in KINDS if not options.only or k in options.only]
    environment = os.environ | {
        n: str(options.threads) for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    }  # fmt: skip
    rows: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bundle(folder / "weights", options.folds)
        if "onnx" in chosen:
            export_bundle(folder / "weights", ("fp32",))
        first = None
        for kind in chosen:
            report = folder / "report.json"
            command = [sys.executable, __file__, "--child", kind, "--folder", folder / "weights", "--report", report,
                       "--slices", options.slices, "--folds", options.folds]  # fmt: skip
            done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, encoding="utf-8")
            if done.returncode:
                rows[kind] = {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
            else:
                hu = np.load(report.with_suffix(".npy"))
                first = hu if first is None else first
                error = np.abs(hu - first)
                rows[kind] = json.loads(report.read_text()) | {
                    "max_hu": round(float(error.max()), 3),
                    "p999_hu": round(float(np.percentile(error, 99.9)), 3),
                }
            print(kind, rows[kind], flush=True)
            if options.out is not None:  # after every one: a benchmark that is cut keeps what it measured
                write(options, rows)


def write(options: argparse.Namespace, rows: dict[str, dict]) -> None:
    """The result so far."""
    result = {
        "command": "python benchmarks/cpu.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads used, load {os.getloadavg()[0]:.1f}",
        "runs": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
