"""Kill a command at random moments: what is there is whole, and the next run leaves nothing of the killed one behind.

    python benchmarks/kills.py --kills 100 --out benchmarks/kills.json

`sctlab simulate` makes six small cases into one folder, again and again, and is killed (SIGKILL) with all its workers up to
`--longest` seconds after its start. After each kill every case folder that has appeared must be whole: its images are
read, checksums included, and its record is parsed. A finished cohort is removed so that there is something to kill. At the
end the command runs undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sctlab.simulation.truth import SimulationTruth
from sctlab.transforms.itk_files import read_itk
from sctlab_model.io.reading import read_volume

CASES = 6
SETTINGS = ["--task", "mri", "--regions", "HN", "--spacing", "8,8,10", "--size", "36,36,16", "--cases", str(CASES)]
PART = re.compile(r"\..*\.part(\..*)?|\.partial-.*")


def parts(folder: Path) -> list[str]:
    """Names of what is not finished."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if PART.fullmatch(p.name))


def injured(folder: Path) -> list[str]:
    """Case folders that have appeared and are not whole."""
    found = []
    for case in folder.glob("Task1/HN/[!.]*"):
        try:
            for name in ("mr.mha", "ct.mha", "mask.mha", "truth/ct_aligned.mha"):
                read_volume(case / name)
            SimulationTruth.read(case / "truth/truth.json")
            read_itk(case / "truth/deformation.h5")
        except Exception as error:
            found.append(f"{case.name}: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds until a kill, at most")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    chance, start = random.Random(0), time.monotonic()
    left, faults, appeared = 0, [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "cohort")
        command = [sys.executable, "-m", "sctlab.cli", "simulate", str(folder), *SETTINGS]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for _ in range(options.kills):
            process = subprocess.Popen(command, start_new_session=True, **quiet)
            time.sleep(chance.uniform(1.0, options.longest))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            faults += injured(folder)
            left += bool(parts(folder))
            done = list(folder.glob("Task1/HN/[!.]*"))
            if len(done) == CASES:
                appeared += len(done)
                for case in done:
                    shutil.rmtree(case)
        code = subprocess.run(command, check=False, **quiet).returncode
        result = {
            "command": " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]),
            "kills": options.kills,
            "kills_that_left_a_part": left,
            "cases_made": appeared + len(list(folder.glob("Task1/HN/[!.]*"))),
            "cases_not_whole": faults + injured(folder),
            "left_after_the_last_run": parts(folder),
            "exit_code_of_the_last_run": code,
            "seconds": round(time.monotonic() - start),
        }
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    sys.exit(1 if result["cases_not_whole"] or result["left_after_the_last_run"] or code else 0)


if __name__ == "__main__":
    main()
