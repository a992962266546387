"""How long a simulated case takes and how much memory: one process a case, cold, all steps and files included.

    python benchmarks/simulate.py [--repeats 2] > benchmarks/simulate.csv

The target: 192x160x48 voxels, MR within 15 s, CBCT within 60 s, each below 4 GB, on two cores. `kept` goes by
CPU seconds of all threads together: what an idle machine takes at most, whatever else this one does meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = "192,160,48"
SPACING = "2,2,3"  # a whole trunk in the plane
LIMITS = {"mri": 15.0, "cbct": 60.0}


def case(task: str, region: str, seed: int) -> dict[str, object]:
    """Run one case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--inside", folder, task, region, str(seed)]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
        wall = time.perf_counter() - start
        simulate_s, peak, cpu = (float(v) for v in done.stdout.split()[-3:])
    return {
        "task": task,
        "region": region,
        "seed": seed,
        "size": SIZE.replace(",", "x"),
        "wall_s": round(wall, 1),
        "simulate_s": round(simulate_s, 1),
        "cpu_s": round(cpu, 1),
        "peak_mb": round(peak),
        "limit_s": LIMITS[task],
        "kept": cpu <= LIMITS[task] and peak < 4000,
    }


def inside(folder: str, task: str, region: str, seed: str) -> None:
    """What the measured process does; prints seconds, peak memory in MB and CPU seconds."""
    from sctlab.simulation.case import simulate_case
    from sctlab.simulation.settings import CaseSettings
    from sctlab_model.cases import Region, Task

    options = CaseSettings(
        spacing_xyz=tuple(float(v) for v in SPACING.split(",")),
        size_xyz=tuple(int(v) for v in SIZE.split(",")),
        seed=int(seed),
    )
    start = time.perf_counter()
    simulate_case(Path(folder) / "case", Task(task), Region(region), 0, options)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time())


def main() -> None:
    """Measure both tasks in every region."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--inside", nargs=4)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(*arguments.inside)
        return
    from sctlab_model.processors import available_cpus

    print(
        f"# {platform.machine()}, {available_cpus()} cores, Python {platform.python_version()}, spacing {SPACING} mm;"
        " simulate_s: the case without starting Python; itk's import is inside it for CBCT"
    )
    writer = None
    for task in LIMITS:
        for region in ("AB", "TH", "HN"):
            for seed in range(arguments.repeats):
                row = case(task, region, seed)
                if writer is None:
                    writer = csv.DictWriter(sys.stdout, row.keys())
                    writer.writeheader()
                writer.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
