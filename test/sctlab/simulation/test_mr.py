"""Contrast orders tissues as the sequence demands; fractions follow HU."""

import numpy as np
import pytest

from sctlab.simulation.mr import Kind, Sequence, tissue_signals, water_and_fat
from sctlab.simulation.tissues import PROPERTIES, Tissue
from sctlab_model.cases import Region

SEEDS = range(40)
HU_OF = np.array([PROPERTIES[t].hu for t in Tissue], np.float32)


def sequences(kind: Kind):
    drawn = (Sequence.sample(Region.AB, np.random.default_rng(s)) for s in SEEDS)
    return [s for s in drawn if s.kind == kind]


@pytest.mark.parametrize("kind", list(Kind))
def test_compact_bone_and_air_are_darkest(kind):
    for sequence in sequences(kind):
        signal = tissue_signals(sequence)
        assert signal[Tissue.AIR] == signal[Tissue.GAS] == 0
        soft = [signal[t] for t in (Tissue.FAT, Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN, Tissue.RED_MARROW)]
        assert signal[Tissue.CORTICAL_BONE] < 0.5 * min(soft)


def test_t1_weighted_has_fat_over_liver_over_muscle_over_fluid():
    for sequence in sequences(Kind.GRE):
        signal = tissue_signals(sequence)
        assert signal[Tissue.FAT] > signal[Tissue.LIVER] > signal[Tissue.MUSCLE] > signal[Tissue.CSF]


def test_white_matter_is_brighter_than_grey_at_strong_t1_weighting():
    signal = tissue_signals(Sequence(Kind.GRE, 1.5, 9.0, 2.0, 22.0))
    assert signal[Tissue.WHITE_MATTER] > 1.1 * signal[Tissue.GREY_MATTER] > 1.3 * signal[Tissue.CSF]


def test_t2_weighted_has_fluid_brightest():
    for sequence in sequences(Kind.TSE):
        signal = tissue_signals(sequence)
        others = [signal[t] for t in (Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY, Tissue.FAT)]
        assert min(signal[Tissue.URINE], signal[Tissue.CSF]) > max(others)
        assert signal[Tissue.SPLEEN] > signal[Tissue.LIVER] > signal[Tissue.CORTICAL_BONE]


def test_balanced_ssfp_has_fluid_and_fat_over_muscle():
    for sequence in sequences(Kind.BSSFP):
        signal = tissue_signals(sequence)
        assert min(signal[Tissue.URINE], signal[Tissue.FAT]) > 1.5 * signal[Tissue.MUSCLE]


def test_spoiled_gradient_echo_peaks_at_the_ernst_angle():
    flips = np.arange(2, 80, 1.0)
    t1 = 600.0
    from sctlab.simulation.mr import signal

    values = [signal(Sequence(Kind.GRE, 1.5, 8.0, 2.0, f), np.array([1, t1, 50, 40])) for f in flips]
    ernst = np.rad2deg(np.arccos(np.exp(-8.0 / t1)))
    assert abs(flips[int(np.argmax(values))] - ernst) <= 1


def test_fractions_follow_hu_at_a_fat_muscle_border():
    signals = tissue_signals(sequences(Kind.GRE)[0])
    hu = np.linspace(HU_OF[Tissue.FAT], HU_OF[Tissue.MUSCLE], 9)
    tissue = np.full(9, Tissue.MUSCLE, np.uint8)
    water, fat = water_and_fat(hu, tissue, HU_OF, signals)
    assert (np.diff(fat) <= 1e-6).all()
    assert fat[0] > 0.9 * signals[Tissue.FAT]
    assert fat[-1] == 0
    assert np.isclose(water[-1], signals[Tissue.MUSCLE], rtol=0.02)


def test_lung_is_dark_and_bone_darkens_with_hu():
    signals = tissue_signals(sequences(Kind.GRE)[0])
    hu = np.array([-850.0, 150, 500, 1200])
    tissue = np.array([Tissue.LUNG, Tissue.RED_MARROW, Tissue.RED_MARROW, Tissue.CORTICAL_BONE], np.uint8)
    total = sum(water_and_fat(hu, tissue, HU_OF, signals))
    assert total[0] < 0.3 * signals[Tissue.MUSCLE]
    assert total[1] > total[2] > total[3]
