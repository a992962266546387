"""CT → MR by signal equations: tissues, their fractions in a voxel, a sequence, and the magnetisation it leaves.

Spoiled gradient echo (Ernst), balanced SSFP (Freeman-Hill, with off-resonance banding by Scheffler 2003) and
T2 turbo spin echo. Haacke et al., Magnetic Resonance Imaging: Physical Principles and Sequence Design, 2014.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sctlab.simulation.tissues import FIELDS_TESLA, PROPERTIES, Tissue
from sctlab_model.cases import Region


class Kind(StrEnum):
    """Pulse sequence."""

    GRE = "t1_spoiled_gradient_echo"
    BSSFP = "balanced_ssfp"
    TSE = "t2_turbo_spin_echo"


@dataclass(frozen=True)
class Sequence:
    """A sequence's settings: times in ms, flip angle in degrees, field in tesla."""

    kind: Kind
    field_tesla: float
    tr_ms: float
    te_ms: float
    flip_degrees: float

    @classmethod
    def sample(cls, region: Region, rng: np.random.Generator) -> Sequence:
        """Draw clinical settings (MR-guided radiotherapy protocols): bSSFP at 0.35 T, GRE and TSE at 1.5 and 3 T."""
        kinds, chances = [Kind.GRE, Kind.BSSFP, Kind.TSE], [0.45, 0.33, 0.22]
        if region == Region.HN:
            chances = [0.6, 0.12, 0.28]
        kind = kinds[int(rng.choice(3, p=chances))]
        if kind == Kind.BSSFP:
            field = float(rng.choice([0.35, 1.5], p=[0.8, 0.2]))
            tr = float(rng.uniform(2.8, 4.2))
            return cls(kind, field, tr, tr / 2, float(rng.uniform(45, 70)))
        field = float(rng.choice([1.5, 3.0]))
        if kind == Kind.TSE:
            return cls(kind, field, float(rng.uniform(2500, 6000)), float(rng.uniform(75, 120)), 90.0)
        if rng.random() < 0.75:  # 3D
            return cls(kind, field, float(rng.uniform(3.5, 9)), float(rng.uniform(1.2, 3.0)), float(rng.uniform(9, 20)))
        return cls(kind, field, float(rng.uniform(90, 220)), float(rng.uniform(2.0, 4.6)), float(rng.uniform(60, 80)))


def tissue_parameters(field_tesla: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """PD, T1, T2, T2* (ms) of every tissue at a field strength [tissues, 4]; with `rng`, varied by about 6 %."""
    which = FIELDS_TESLA.index(field_tesla)
    rows = []
    for tissue in Tissue:
        p = PROPERTIES[tissue]
        t1, t2 = p.t1_ms[which], p.t2_ms * (0.93 if field_tesla == 3.0 else 1.0)
        t2_star = 1 / (1 / t2 + field_tesla / 1.5 / p.t2_prime_ms)
        rows.append((p.pd, t1, t2, t2_star))
    table = np.array(rows)
    if rng is not None:
        spread = np.exp(np.clip(rng.standard_normal(table.shape), -2, 2) * (0.03, 0.07, 0.10, 0.12))
        table = table * spread
        table[:, 3] = np.minimum(table[:, 3], table[:, 2])
    return table


def signal(sequence: Sequence, parameters: np.ndarray) -> np.ndarray:
    """Transverse magnetisation of tissues [..., 4] (PD, T1, T2, T2*) under a sequence.

    GRE:   M sin α (1 − E1) / (1 − cos α E1) e^(−TE/T2*)
    bSSFP: M sin α (1 − E1) / (1 − (E1 − E2) cos α − E1 E2) e^(−TE/T2), on resonance
    TSE:   M (1 − e^(−TR/T1)) e^(−TE/T2)
    """
    pd, t1, t2, t2_star = np.moveaxis(np.asarray(parameters, dtype=np.float64), -1, 0)
    alpha = np.deg2rad(sequence.flip_degrees)
    e1, e2 = np.exp(-sequence.tr_ms / t1), np.exp(-sequence.tr_ms / t2)
    if sequence.kind == Kind.GRE:
        return pd * np.sin(alpha) * (1 - e1) / (1 - np.cos(alpha) * e1) * np.exp(-sequence.te_ms / t2_star)
    if sequence.kind == Kind.BSSFP:
        return pd * np.sin(alpha) * (1 - e1) / (1 - (e1 - e2) * np.cos(alpha) - e1 * e2) * np.exp(-sequence.te_ms / t2)
    return pd * (1 - np.exp(-sequence.tr_ms / t1)) * np.exp(-sequence.te_ms / t2)


def tissue_signals(sequence: Sequence, rng: np.random.Generator | None = None) -> np.ndarray:
    """Signal of every tissue, indexed by `Tissue`. In TSE fat stays bright (J-coupling doubles its apparent T2)."""
    table = tissue_parameters(sequence.field_tesla, rng)
    if sequence.kind == Kind.TSE:
        for tissue in (Tissue.FAT, Tissue.YELLOW_MARROW):
            table[tissue, 2] *= 2.0
    values = signal(sequence, table)
    if rng is not None and sequence.kind != Kind.BSSFP:
        # moving blood: inflow brightens gradient echoes a little, flow voids darken spin echoes
        flow = rng.uniform(0.9, 2.0) if sequence.kind == Kind.GRE else rng.uniform(0.05, 0.6)
        values[Tissue.BLOOD] *= flow
    return values.astype(np.float32)


_HOLLOW = (Tissue.AIR, Tissue.GAS, Tissue.COUCH_SHELL, Tissue.COUCH_FOAM, Tissue.METAL)
_MARROW = (Tissue.RED_MARROW, Tissue.YELLOW_MARROW, Tissue.CORTICAL_BONE)


def water_and_fat(
    hu: np.ndarray, tissue: np.ndarray, hu_of: np.ndarray, signals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Magnetisation of water and of fat in every voxel, from fractions that HU and tissue give.

    A voxel of a soft tissue whose HU lies below the tissue's own holds fat (down to fat's HU), then air; above
    it, mineral. In bone, HU between marrow and compact bone gives the cortical share. In lung, HU gives tissue
    against air.

    Args:
        hu: HU at the source's pose, any shape.
        tissue: `Tissue` codes, the same shape.
        hu_of: HU of every tissue in this patient.
        signals: `tissue_signals`.
    """
    host_hu = hu_of[tissue]
    fat_hu, bone_hu = float(hu_of[Tissue.FAT]), float(hu_of[Tissue.CORTICAL_BONE])
    own = signals[tissue].copy()
    hollow = np.isin(tissue, _HOLLOW)
    marrow = np.isin(tissue, _MARROW)
    lung = tissue == Tissue.LUNG
    # texture of the CT inside a tissue stays as contrast: 1 HU is about 0.6 % of signal
    soft = ~(hollow | marrow | lung)
    deviation = np.where(np.abs(hu - host_hu) < 45, hu - host_hu, 0)
    texture = 1 + 0.006 * deviation
    air = np.clip((fat_hu - 25 - hu) / (fat_hu + 1000 - 25), 0, 1)
    gap = np.maximum(host_hu - fat_hu, 30)
    fat = np.where(soft, np.clip((host_hu - 25 - hu) / np.maximum(gap - 25, 10), 0, 1), 0)
    fat = np.where(tissue == Tissue.FAT, np.clip(1 - (hu - fat_hu - 25) / 110, 0, 1), fat)
    mineral = np.where(soft & (hu > host_hu + 90), np.clip((hu - host_hu - 90) / (bone_hu - host_hu - 90), 0, 1), 0)
    partner = np.where(tissue == Tissue.FAT, signals[Tissue.MUSCLE], own)
    water = partner * (1 - fat) * texture
    fatty = signals[Tissue.FAT] * fat
    share = np.where(tissue == Tissue.YELLOW_MARROW, 0.85, 0.45)  # fat in marrow
    marrow_signal = np.where(tissue == Tissue.YELLOW_MARROW, signals[Tissue.YELLOW_MARROW], signals[Tissue.RED_MARROW])
    compact = np.clip((hu - 260) / (bone_hu - 260), 0, 1) + 0.25 * np.clip((hu - 60) / 400, 0, 1)
    compact = np.clip(compact, 0, 1)
    bone_water = marrow_signal * (1 - share) * (1 - compact) + signals[Tissue.CORTICAL_BONE] * compact
    bone_fat = marrow_signal * share * (1 - compact)
    water, fatty = np.where(marrow, bone_water, water), np.where(marrow, bone_fat, fatty)
    wet = np.clip((hu + 1000) / 1000, 0, 1)
    water = np.where(lung, signals[Tissue.LUNG] * wet / 0.2, water * (1 - air) * (1 - mineral))
    fatty = np.where(lung, 0, fatty * (1 - air) * (1 - mineral))
    dense = hollow & (hu > -700) & ~np.isin(tissue, (Tissue.COUCH_SHELL, Tissue.COUCH_FOAM, Tissue.METAL))
    edge = np.clip((hu + 1000) / 950, 0, 1)
    water = np.where(hollow, np.where(dense, signals[Tissue.SKIN] * edge, 0), water)
    fatty = np.where(hollow, 0, fatty)
    return water.astype(np.float32), fatty.astype(np.float32)
