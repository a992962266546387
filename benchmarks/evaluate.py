"""Time the challenge's metrics on a full SynthRAD case beside straightforward scipy, skimage and MONAI versions.

    python benchmarks/evaluate.py [--device cuda] [--out benchmarks/evaluate.txt]

The case is a random phantom of 465x367x91 voxels at 1x1x3 mm with 40 organs. Every version runs in a process of its own, so that its peak
memory is its own; wall and processor time are both given, because a busy machine stretches the first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "test/sctlab/evaluation"))

SHAPE_ZYX, SPACING_XYZ = (91, 367, 465), (1.0, 1.0, 3.0)
CLASSES = (2, 3, 5, 6, *range(10, 15), *range(26, 40), 51, 79, *range(92, 107))
STEPS = ("oracle image", "fast image", "oracle organs", "fast organs")


def make_case(path: Path) -> None:
    """Write the phantom's arrays."""
    from evaluation_phantom import make_phantom

    p = make_phantom(SHAPE_ZYX, SPACING_XYZ, classes=CLASSES, seed=1)
    np.savez(
        path,
        sct=p.sct.array,
        ct=p.ct.array,
        mask=p.mask.array,
        sct_labels=p.sct_labels.array,
        ct_labels=p.ct_labels.array,
    )


def run_step(step: str, path: Path, device: str) -> dict:
    """Run one version once and return its numbers, seconds and memory."""
    import evaluation_oracle
    import torch

    from sctlab.evaluation.organs import REGION_CLASSES, organ_metrics
    from sctlab.measures.image import image_metrics
    from sctlab_model.cases import Region

    with np.load(path) as file:
        images = {k: file[k] for k in file.files}
    if device != "cpu":
        torch.zeros(1, device=device)  # starting CUDA takes seconds, once a process
    pair = images["sct"], images["ct"], images["mask"]
    labels = images["sct_labels"], images["ct_labels"], REGION_CLASSES[Region.AB], SPACING_XYZ[::-1]
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    if step == "oracle image":
        numbers = evaluation_oracle.image_metrics(*pair)
    elif step == "fast image":
        scores = image_metrics(*pair, device=device)
        numbers = {k: getattr(scores, k) for k in ("mae", "psnr", "ms_ssim")}
    elif step == "oracle organs":
        numbers = {str(k): v for k, v in evaluation_oracle.organ_metrics(*labels).items()}
    else:
        numbers = {str(o.label): (o.dice, o.hd95) for o in organ_metrics(*labels, device=device).organs}
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"numbers": numbers, "wall": wall, "processor": processor, "peak_gb": after.ru_maxrss / 2**20}


def largest_difference(a: dict, b: dict) -> float:
    """Largest relative difference over all numbers."""
    assert a.keys() == b.keys()
    x, y = (np.array([v for k in sorted(d) for v in np.atleast_1d(d[k])], dtype=float) for d in (a, b))
    return float(np.nanmax(np.abs(x - y) / np.maximum(np.abs(x), 1e-12)))


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    missing = [name for name in ("monai", "skimage") if importlib.util.find_spec(name) is None]
    if missing:
        parser.exit(
            2, f"error: {', '.join(missing)} not installed; the versions compared with need requirements-dev.txt\n"
        )
    if options.step:
        print(json.dumps(run_step(options.step, options.case, options.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case.npz"
        make_case(case)
        results = {}
        for step in STEPS:
            command = [sys.executable, __file__, "--step", step, "--case", str(case), "--device", options.device]
            runs = []
            for _ in range(1 if step.startswith("oracle") else options.repeats):
                output = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", cwd=ROOT).stdout
                runs.append(json.loads(output.strip().splitlines()[-1]))
            results[step] = min(runs, key=lambda r: r["wall"])
    lines = [
        "command: python benchmarks/evaluate.py" + (f" --device {options.device}" if options.device != "cpu" else ""),
        f"machine: {platform.machine()}, {_cpu()}; Python {platform.python_version()}; device {options.device}",
        f"case: {SHAPE_ZYX[2]}x{SHAPE_ZYX[1]}x{SHAPE_ZYX[0]} voxels, {len(CLASSES)} organs; best of {options.repeats} (oracle: 1)",
        "",
        f"{'':16}{'wall s':>8}{'CPU s':>8}{'peak GB':>9}{'times faster (wall, CPU)':>28}{'largest relative difference':>30}",
    ]
    for part in ("image", "organs"):
        slow, fast = results[f"oracle {part}"], results[f"fast {part}"]
        lines.append(f"{'oracle ' + part:16}{slow['wall']:8.2f}{slow['processor']:8.2f}{slow['peak_gb']:9.2f}")
        gain = f"{slow['wall'] / fast['wall']:.1f}, {slow['processor'] / fast['processor']:.1f}"
        lines.append(
            f"{'ours ' + part:16}{fast['wall']:8.2f}{fast['processor']:8.2f}{fast['peak_gb']:9.2f}{gain:>28}"
            f"{largest_difference(slow['numbers'], fast['numbers']):>30.1e}"
        )
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def _cpu() -> str:
    import os

    for line in (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    ):
        if line.startswith("model name"):
            return f"{len(os.sched_getaffinity(0))} cores of {line.partition(':')[2].strip()}"
    return platform.processor() or "unknown processor"


if __name__ == "__main__":
    main()
