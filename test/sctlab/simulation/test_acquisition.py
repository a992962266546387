from dataclasses import replace

import numpy as np

from sctlab.simulation.acquisition import Acquisition, acquire
from sctlab.simulation.sequences import Kind, Output, Sequence
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry

GRID = Geometry((64, 56, 6), (1.0, 1.0, 3.0))
GRE = Sequence(Kind.GRE, 1.5, 5.0, 2.0, 12.0)
CLEAN = Acquisition(0.5, 0.0, 0.0, 0.0, 0.0, False, 0.0, 100.0)


def disc(radius: float = 20.0) -> np.ndarray:
    y, x = np.mgrid[:56, :64]
    return np.broadcast_to(np.hypot(x - 31.5, y - 27.5) < radius, GRID.shape_zyx).astype(np.float32)


def image(settings: Acquisition, water=None, fat=None, air=None, sequence=GRE):
    water = disc() if water is None else water
    fat = np.zeros_like(water) if fat is None else fat
    air = np.zeros_like(water) if air is None else air
    return acquire(water, fat, air, GRID, sequence, settings, np.random.default_rng(0))


def test_without_artefacts_the_image_is_the_magnetisation():
    assert np.abs(image(CLEAN) - 100 * disc()).max() < 1


def test_noise_is_rician():
    noisy = image(replace(CLEAN, noise=0.05))
    background, inside = noisy[disc(24) == 0], noisy[disc(15) > 0]
    assert abs(background.mean() / (5 * np.sqrt(np.pi / 2)) - 1) < 0.1  # Rayleigh in air
    assert abs(inside.std() / 5 - 1) < 0.15


def test_missing_kspace_rings_beside_an_edge():
    ringing = image(replace(CLEAN, resolution_mm=3.0))
    assert ringing[3, 28, 20:44].max() > 103
    assert np.abs(np.diff(ringing[3, 28])).max() < 70


def test_fat_is_shifted_along_the_readout_and_water_is_not():
    zero = np.zeros_like(disc())
    moved = image(replace(CLEAN, shift_mm=3.0), water=zero, fat=disc())
    centre = (moved[3] * np.arange(64)).sum() / moved[3].sum()
    assert abs(centre - 34.5) < 0.1
    still = image(replace(CLEAN, shift_mm=3.0))
    assert np.abs(still - 100 * disc()).max() < 1


def test_signal_is_lost_beside_air():
    air = np.zeros_like(disc())
    air[:, 20:36, 26:38] = 1
    lossy = image(replace(CLEAN, susceptibility=1.0), water=disc() * (1 - air), air=air)
    assert lossy[3, 28, 24] < 0.85 * lossy[3, 28, 14]


def test_bias_and_ghosts_and_motion_change_the_image():
    clean = image(CLEAN)
    for change in ({"bias": 0.3}, {"ghost": 0.1}, {"motion": True}):
        changed = image(replace(CLEAN, **change))
        assert np.abs(changed - clean).mean() > 0.5, change


def test_opposed_phase_draws_dark_lines_between_water_and_fat():
    edge = np.clip((np.arange(64) - 30) / 3, 0, 1)[None, None, :] * np.ones_like(disc())
    lines = {}
    for output in (Output.IN_PHASE, Output.OPPOSED):
        found = acquire(
            1 - edge, edge, np.zeros_like(edge), GRID, replace(GRE, output=output), CLEAN, np.random.default_rng(0)
        )
        lines[output] = found[3, 28, 31:33].min() / found[3, 28, 10]
    assert lines[Output.OPPOSED] < 0.5
    assert lines[Output.IN_PHASE] > 0.95


def test_fat_is_opposed_to_water_in_balanced_ssfp_at_high_field_only():
    edge = np.clip((np.arange(64) - 30) / 3, 0, 1)[None, None, :] * np.ones_like(disc())
    darkest = []
    for field in (0.35, 1.5):
        sequence = Sequence(Kind.BSSFP, field, 3.4, 1.7, 55.0)
        image_ = acquire(1 - edge, edge, np.zeros_like(edge), GRID, sequence, CLEAN, np.random.default_rng(1))
        darkest.append(image_[3, 28, 30:34].min() / image_[3, 28, 20])
    assert darkest[0] > 0.7 > 0.5 > darkest[1]


def test_the_noise_floor_rises_with_the_coils():
    floors = [image(replace(CLEAN, noise=0.05, coils=n))[disc(24) == 0].mean() for n in (1, 4)]
    assert abs(floors[1] / (5 * 0.5 * 35 / 16 * np.sqrt(np.pi / 2) * 2) - 1) < 0.1  # mean of a chi of 8 degrees
    assert floors[1] > 1.8 * floors[0]


def test_a_vendors_mask_zeroes_the_outside_and_correction_undoes_the_shading():
    masked = image(replace(CLEAN, noise=0.05, masked=True), air=1 - disc())
    assert (masked[:, :2] == 0).all()
    assert masked[disc(15) > 0].min() > 50
    shaded = [image(replace(CLEAN, bias=0.5, corrected=c))[disc(15) > 0].std() for c in (0.0, 1.0)]
    assert shaded[0] > 10 * shaded[1]


def test_decay_along_a_single_shot_train_blurs_along_the_phase_encoding_alone():
    sharp = image(CLEAN)
    for axis in (1, 2):
        soft = image(replace(CLEAN, train_decay=2.5, phase_axis=axis))
        steps = [np.abs(np.diff(i, axis=a)).max() for a in (1, 2) for i in (sharp, soft)]
        kept = [steps[1] / steps[0], steps[3] / steps[2]]
        assert kept[axis - 1] < 0.8
        assert abs(soft[disc(8) > 0].mean() / sharp[disc(8) > 0].mean() - 1) < 0.05  # large things keep their signal
        assert kept[axis - 1] < kept[2 - axis] - 0.1


def test_only_single_shot_protocols_decay():
    rng = np.random.default_rng(0)
    protocols = [Sequence.sample_kind(Kind.TSE, rng) for _ in range(40)]
    decays = [Acquisition.sample(p, rng).train_decay for p in protocols]
    assert all((d > 0) == p.single_shot for d, p in zip(decays, protocols, strict=True))
    assert any(d > 0 for d in decays)


def test_heads_are_imaged_finer_than_trunks_and_not_only_by_the_heads_own_sequences():
    def drawn(kind, region):
        settings = []
        for seed in range(120):
            rng = np.random.default_rng(seed)
            sequence = Sequence.sample_kind(kind, rng)
            settings.append(Acquisition.sample(sequence, rng, region))
        return np.array([s.resolution_mm for s in settings]), np.array([s.noise for s in settings])

    for kind, region in ((Kind.FLAIR, None), (Kind.MPRAGE, None), (Kind.T1_TSE, Region.HN), (Kind.GRE, Region.HN)):
        pixel, noise = drawn(kind, region)
        assert pixel.min() < 0.6
        assert pixel.max() <= 1.3
        assert noise.max() > 0.045
    pixel, noise = drawn(Kind.T1_TSE, Region.AB)
    assert pixel.min() >= 0.7
    assert pixel.max() > 2
    assert noise.max() <= 0.035
