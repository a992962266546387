"""Make the sample cases beside this file: simulated patients that the demonstration weights have not seen.

    python test/cases/make.py

Each lies in Grand Challenge's layout, with the true CT under truth/.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sctlab_model.cases import Task, find_cohort

HERE = Path(__file__).resolve().parent
# Centre T and this seed are used for nothing else.
SAMPLES = {
    Task.MRI: ("AB", ["--spacing", "1,1,3", "--size", "384,288,10"]),
    Task.CBCT: ("HN", ["--spacing", "1.5,1.5,3", "--size", "160,160,16"]),
}


def main() -> None:
    """Simulate a case per task and lay it out."""
    for task, (region, options) in SAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "sctlab.cli", "simulate", folder, "--task", task, "--regions", region,
                       "--cases", "1", "--seed", "4242", "--centre", "T", "--amplitude", "0", *options]  # fmt: skip
            subprocess.run(command, check=True)
            case = find_cohort(folder)[0]
            out = HERE / task
            shutil.rmtree(out, ignore_errors=True)
            places = {
                case.source: out / f"images/{task}/{case.id}.mha",
                case.mask: out / f"images/body/{case.id}.mha",
                case.folder / "truth/ct_aligned.mha": out / "truth/ct_aligned.mha",
            }
            for source, target in places.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            (out / "region.json").write_text(json.dumps(case.region.full_name) + "\n")
            print(f"{out}: {sum(p.stat().st_size for p in out.rglob('*') if p.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
