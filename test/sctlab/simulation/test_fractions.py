"""Fractions follow HU: mixtures with fat, air, mineral and iodine."""

import numpy as np
import pytest

from sctlab.simulation.fractions import Channel, average_slices, fractions_from_hu, read_fractions, write_fractions
from sctlab.simulation.marrow import marrow_fat, sample_marrow_fat
from sctlab.simulation.tissues import PROPERTIES, Tissue
from sctlab_model.errors import InputError

HU_OF = np.array([PROPERTIES[t].hu for t in Tissue], np.float32)
LEAN = np.zeros(len(Tissue), np.float32)


def row(hu, tissue, fat=0.45):
    """Fractions of a row of voxels, shares as floats [6, n]; every voxel fills its surroundings."""
    hu, tissue = np.atleast_1d(np.asarray(hu, np.float32)), np.atleast_1d(np.asarray(tissue, np.uint8))
    parts = [
        fractions_from_hu(np.full((1, 1, 1), h, np.float32), np.full((1, 1, 1), t, np.uint8), HU_OF, LEAN, fat)
        for h, t in zip(hu, np.broadcast_to(tissue, hu.shape), strict=True)
    ]
    return np.stack([p[:, 0, 0, 0] for p in parts], 1) / 255.0


def test_below_its_own_hu_soft_tissue_holds_fat():
    mixture = row(np.linspace(-104, 50, 9), Tissue.MUSCLE)
    assert (np.diff(mixture[Channel.FAT]) <= 0).all()
    assert mixture[Channel.FAT, 0] > 0.95
    assert mixture[Channel.FAT, -1] == 0
    assert not mixture[Channel.AIR].any()


def test_the_rim_of_a_lung_holds_air_and_no_fat_and_a_fat_layer_stays_fat():
    hu = np.full((3, 8, 20), 50, np.float32)
    hu[..., :8] = -850
    hu[..., 8], hu[..., 9] = -500, -104  # the edge of a lung passes through fat's HU
    tissue = np.full(hu.shape, Tissue.MUSCLE, np.uint8)
    tissue[..., :8] = Tissue.LUNG
    tissue[..., 8:10] = Tissue.FAT
    rim = fractions_from_hu(hu, tissue, HU_OF, LEAN, 0.5)[:, 1, 4] / 255.0
    assert rim[Channel.FAT].max() < 0.02
    assert 0.05 < rim[Channel.AIR, 9] < 0.3
    hu[..., 8:14], tissue[..., 8:14] = -104, Tissue.FAT  # epicardial fat
    layer = fractions_from_hu(hu, tissue, HU_OF, LEAN, 0.5)[:, 1, 4] / 255.0
    assert (layer[Channel.FAT, 9:13] > 0.9).all()


def test_marrow_keeps_its_water_and_fat_and_cortex_loses_them():
    mixture = row([165, 500, 1060], Tissue.RED_MARROW)
    left = 1 - mixture[Channel.MINERAL]
    assert left[0] > 0.8
    assert (np.diff(left) < -0.2).all()
    assert left[-1] < 0.02
    assert np.allclose(mixture[Channel.FAT], 0.45, atol=0.01)
    assert row(-90, Tissue.RED_MARROW)[Channel.FAT] > 0.85  # a long bone's shaft


def test_a_contrast_medium_is_iodine_in_vessels_and_mineral_in_muscle():
    vessel, calcified = row(300, Tissue.BLOOD), row(300, Tissue.MUSCLE)
    assert vessel[Channel.MINERAL] == 0
    assert vessel[Channel.IODINE] * 255 * 4 == pytest.approx(300 - HU_OF[Tissue.BLOOD] - 25, abs=4)
    assert calcified[Channel.IODINE] == 0
    assert calcified[Channel.MINERAL] > 0.1


def test_lung_is_mostly_air_its_vessels_are_not():
    parenchyma, vessel = row(-850, Tissue.LUNG), row(0, Tissue.LUNG)
    assert parenchyma[Channel.AIR] > 0.8
    assert vessel[Channel.AIR] < 0.1


def test_marrow_fat_by_bone():
    tables = [sample_marrow_fat(np.random.default_rng(s)) for s in range(60)]
    vertebra = [t[29] for t in tables]
    assert 0.2 < min(vertebra) < 0.4 < max(vertebra) < 0.72
    for table in tables:
        assert min(table[75], table[91], table[77]) > 0.7
        assert table[75] > table[29] + 0.2
    label, tissue = np.array([29, 29], np.uint8), np.array([Tissue.RED_MARROW, Tissue.YELLOW_MARROW], np.uint8)
    assert marrow_fat(tables[0], label, tissue)[1] > 0.79


def test_sub_slices_average_and_the_fuller_one_gives_the_host():
    maps = np.zeros((6, 4, 2, 2), np.uint8)
    maps[Channel.HOST, ::2], maps[Channel.HOST, 1::2] = Tissue.MUSCLE, Tissue.GAS
    maps[Channel.AIR, 1::2] = 255
    mean = average_slices(maps, 2)
    assert mean.shape == (6, 2, 2, 2)
    assert (mean[Channel.HOST] == Tissue.MUSCLE).all()
    assert (mean[Channel.AIR] == 128).all()


def test_files_are_compact_reproducible_and_checked(tmp_path):
    maps = np.zeros((6, 8, 64, 64), np.uint8)
    for name in ("a.npz", "b.npz"):
        write_fractions(maps, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 0.1 * maps.nbytes
    assert np.array_equal(read_fractions(tmp_path / "a.npz"), maps)
    np.savez(tmp_path / "wrong.npz", fractions=maps.astype(np.float32))
    np.savez(tmp_path / "tissue.npz", fractions=maps + 200)
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("wrong.npz", "tissue.npz", "text.npz", "missing.npz"):
        with pytest.raises(InputError, match=name):
            read_fractions(tmp_path / name)
