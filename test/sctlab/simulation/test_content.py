import numpy as np

from sctlab.simulation.content import HOLLOW_ORGANS, change_content
from sctlab.simulation.tissues import PROPERTIES, Tissue

HU_OF = np.array([PROPERTIES[t].hu for t in Tissue], np.float32)


def test_gas_comes_and_goes_and_only_near_hollow_organs(abdomen):
    changed, where = change_content(abdomen, HU_OF, np.random.default_rng(1), 1.0)
    difference = changed.hu - abdomen.hu
    assert where.any()
    assert np.array_equal(where, np.abs(difference) > 20)
    organ = np.isin(abdomen.label, HOLLOW_ORGANS)
    from scipy import ndimage

    assert not where[~ndimage.binary_dilation(organ, iterations=2)].any()
    assert np.array_equal(changed.label, abdomen.label)


def test_strength_zero_changes_nothing(abdomen):
    changed, where = change_content(abdomen, HU_OF, np.random.default_rng(1), 0.0)
    assert changed is abdomen
    assert not where.any()


def test_vanished_gas_becomes_content(abdomen):
    changed, _ = change_content(abdomen, HU_OF, np.random.default_rng(3), 2.0)
    gone = (abdomen.tissue == Tissue.GAS) & (changed.tissue == Tissue.STOOL)
    assert gone.sum() > 20
    assert np.median(changed.hu[gone]) > -60
