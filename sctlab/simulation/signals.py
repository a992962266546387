"""Signal of tissues under a sequence, and of voxels that are mixtures of them.

Spoiled gradient echo (Ernst), inversion-prepared and spin-echo signals: Haacke et al., Magnetic Resonance Imaging:
Physical Principles and Sequence Design, 2014. Balanced SSFP: Freeman and Hill, J Magn Reson 4 (1971) 366.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab.simulation.fractions import Channel
from sctlab.simulation.sequences import Kind, Output, Sequence
from sctlab.simulation.tissues import FIELDS_TESLA, PROPERTIES, Tissue

RELAXIVITY = 4.5  # of gadolinium agents in blood at 1.5 and 3 T, l/(mmol s)
MARROW_DEPHASING = 300.0  # 1/s at 1.5 T in a voxel of bone alone: trabeculae shorten T2* (12 % of bone: to 14 ms)
DARK = (Tissue.AIR, Tissue.GAS, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM, Tissue.METAL, Tissue.TOOTH)


@dataclass(frozen=True)
class Signals:
    """What one sequence makes of every tissue.

    Args:
        water: Signal of a voxel full of a tissue's water, indexed by `Tissue`, float32.
        fat: Signal of a voxel of fat.
        bone: Signal of a voxel of compact bone (its water decays within a millisecond).
        dephasing: Loss of log signal in a voxel for a mineral fraction of 1 (T2* of trabecular bone).
    """

    water: np.ndarray
    fat: float
    bone: float
    dephasing: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Signals:
        """A contrast that no sequence has: every tissue's signal is drawn (Billot et al., SynthSeg, 2023)."""
        water = rng.uniform(0.05, 1.0, len(Tissue)).astype(np.float32)
        water[list(DARK)] = 0
        return cls(water, float(rng.uniform(0.05, 1)), float(rng.uniform(0, 0.1)), 0.0)


def tissue_parameters(field_tesla: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """PD, T1, T2, T2* (ms) of every tissue's water at a field strength [tissues, 4]; with `rng`, varied between patients
    by 3, 7, 10 and 12 %, the spread of the sources of `tissues.py`."""
    which = FIELDS_TESLA.index(field_tesla)
    table = np.empty((len(Tissue), 4))
    for tissue in Tissue:
        p = PROPERTIES[tissue]
        t2 = p.t2_ms * (0.95 if field_tesla == 3.0 else 1.0)
        table[tissue] = p.pd, p.t1_ms[which], t2, 1 / (1 / t2 + field_tesla / 1.5 / p.t2_prime_ms)
    if rng is not None:
        table *= np.exp(np.clip(rng.standard_normal(table.shape), -2, 2) * (0.03, 0.07, 0.10, 0.12))
        table[:, 3] = np.minimum(table[:, 3], table[:, 2])
    return table


def signal(sequence: Sequence, parameters: np.ndarray) -> np.ndarray:
    """Transverse magnetisation of tissues [..., 4] (PD, T1, T2, T2*) under a sequence, on resonance.

    GRE:     M sin α (1 − E1) / (1 − cos α E1) e^(−TE/T2*)
    MPRAGE:  M |1 − 2 e^(−TI/T1) / (1 + e^(−TR/T1))| sin α e^(−TE/T2*)
    TSE:     M (1 − e^(−TR/T1)) e^(−TE/T2)
    FLAIR:   M |1 − 2 e^(−TI/T1) + e^(−TR/T1)| e^(−TE/T2)
    bSSFP:   M sin α (1 − E1) / (1 − (E1 − E2) cos α − E1 E2) e^(−TE/T2)
    """
    pd, t1, t2, t2_star = np.moveaxis(np.asarray(parameters, dtype=np.float64), -1, 0)
    alpha = np.deg2rad(sequence.flip_degrees)
    e1, e2 = np.exp(-sequence.tr_ms / t1), np.exp(-sequence.tr_ms / t2)
    if sequence.kind == Kind.GRE:
        return pd * np.sin(alpha) * (1 - e1) / (1 - np.cos(alpha) * e1) * np.exp(-sequence.te_ms / t2_star)
    if sequence.kind == Kind.MPRAGE:
        prepared = np.abs(1 - 2 * np.exp(-sequence.ti_ms / t1) / (1 + e1))
        return pd * prepared * np.sin(alpha) * np.exp(-sequence.te_ms / t2_star)
    if sequence.kind == Kind.BSSFP:
        return pd * np.sin(alpha) * (1 - e1) / (1 - (e1 - e2) * np.cos(alpha) - e1 * e2) * np.exp(-sequence.te_ms / t2)
    recovered = 1 - e1
    if sequence.kind == Kind.FLAIR:
        recovered = np.abs(1 - 2 * np.exp(-sequence.ti_ms / t1) + e1)
    return pd * recovered * np.exp(-sequence.te_ms / t2)


def tissue_signals(sequence: Sequence, rng: np.random.Generator | None = None) -> Signals:
    """Signals of every tissue; with `rng`, of one patient (relaxation, transfer, flow drawn)."""
    table = tissue_parameters(sequence.field_tesla, rng)
    echo_train = sequence.kind in (Kind.TSE, Kind.T1_TSE, Kind.FLAIR)
    if echo_train:
        # J-coupling is undone by the train of refocusing pulses: fat's apparent T2 grows
        table[Tissue.FAT, 2] *= 2.0 if rng is None else rng.uniform(1.6, 2.4)
    if sequence.agent_mm > 0:
        uptake = np.array([PROPERTIES[t].uptake for t in Tissue]) * sequence.agent_mm
        table[:, 1] = 1 / (1 / table[:, 1] + RELAXIVITY * uptake / 1000)
    values = signal(sequence, table)
    if echo_train:
        # T1-weighted protocols have fewer slices and refocusing pulses in a given time
        usual = (0.2, 1.0) if sequence.kind == Kind.T1_TSE else (0.6, 1.3)
        strength = np.mean(usual) if rng is None else rng.uniform(*usual)
        values *= 1 - strength * np.array([PROPERTIES[t].transfer for t in Tissue])
    if rng is not None and sequence.kind != Kind.BSSFP:
        # moving blood: inflow brightens gradient echoes, spin echoes lose it
        bright = sequence.kind in (Kind.GRE, Kind.MPRAGE)
        values[Tissue.BLOOD] *= (
            np.exp(rng.uniform(np.log(0.9), np.log(4.0))) if bright else np.exp(rng.uniform(np.log(0.015), np.log(0.6)))
        )
    fat, bone = float(values[Tissue.FAT]) * sequence.fat_left, float(values[Tissue.CORTICAL_BONE])
    if sequence.output is Output.WATER:
        fat *= 0.03
    if sequence.output is Output.FAT:
        # what the separation leaves of water: errors of its model, other in every organ
        left = (
            0.04
            if rng is None
            else np.exp(rng.uniform(np.log(0.015), np.log(0.1)) + 0.6 * rng.standard_normal(len(values)))
        )
        values, bone = values * left, 0.0
    values[list(DARK)] = 0
    dephased = sequence.kind in (Kind.GRE, Kind.MPRAGE)
    rate = MARROW_DEPHASING * sequence.field_tesla / 1.5 if dephased else 0.0
    return Signals(values.astype(np.float32), fat, bone, rate * sequence.te_ms / 1000)


def magnetisation(fractions: np.ndarray, signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Signal of water and of fat in every voxel.

    Args:
        fractions: uint8 [6, z, y, x], see `fractions.Channel`.

    Returns:
        Two arrays float32 [z, y, x].
    """
    mineral = fractions[Channel.MINERAL].astype(np.float32)
    mineral *= np.float32(1 / 255)
    left = np.float32(1) - mineral
    left -= fractions[Channel.AIR] * np.float32(1 / 255)
    np.maximum(left, 0, out=left)
    share = fractions[Channel.FAT] * np.float32(1 / 255)  # of what is neither mineral nor air
    fat = left * share
    water = left - fat
    water *= np.take(signals.water, fractions[Channel.HOST])
    water *= (1 - 128 / 320) + fractions[Channel.TEXTURE] * np.float32(1 / 320)
    fat *= np.float32(signals.fat)
    if signals.dephasing > 0:
        decay = np.exp(-np.minimum(mineral, 0.35) * np.float32(signals.dephasing))
        water *= decay
        fat *= decay
    if signals.bone > 0:
        water += mineral * np.float32(signals.bone)
    return water, fat
