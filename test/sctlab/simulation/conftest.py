"""A small painted patient, and a small case, for the tests of this part."""

from pathlib import Path

import numpy as np
import pytest

from sctlab.simulation.anatomy import build_phantom, default_grid
from sctlab.simulation.case import simulate_case
from sctlab.simulation.settings import CaseSettings
from sctlab_model.cases import Region, Task

SMALL = CaseSettings(spacing_xyz=(5.0, 5.0, 6.0), size_xyz=(84, 66, 28), seed=7)


@pytest.fixture(scope="session")
def abdomen():
    rng = np.random.default_rng(11)
    grid = default_grid(Region.AB, rng, (5.0, 5.0, 5.0), (84, 66, 40))
    return build_phantom(Region.AB, grid, rng)


@pytest.fixture(scope="session")
def small_case(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "Task1" / "AB" / "1ABS001"
    simulate_case(folder, Task.MRI, Region.AB, 0, SMALL)
    return folder
