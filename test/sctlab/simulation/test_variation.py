import numpy as np

from sctlab.simulation.variation import vary_body


def test_every_seed_makes_another_patient_with_the_same_organs(abdomen):
    bodies = [vary_body(abdomen, np.random.default_rng(s)) for s in (0, 0, 1, 2)]
    assert np.array_equal(bodies[0].hu, bodies[1].hu)
    volumes = []
    for body in bodies[1:]:
        assert body.geometry == abdomen.geometry
        assert set(np.unique(body.label)) <= set(np.unique(abdomen.label))
        assert abs(np.median(body.hu[body.label == 5]) - np.median(abdomen.hu[abdomen.label == 5])) < 8
        assert np.mean(np.abs(body.hu - abdomen.hu)) > 60
        volumes.append([(body.label == k).sum() for k in (5, 29)])
    volumes = np.array(volumes)
    assert (volumes.max(0) / volumes.min(0) > 1.03).any()
    assert (volumes[:, 0] > 1000).all()


def test_no_strength_changes_nothing(abdomen):
    assert vary_body(abdomen, np.random.default_rng(0), 0.0) is abdomen


def test_tissue_and_hu_stay_together(abdomen):
    from sctlab.simulation.tissues import Tissue

    body = vary_body(abdomen, np.random.default_rng(3), 1.5)
    for tissue in (Tissue.FAT, Tissue.MUSCLE, Tissue.LIVER):
        before, after = (np.median(b.hu[b.tissue == tissue]) for b in (abdomen, body))
        assert abs(before - after) < 12
