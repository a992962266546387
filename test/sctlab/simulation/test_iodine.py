"""A contrast medium: where it goes, where it doesn't, and that an MR doesn't show it."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage

from sctlab.simulation.case import SimulatedCase, simulate
from sctlab.simulation.iodine import BLOOD_HU, add_contrast_medium
from sctlab.simulation.phantom import Phantom
from sctlab.simulation.settings import CaseSettings
from sctlab.simulation.tissues import Tissue
from sctlab_model.cases import Region, Task
from sctlab_model.volume import Geometry

SMALL = CaseSettings(spacing_xyz=(5, 5, 8), amplitude_mm=0, seed=5)
TISSUES = (Tissue.AIR, Tissue.FAT, Tissue.MUSCLE, Tissue.LIVER, Tissue.BLOOD, Tissue.CORTICAL_BONE, Tissue.RED_MARROW)


def patient() -> Phantom:
    """A slice of every tissue."""
    tissue = np.repeat(np.array(TISSUES, np.uint8), 16).reshape(len(TISSUES), 4, 4)
    return Phantom(np.zeros(tissue.shape, np.float32), tissue, tissue * 0, Geometry((4, 4, len(TISSUES)), (1, 1, 1)))


def test_blood_takes_most_and_bone_none() -> None:
    for seed in range(30):
        hu = add_contrast_medium(patient(), np.random.default_rng(seed), 1.0).hu[:, 0, 0]
        added = dict(zip(TISSUES, hu, strict=True))
        assert BLOOD_HU[0] <= added[Tissue.BLOOD] <= BLOOD_HU[1]
        assert added[Tissue.BLOOD] > added[Tissue.LIVER] > added[Tissue.MUSCLE] > added[Tissue.FAT] >= 0
        assert added[Tissue.FAT] < 12
        assert added[Tissue.AIR] == added[Tissue.CORTICAL_BONE] == added[Tissue.RED_MARROW] == 0


def test_as_many_patients_as_asked_for() -> None:
    given = sum(add_contrast_medium(patient(), np.random.default_rng(s), 0.3).hu.any() for s in range(400))
    assert 90 <= given <= 150
    assert not add_contrast_medium(patient(), np.random.default_rng(0), 0.0).hu.any()


@pytest.fixture(scope="module")
def chests() -> tuple[SimulatedCase, SimulatedCase]:
    """One MR case without a contrast medium and with one."""
    without, with_it = (
        simulate(Task.MRI, Region.TH, SMALL.model_copy(update={"iodine": share})) for share in (0.0, 1.0)
    )
    return without, with_it


def test_the_ct_shows_it_and_the_mr_does_not(chests: tuple[SimulatedCase, SimulatedCase]) -> None:
    without, with_it = chests
    heart = without.labels_source.array == 51
    assert heart.sum() > 100
    added = with_it.ct_aligned.array.astype(float) - without.ct_aligned.array
    assert added[heart].mean() > 20
    assert abs(np.median(added[~heart & (without.mask.array > 0)])) < 15
    inside = ndimage.binary_erosion(heart)  # at its rim, iodine counts as less lung
    change = np.abs(with_it.source.array.astype(float) - without.source.array)[inside].mean()
    assert change < 0.05 * without.source.array[inside].mean()


def test_a_share_is_no_more_than_all() -> None:
    with pytest.raises(ValidationError, match="iodine"):
        CaseSettings(iodine=1.5)
