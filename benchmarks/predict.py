"""Speed and memory of the main job: seconds a step, slices/s, share of pure network time, peak memory, cold start.

    python benchmarks/predict.py --table --out benchmarks/predict_gpu.json              # what the documentation shows
    python benchmarks/predict.py --out benchmarks/predict_cpu.json                      # demonstration bundle
    python benchmarks/predict.py --size 512x512x300 --slices 24 --out …                 # peak memory of a large case
    python benchmarks/predict.py --recipe full --size 465x367x91 --out …                # ResNet-34, random weights, on a GPU
    python benchmarks/predict.py --recipe full --size 320x320x8 --plain --out …         # beside the plain float32 loop
    python benchmarks/predict.py --size 224x256x256 --against ../before --out …         # beside another checkout

Every figure comes from a process of its own, so that peak memory is that run's and a GPU's first case, for which its
libraries are tuned, is what is measured. The machine stands in the result.
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
from markdown import markdown

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# What `--table` runs, by the device's type: recipe, size in voxels, ReLU in the convolution's call.
SETTINGS = {
    "cuda": (
        ("full", "465x367x91", False),
        ("full", "465x367x91", True),
        ("full", "320x320x91", False),
        ("demo", "320x256x91", False),
    ),
    "cpu": (("demo", "320x256x24", False),),
}
HEADINGS = {
    "recipe": "recipe",
    "size_xyz": "voxels",
    "slices": "slices",
    "batch": "batch",
    "cold_start_seconds": "start to first call, s",
    "network_seconds": "network, s",
    "case_seconds": "case, s",
    "slices_per_second": "slices/s",
    "peak_gpu_memory_gb": "GPU memory, GB",
    "peak_memory_gb": "memory, GB",
    "machine": "machine",
}


def phantom(size_xyz: tuple[int, int, int], body_slices: int | None = None):
    """A smooth random MR-like ellipse with its mask; `body_slices` limits the slices that hold body."""
    from scipy.ndimage import zoom

    from sctlab_model.volume import Geometry, Volume

    x, y, z = size_xyz
    rng = np.random.default_rng(0)
    coarse = rng.uniform(50, 800, (max(2, z // 8), max(2, y // 16), max(2, x // 16))).astype(np.float32)
    array = zoom(coarse, np.array((z, y, x)) / coarse.shape, order=1)
    yy, xx = np.ogrid[-1 : 1 : y * 1j, -1 : 1 : x * 1j]
    mask = np.broadcast_to(xx**2 + yy**2 < 0.9, (z, y, x)).copy()
    if body_slices is not None:
        first = (z - body_slices) // 2
        mask[:first] = mask[first + body_slices :] = False
    geometry = Geometry(size_xyz, (1.0, 1.0, 3.0))
    noise = rng.integers(0, 20, array.shape).astype(np.int16)
    return Volume(np.where(mask, array.astype(np.int16), 0) + noise, geometry), Volume(mask, geometry)


def full_bundle(folder: Path, encoder: str) -> None:
    """Five folds of the full recipe with random weights: the time doesn't depend on their values."""
    import torch

    from sctlab_model.bundle import Bundle, Fold, RegionGroup, Registration, save_fold, write_bundle
    from sctlab_model.network import build_network
    from sctlab_model.network.settings import UNetPlusPlusSettings
    from sctlab_model.recipe import Recipe

    recipe = Recipe(name="benchmark", task="mri", network=UNetPlusPlusSettings(encoder=encoder))
    folds = []
    for k in range(5):
        torch.manual_seed(k)
        state = build_network(recipe.network).state_dict()
        folds.append(Fold(weights=save_fold(state, folder, f"fold_{k}.safetensors", "float32"), storage="float32"))
    write_bundle(
        Bundle(
            name="benchmark",
            recipe=recipe,
            groups=(RegionGroup(regions=("AB", "HN", "TH"), folds=folds),),
            registration=Registration(method="none", convention="aligned"),
            intended_use="benchmark",
        ),
        folder,
    )


def run_case(source: Path, mask: Path, weights: Path | None, device: str, folder: Path, *, fused: bool = False) -> dict:
    """One run of process.py in its own process."""
    report = folder / "run.json"
    command = [sys.executable, __file__, "--child", "--source", source, "--mask", mask, "--device", device,
               "--report", report, "--started", repr(time.time())]  # fmt: skip
    if weights is not None:
        command += ["--weights", weights]
    if fused:
        command += ["--fused"]
    subprocess.run([str(c) for c in command], check=True)
    return json.loads(report.read_text())


def child(options: argparse.Namespace) -> None:
    """Run the real entry point, note when the network is first called and how much memory it all took."""
    import process
    import sctlab_model.synthesiser

    if options.fused:
        from sctlab_model.backends import torch_backend

        torch_backend.FUSE_RELU = True
    original, first_call = sctlab_model.synthesiser.Synthesiser._load, []

    def load(self, *arguments):
        backends = original(self, *arguments)

        class Watched:
            def __init__(self, inner):
                self.inner, self.device = inner, inner.device
                self.description, self.batch_limit = inner.description, inner.batch_limit

            def __call__(self, stacks, window=None):
                first_call.append((time.time() - options.started, time.process_time()))
                return self.inner(stacks, window)

        return [Watched(backends[0]), *backends[1:]]

    sctlab_model.synthesiser.Synthesiser._load = load
    arguments = ["--input", str(options.source), "--mask", str(options.mask), "--task", "mri", "--region", "AB",
                 "--output", str(options.report.parent / "out"), "--device", options.device,
                 "--report", str(options.report)]  # fmt: skip
    if options.weights is not None:
        arguments += ["--weights", str(options.weights)]
    code = process.main(arguments)
    if code:
        sys.exit(code)
    report = json.loads(options.report.read_text())
    (case,) = report["cases"].values()
    report["device"], report["versions"] = case["software"]["device"], case["software"]["versions"]
    report["cold_start_seconds"], report["cold_start_processor_seconds"] = first_call[0]
    report["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    if "cuda" in report["device"]:
        import torch

        report["peak_gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1024**3
    options.report.write_text(json.dumps(report))


def whole_process(checkout: Path, folder: Path, weights: Path | None, device: str) -> tuple[float, np.ndarray]:
    """Processor seconds of a checkout's process.py from start to end, and the voxels that it wrote."""
    from sctlab_model.io.reading import read_volume

    packages = folder / f"packages {checkout.name}"
    packages.mkdir()
    (packages / "sctlab_model").symlink_to(checkout.resolve() / "model")
    command = [sys.executable, checkout / "process.py", "--input", folder / "source.mha", "--mask", folder / "mask.mha",
               "--task", "mri", "--region", "AB", "--output", packages / "out", "--device", device]  # fmt: skip
    if weights is not None:
        command += ["--weights", weights]
    before = spent()
    subprocess.run([str(c) for c in command], check=True, env=os.environ | {"PYTHONPATH": str(packages)})
    return spent() - before, read_volume(packages / "out" / "source.mha").array.astype(np.float32)


def spent() -> float:
    """Processor seconds (user + system) of the processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plain_loop(source: Path, mask: Path, weights: Path, device_name: str) -> float:
    """Seconds of the network in the straightforward way: float32, one fold, view and slice batch at a time."""
    import torch

    from sctlab_model.bundle import load_fold, read_bundle
    from sctlab_model.io.reading import read_mask, read_volume
    from sctlab_model.network import build_network
    from sctlab_model.preparation import prepare, stack_indices

    bundle = read_bundle(weights)
    prepared = prepare(read_volume(source), read_mask(mask), bundle.recipe)
    device = torch.device("cuda" if device_name == "auto" and torch.cuda.is_available() else "cpu")
    volume = torch.from_numpy(prepared.source)
    neighbours = stack_indices(len(volume), bundle.recipe.network.slices)
    networks = []
    for fold in bundle.groups[0].folds:
        network = build_network(bundle.recipe.network)
        network.load_state_dict(load_fold(weights, fold))
        networks.append(network.to(device).eval())
    with torch.no_grad():
        networks[0](volume[neighbours[:1]].to(device))  # warm up
        start = time.perf_counter()
        total = torch.zeros_like(volume)
        for network in networks:
            for flips in ((), (-1,), (-2,)):
                for k in range(len(volume)):
                    stack = torch.flip(volume[neighbours[k : k + 1]], flips).to(device)
                    total[k] += torch.flip(network(stack), flips)[0, 0].cpu()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="320x256x24", help="x, y, z voxels of 1x1x3 mm")
    parser.add_argument("--slices", type=int, help="slices that hold body; all by default")
    parser.add_argument("--recipe", choices=("demo", "full"), default="demo")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--plain", action="store_true", help="also time the plain float32 loop (full recipe)")
    parser.add_argument("--weights", type=Path, help="a bundle, instead of the demonstration's or random ones")
    parser.add_argument("--against", type=Path, help="another checkout, run on the same case and weights")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--fused", action="store_true", help="on a GPU: bias and ReLU in the convolution's call")
    parser.add_argument("--table", action="store_true", help="the settings of the documentation, as a table")
    parser.add_argument("--out", type=Path)
    for hidden in ("--source", "--mask", "--report"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    if options.table:
        rows = []
        for recipe, size, fused in SETTINGS[device_type(options.device)]:
            vars(options).update(recipe=recipe, size=size, fused=fused)
            rows.append({"recipe": f"{recipe}, fused" if fused else recipe} | measure(options))
            if options.out is not None:  # after every one: a benchmark that is cut keeps what it measured
                options.out.write_text(json.dumps(rows, indent=2) + "\n")
        print(markdown(rows, HEADINGS))
        return
    text = json.dumps(measure(options), indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def device_type(name: str) -> str:
    """`cuda` or `cpu`, as the runs will choose."""
    from sctlab_model.device import choose_device

    return choose_device(name).type


def measure(options: argparse.Namespace) -> dict:
    """The runs of one setting."""
    from sctlab_model.io.writing import write_volume

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = tuple(int(n) for n in options.size.split("x"))
        for volume, stem in zip(phantom(size, options.slices), ("source", "mask"), strict=True):
            write_volume(volume, folder / f"{stem}.mha")
        weights = options.weights
        if options.recipe == "full":
            weights = folder / "weights"
            full_bundle(weights, options.encoder)
        runs = [
            run_case(folder / "source.mha", folder / "mask.mha", weights, options.device, folder, fused=options.fused)
            for _ in range(options.repeats)
        ]
        plain = (
            plain_loop(folder / "source.mha", folder / "mask.mha", weights, options.device) if options.plain else None
        )

        both = {}
        if options.against is not None:
            both = compare(folder, weights, options)

    return summarise(runs, options, plain) | both


def compare(folder: Path, weights: Path | None, options: argparse.Namespace) -> dict[str, float]:
    """The other checkout and this one, in turn."""
    other, before = whole_process(options.against, folder, weights, options.device)
    this, now = whole_process(ROOT, folder, weights, options.device)
    return {
        "processor_seconds_against": round(other, 1),
        "processor_seconds": round(this, 1),
        "largest_difference_hu": round(float(np.abs(now - before).max()), 3),
    }


def summarise(runs: list[dict], options: argparse.Namespace, plain: float | None) -> dict:
    """Medians over the repeats."""
    cases = [next(iter(run["cases"].values())) for run in runs]
    seconds = {k: float(np.median([c["seconds"].get(k, 0.0) for c in cases])) for k in cases[0]["seconds"]}
    # What a run costs beyond reading and network: waiting for weights is start-up, reported as cold start.
    steps = ("read", "prepare", "predict", "restore", "write")
    total = sum(seconds[k] for k in steps)
    result = {
        "command": "python benchmarks/predict.py " + " ".join(a for a in sys.argv[1:]),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {runs[0]['device']}",
        "versions": runs[0]["versions"],
        "size_xyz": options.size,
        "slices": cases[0]["slices"],
        "batch": cases[0]["batch"],
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "network_seconds": round(seconds["network"], 2),
        "case_seconds": round(total, 2),
        "slices_per_second": round(cases[0]["slices"] / total, 2),
        "network_share": round(seconds["network"] / total, 4),
        "cold_start_seconds": round(float(np.median([r["cold_start_seconds"] for r in runs])), 2),
        "cold_start_processor_seconds": round(float(np.median([r["cold_start_processor_seconds"] for r in runs])), 2),
        "peak_memory_gb": round(max(r["peak_memory_gb"] for r in runs), 2),
    }
    if "peak_gpu_memory_gb" in runs[0]:
        result["peak_gpu_memory_gb"] = round(max(r["peak_gpu_memory_gb"] for r in runs), 2)
    if plain is not None:
        result["plain_float32_loop_seconds"] = round(plain, 2)
        result["speedup_over_plain_loop"] = round(plain / seconds["network"], 2)
    return result


if __name__ == "__main__":
    main()
