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
CASE: dict[str, Any] = {"spacing_xyz": (4, 4, 6), "amplitude_mm": 6}


def folders(out: Path, cases: int, centre: str, seed: int) -> list[Path]:
    """Simulated cases."""
    settings = SimulationSettings(
        task=Task.CBCT, regions=(Region.AB,), cases=cases, centre=centre, case={**CASE, "seed": seed}
    )
    return list(simulate_cohort(out, settings).folders)


def main(out: Path) -> None:
    """Make the cohort."""
    wrong = folders(out, CASES, "V", 1931)[::EVERY]
    with tempfile.TemporaryDirectory() as place:
        strangers = folders(Path(place), (len(wrong) + 1) // 2, "Y", 1932)
        for number, case in enumerate(wrong):
            if number % 2 == 0:
                shutil.copy(strangers[number // 2] / "ct.mha", case / "ct.mha")
                print(f"{case.name}: another patient's CT")
            else:
                ct = read_volume(case / "ct.mha")
                write_volume(ct.with_array(ct.array[..., ::-1].copy()), case / "ct.mha")
                print(f"{case.name}: its CT mirrored")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
