"""The dose report's picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sctlab.evaluation.dose.figures import dose_picture
from sctlab.evaluation.images import Images
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

GRID = Geometry((20, 16, 4), (2.0, 2.0, 3.0))


def test_the_plan_is_drawn_as_the_patient_lies_whatever_way_the_files_run(
    tmp_path: Path, from_the_left: Callable[[Volume], Volume]
) -> None:
    rng = np.random.default_rng(0)
    hu = np.full(GRID.shape_zyx, -1000, np.int16)
    hu[:, 3:13, 2:14] = rng.integers(-100, 100, (4, 10, 12))
    target = np.zeros(GRID.shape_zyx, np.uint8)
    target[1:3, 6:9, 4:7] = 1
    dose = np.where(target, 2.0, 0.8).astype(np.float32) + np.linspace(0, 0.5, 20, dtype=np.float32)
    pictures = []
    for name, stored in (("right", lambda v: v), ("left", from_the_left)):
        files = {}
        for key, array in (("ct", dose), ("sct", dose * np.float32(1.02)), ("target", target)):
            files[key] = str(tmp_path / f"{name}_{key}.mha")
            write_volume(stored(Volume(array, GRID)), Path(files[key]))
        ct = stored(Volume(hu, GRID))
        entry = {
            "plan": {"prescription_gy": 2.0},
            "files": files,
            "dose_gy": [0.0, 1.0, 2.0],
            "histograms": {"target": {"ct": [100, 100, 50], "sct": [100, 100, 60]}},
        }
        pictures.append(dose_picture(Images(ct, ct, ct.array > -500), entry))
    assert pictures[0] is not None
    assert pictures[0] == pictures[1]
    assert dose_picture(Images(ct, ct, ct.array > -500), {"files": {}}) is None
