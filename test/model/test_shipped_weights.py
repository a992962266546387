"""What the demonstration weights' manifests say of the cases that they were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sctlab.simulation.settings import SimulationSettings, case_id
from sctlab_model.bundle import read_bundle, unseen_folds
from sctlab_model.cases import Region

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.mark.parametrize("name", ["demo-mri", "demo-cbct"])
def test_a_cohort_simulated_by_default_is_none_of_theirs(name: str) -> None:
    """A case is told by its id: with the default centre's in the manifest, a first cohort's predictions were refused."""
    bundle = read_bundle(WEIGHTS / name)
    for region in Region:
        for index in range(3):
            case = case_id(bundle.task, region, index, SimulationSettings().centre)
            assert unseen_folds(bundle.groups[0], case) == [0]
