"""How near a bundle's network runs to what the processor can multiply: what is left to gain without fewer products.

    python benchmarks/network_rate.py --out benchmarks/network_rate.json

One thread, one fold, one view, the plane that inference pads a small case to; the body fills the plane. Beside it the rate of a
product of two matrices of 1024 x 1024 by the same library. The best of several runs, in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest run; two before warm up."""
    taken = []
    for _ in range(repeats + 2):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken[2:])


def main() -> None:
    from sctlab_model.backends import load_backend
    from sctlab_model.bundle import read_bundle
    from sctlab_model.ensemble import CPU_BATCH
    from sctlab_model.preparation import padded_length
    from sctlab_model.processors import start_process

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "demo-mri")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start_process()
    torch.set_num_threads(1)
    bundle = read_bundle(options.weights)
    recipe = bundle.recipe
    backend = load_backend(options.weights, bundle.groups[0].folds[0], recipe.network, torch.device("cpu"))
    plane = [padded_length(1, recipe.canvas, axis) for axis in (0, 1)]
    stacks = torch.rand(CPU_BATCH, recipe.network.slices, *plane) * 2 - 1
    products = 0

    def count(module: nn.Conv2d, inputs: tuple, output: torch.Tensor) -> None:
        nonlocal products
        products += output.numel() * module.weight[0].numel()

    network = backend.network  # type: ignore[attr-defined]  # of the PyTorch backend
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    backend(stacks)
    for hook in hooks:
        hook.remove()
    seconds = best_seconds(lambda: backend(stacks), options.repeats)
    matrix = torch.rand(1024, 1024)
    peak = 1024**3 / best_seconds(lambda: matrix @ matrix, options.repeats)
    result = {
        "command": "python benchmarks/network_rate.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, one thread, load {os.getloadavg()[0]:.1f}",
        "network": recipe.network.description,
        "plane_yx": plane,
        "million_products_a_sample": round(products / CPU_BATCH / 1e6),
        "ms_a_sample": round(seconds / CPU_BATCH * 1e3, 1),
        "billion_products_a_second": round(products / seconds / 1e9, 1),
        "billion_products_a_second_of_matrices": round(peak / 1e9, 1),
        "share_of_that_rate": round(products / seconds / peak, 2),
    }
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
