"""A simulated cohort in which every third CT is wrong, for a study of exclusion: `python benchmarks/study_wrong_pairs.py OUT`.

Twelve abdomens with CBCT as `studies/conventions` has them. The first and the third wrong case have the CT of another patient (simulated for this
alone, so that nobody is in two folds), the others their own CT mirrored left to right, as a lost header does. Source, mask
and truth stay those of the case, so whatever is trained on the wrong pairs can be scored by the truth.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from sctlab.simulation.cohort import simulate_cohort
from sctlab.simulation.settings import SimulationSettings
from sctlab_model.cases import Region, Task
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume

CASES, EVERY = 12, 3
IMAGES = ("ct.mha", "labels.mha")  # what is the CT's
CASE: dict[str, Any] = {"spacing_xyz": (4, 4, 6), "amplitude_mm": 6}


def folders(out: Path, cases: int, centre: str, seed: int) -> list[Path]:
    """Simulated cases."""
    settings = SimulationSettings(
        task=Task.CBCT, regions=(Region.AB,), cases=cases, centre=centre, case={**CASE, "seed": seed}
    )
    return list(simulate_cohort(out, settings).folders)


def main(out: Path) -> None:
    """Make the cohort."""
    for case in sorted((out / "Task2" / "AB").glob("2ABV*"))[::EVERY]:
        shutil.rmtree(case)  # of an earlier call: a CT mirrored twice is right again
    wrong = folders(out, CASES, "V", 1931)[::EVERY]
    with tempfile.TemporaryDirectory() as place:
        strangers = folders(Path(place), (len(wrong) + 1) // 2, "Y", 1932)
        for number, case in enumerate(wrong):
            if number % 2 == 0:
                for name in IMAGES:
                    shutil.copy(strangers[number // 2] / name, case / name)
                print(f"{case.name}: another patient's CT")
            else:
                for name in IMAGES:
                    image = read_volume(case / name)
                    write_volume(image.with_array(image.array[..., ::-1].copy()), case / name)
                print(f"{case.name}: its CT mirrored")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
