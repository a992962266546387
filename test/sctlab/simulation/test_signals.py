"""Contrast orders tissues as the sequence demands."""

import numpy as np
import pytest

from sctlab.simulation.fractions import Channel
from sctlab.simulation.sequences import Kind, Output, Sequence
from sctlab.simulation.signals import magnetisation, signal, tissue_signals
from sctlab.simulation.tissues import PROPERTIES, SOURCES, Tissue
from sctlab_model.cases import Region

SEEDS = range(40)


def sequences(kind: Kind):
    return [Sequence.sample_kind(kind, np.random.default_rng(seed)) for seed in SEEDS]


def plain(kind: Kind):
    """Without fat suppression, contrast agent or separated water and fat."""
    return [
        s for s in sequences(kind) if s.fat_left == 1 and s.agent_mm == 0 and s.output in (Output.ECHO, Output.IN_PHASE)
    ]


@pytest.mark.parametrize("kind", list(Kind))
def test_compact_bone_and_air_are_darkest(kind):
    for sequence in plain(kind):
        signals = tissue_signals(sequence)
        assert signals.water[Tissue.AIR] == signals.water[Tissue.GAS] == 0
        soft = [signals.water[t] for t in (Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN, Tissue.RED_MARROW)]
        # no sequence nulls all of them at once; an inversion may null one
        assert signals.bone < 0.5 * (max(soft) if sequence.ti_ms else min(*soft, signals.fat))


def test_t1_weighted_has_fat_over_liver_over_muscle_over_fluid():
    for sequence in plain(Kind.GRE) + plain(Kind.T1_TSE):
        signals = tissue_signals(sequence)
        water = signals.water
        assert signals.fat > water[Tissue.LIVER] > water[Tissue.MUSCLE] > water[Tissue.CSF]


def test_white_matter_is_brighter_than_grey_after_an_inversion():
    for sequence in plain(Kind.MPRAGE):
        water = tissue_signals(sequence).water
        assert water[Tissue.WHITE_MATTER] > 1.2 * water[Tissue.GREY_MATTER] > 1.3 * water[Tissue.CSF]


def test_t2_weighted_has_fluid_brightest_and_flair_darkest():
    for sequence in plain(Kind.TSE):
        water = tissue_signals(sequence).water
        others = [water[t] for t in (Tissue.MUSCLE, Tissue.LIVER, Tissue.SPLEEN, Tissue.KIDNEY)]
        assert min(water[Tissue.URINE], water[Tissue.CSF]) > max(others)
        assert water[Tissue.SPLEEN] > water[Tissue.LIVER]
    for sequence in sequences(Kind.FLAIR):
        water = tissue_signals(sequence).water
        assert water[Tissue.GREY_MATTER] > water[Tissue.WHITE_MATTER] > 0.4 * water[Tissue.CSF]


def test_balanced_ssfp_has_fluid_and_fat_over_muscle():
    for sequence in sequences(Kind.BSSFP):
        signals = tissue_signals(sequence)
        assert min(signals.water[Tissue.URINE], signals.fat) > 1.5 * signals.water[Tissue.MUSCLE]


def test_spoiled_gradient_echo_peaks_at_the_ernst_angle():
    flips = np.arange(2, 80, 1.0)
    values = [signal(Sequence(Kind.GRE, 1.5, 8.0, 2.0, f), np.array([1, 600.0, 50, 40])) for f in flips]
    ernst = np.rad2deg(np.arccos(np.exp(-8.0 / 600.0)))
    assert abs(flips[int(np.argmax(values))] - ernst) <= 1


def test_an_agent_brightens_blood_and_kidney_not_brain_or_fluid():
    before = tissue_signals(Sequence(Kind.GRE, 1.5, 5.0, 2.0, 12.0)).water
    after = tissue_signals(Sequence(Kind.GRE, 1.5, 5.0, 2.0, 12.0, agent_mm=1.0)).water
    assert min(after[t] / before[t] for t in (Tissue.BLOOD, Tissue.KIDNEY, Tissue.THYROID)) > 1.8
    assert max(after[t] / before[t] for t in (Tissue.WHITE_MATTER, Tissue.CSF)) < 1.1


def test_dixon_separates_water_from_fat():
    gre = {o: tissue_signals(Sequence(Kind.GRE, 1.5, 6.0, 4.6, 12.0, output=o)) for o in Output}
    assert gre[Output.WATER].fat < 0.1 * gre[Output.IN_PHASE].fat
    assert gre[Output.FAT].water[Tissue.MUSCLE] < 0.1 * gre[Output.FAT].fat
    assert Sequence(Kind.GRE, 1.5, 6.0, 2.3, 12.0).fat_phase.real < -0.6  # opposed at 2.3 ms
    assert Sequence(Kind.GRE, 1.5, 6.0, 4.6, 12.0).fat_phase.real > 0.75


def test_marrow_is_brighter_than_muscle_where_it_should_be():
    """Vertebra (45 % fat, 12 % bone) and femur (88 % fat) against muscle."""
    voxels = np.zeros((6, 1, 1, 3), np.uint8)
    voxels[Channel.HOST] = [Tissue.MUSCLE, Tissue.RED_MARROW, Tissue.RED_MARROW]
    voxels[Channel.FAT, 0, 0] = [10, 115, 224]
    voxels[Channel.MINERAL, 0, 0] = [0, 30, 10]
    voxels[Channel.TEXTURE] = 128
    for kind in (Kind.GRE, Kind.T1_TSE, Kind.TSE, Kind.BSSFP):
        for sequence in plain(kind):
            if sequence.fat_phase.real < 0.7:  # opposed: half fat, half water cancel
                continue
            water, fat = magnetisation(voxels, tissue_signals(sequence))
            muscle, vertebra, femur = (water + fat)[0, 0]
            assert femur > vertebra > 1.1 * muscle, sequence


def test_protocols_are_mostly_in_phase_and_cover_the_kinds():
    drawn = [Sequence.sample(Region.AB, np.random.default_rng(s)) for s in range(400)]
    gre = [s for s in drawn if s.kind == Kind.GRE and s.output is not Output.FAT and s.fat_left == 1]
    assert np.mean([s.fat_phase.real > 0.5 for s in gre]) > 0.7
    assert {s.kind for s in drawn} == set(Kind) - {Kind.MPRAGE, Kind.FLAIR}
    assert {s.kind for s in (Sequence.sample(Region.HN, np.random.default_rng(s)) for s in range(200))} == set(Kind)


def test_every_number_has_a_source():
    for tissue, row in PROPERTIES.items():
        assert row.sources, tissue
        assert set(row.sources) <= set(SOURCES), tissue


# de Bazelaire 2004, Gold 2004, Stanisz 2005 (muscle): T1 in ms at 1.5 and 3 T
PUBLISHED_T1 = {Tissue.FAT: [(343, 382), (288, 371)], Tissue.MUSCLE: [(1008, 1412), (856, 898), (1130, 1420)]}


@pytest.mark.parametrize("tissue", PUBLISHED_T1)
def test_where_sources_disagree_the_table_holds_their_mean(tissue):
    """Fat and muscle decide every contrast in T1: one source alone (fat's of Gold) made fat too bright beside muscle."""
    np.testing.assert_allclose(PROPERTIES[tissue].t1_ms[1:], np.mean(PUBLISHED_T1[tissue], axis=0), atol=1)
