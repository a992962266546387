"""How long a new contrast for a training patch takes: 5x160x192 voxels, one core.

    python benchmarks/simulate_contrast.py [--draws 200] > benchmarks/simulate_contrast.csv

The limit: 20 ms at the 95th percentile (CPU time of one thread; wall time beside it, for machines that others use).
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import numpy as np

SHAPE = (5, 160, 192)
LIMIT_MS = 20.0


def patch() -> np.ndarray:
    """Fraction maps of the middle of a painted abdomen."""
    from sctlab.simulation.case import simulate
    from sctlab.simulation.settings import CaseSettings
    from sctlab_model.cases import Region, Task

    settings = CaseSettings(spacing_xyz=(2.0, 2.0, 3.0), size_xyz=(192, 160, 12), amplitude_mm=0)
    fractions = simulate(Task.MRI, Region.AB, settings).fractions
    return np.ascontiguousarray(fractions[:, 3:8])


def main() -> None:
    """Print one row: percentiles of CPU and wall time."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    from sctlab.simulation.contrast import draw_contrast

    maps = patch()
    assert maps.shape[1:] == SHAPE
    cpu, wall = [], []
    for seed in range(arguments.draws + 5):
        rng = np.random.default_rng(seed)
        starts = time.process_time(), time.perf_counter()
        draw_contrast(maps, rng, spacing_xyz=(2.0, 2.0, 3.0))
        cpu.append(1000 * (time.process_time() - starts[0]))
        wall.append(1000 * (time.perf_counter() - starts[1]))
    cpu, wall = cpu[5:], wall[5:]  # the first ones fill caches
    print(f"# {platform.machine()}, one thread, Python {platform.python_version()}, NumPy {np.__version__}")
    print("voxels,draws,cpu_ms_50,cpu_ms_95,wall_ms_50,wall_ms_95,limit_ms,kept")
    values = [*np.percentile(cpu, (50, 95)), *np.percentile(wall, (50, 95))]
    kept = values[1] <= LIMIT_MS
    print(f"{'x'.join(map(str, SHAPE))},{len(cpu)}," + ",".join(f"{v:.1f}" for v in values) + f",{LIMIT_MS:g},{kept}")


if __name__ == "__main__":
    main()
