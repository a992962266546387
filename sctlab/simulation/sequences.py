"""Pulse sequences as radiotherapy uses them, their settings, and the random protocols drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sctlab_model.cases import Region

# Fat's spectrum (Hamilton et al., NMR Biomed 24 (2011) 784): shift from water in ppm and share of the protons.
FAT_PPM = np.array([-3.80, -3.40, -2.60, -1.94, -0.39, 0.60])
FAT_SHARE = np.array([0.087, 0.693, 0.128, 0.004, 0.039, 0.048])
MHZ_PER_TESLA = 42.577
SINGLE_SHOT_TR_MS = 1e5


class Kind(StrEnum):
    """Pulse sequence."""

    GRE = "t1_spoiled_gradient_echo"
    MPRAGE = "t1_magnetisation_prepared_gradient_echo"
    T1_TSE = "t1_turbo_spin_echo"
    TSE = "t2_turbo_spin_echo"
    FLAIR = "t2_flair"
    BSSFP = "balanced_ssfp"


class Output(StrEnum):
    """Which image of a Dixon pair is shown; `ECHO` is the plain image of one echo."""

    ECHO = "echo"
    IN_PHASE = "in_phase"
    OPPOSED = "opposed"
    WATER = "water"
    FAT = "fat"


@dataclass(frozen=True)
class Sequence:
    """A sequence's settings: times in ms, flip angle in degrees, field in tesla.

    Args:
        kind: The sequence.
        ti_ms: Inversion time; 0 without inversion.
        output: Which image of a Dixon acquisition this is.
        fat_left: Share of fat's signal that is left; 1 without fat suppression.
        agent_mm: Concentration of a gadolinium agent in blood, mmol/l; 0 without one.
    """

    kind: Kind
    field_tesla: float
    tr_ms: float
    te_ms: float
    flip_degrees: float
    ti_ms: float = 0.0
    output: Output = Output.ECHO
    fat_left: float = 1.0
    agent_mm: float = 0.0

    @property
    def single_shot(self) -> bool:
        """Whether one echo train fills k-space: no repetition."""
        return self.kind == Kind.TSE and self.tr_ms >= SINGLE_SHOT_TR_MS

    @property
    def fat_phase(self) -> complex:
        """Fat's transverse magnetisation relative to water's at the echo: spin echoes refocus its precession."""
        if self.output in (Output.IN_PHASE, Output.WATER, Output.FAT):
            return 1.0
        if self.output is Output.OPPOSED:
            return -0.88  # not all of fat's peaks are opposed at once
        if self.kind in (Kind.GRE, Kind.MPRAGE):
            turns = FAT_PPM * MHZ_PER_TESLA * self.field_tesla * self.te_ms / 1000
            return complex(FAT_SHARE @ np.exp(2j * np.pi * turns))
        return 1.0

    @classmethod
    def sample(cls, region: Region | None, rng: np.random.Generator) -> Sequence:
        """Draw a clinical protocol: MR-guided radiotherapy (bSSFP at 0.35 and 1.5 T) and planning or diagnostic MR."""
        head = region == Region.HN
        kinds = [Kind.GRE, Kind.MPRAGE, Kind.T1_TSE, Kind.TSE, Kind.FLAIR, Kind.BSSFP]
        chances = [0.42, 0.12, 0.14, 0.16, 0.06, 0.10] if head else [0.42, 0.0, 0.10, 0.18, 0.0, 0.30]
        return cls.sample_kind(kinds[int(rng.choice(len(kinds), p=chances))], rng)

    @classmethod
    def sample_kind(cls, kind: Kind, rng: np.random.Generator) -> Sequence:
        """Draw a protocol of one kind of sequence."""
        field = float(rng.choice([1.5, 3.0]))
        if kind == Kind.BSSFP:
            field = float(rng.choice([0.35, 1.5], p=[0.75, 0.25]))
            tr = float(rng.uniform(2.8, 4.2))
            return cls(kind, field, tr, tr / 2, float(rng.uniform(45, 70)))
        if kind == Kind.TSE:
            single_shot = rng.random() < 0.3
            tr = SINGLE_SHOT_TR_MS if single_shot else float(rng.uniform(2500, 6000))
            return cls(kind, field, tr, float(rng.uniform(60, 120)), 90.0, fat_left=_fat_left(rng, 0.3))
        if kind == Kind.FLAIR:
            tr = float(rng.uniform(6000, 11000))
            fluid = 4000.0 if field == 1.5 else 4300.0
            nulled = fluid * float(rng.uniform(0.92, 1.05))  # the T1 that the inversion is meant to null
            ti = nulled * np.log(2 / (1 + np.exp(-tr / nulled)))
            return cls(kind, field, tr, float(rng.uniform(60, 140)), 90.0, float(ti), fat_left=_fat_left(rng, 0.5))
        agent = float(rng.uniform(0.4, 1.6)) if rng.random() < 0.25 else 0.0
        if kind == Kind.T1_TSE:
            tr, te = float(rng.uniform(420, 800)), float(rng.uniform(7, 14))
            return cls(kind, field, tr, te, 90.0, fat_left=_fat_left(rng, 0.2), agent_mm=agent)
        if kind == Kind.MPRAGE:
            tr, ti = float(rng.uniform(1700, 2500)), float(rng.uniform(1000, 1250))
            te = float(rng.uniform(2.0, 4.0))
            return cls(kind, field, tr, te, float(rng.uniform(7, 10)), ti, agent_mm=agent)
        return cls._sample_gre(field, agent, rng)

    @classmethod
    def _sample_gre(cls, field: float, agent: float, rng: np.random.Generator) -> Sequence:
        """3D (mostly) or 2D spoiled gradient echo: plain, Dixon or fat-suppressed."""
        in_phase = 1000 / (3.4 * MHZ_PER_TESLA * field)
        if rng.random() < 0.4:
            # Dixon: planned on is mostly the in-phase or the water image, but all four are stored and handed in
            output = Output(rng.choice(["in_phase", "opposed", "water", "fat"], p=[0.42, 0.13, 0.27, 0.18]))
            te = in_phase if output is not Output.OPPOSED else in_phase / 2
            tr, flip = float(rng.uniform(4, 7.5)), float(rng.uniform(9, 15))
            return cls(Kind.GRE, field, tr, te, flip, output=output, agent_mm=agent)
        fat_left = _fat_left(rng, 0.3)
        te = in_phase * float(rng.uniform(0.93, 1.07)) if rng.random() < 0.7 else float(rng.uniform(1.1, 2.6))
        if rng.random() < 0.75:
            tr, flip = float(te + rng.uniform(1.8, 6)), float(rng.uniform(9, 20))
        else:
            tr, flip = float(rng.uniform(90, 220)), float(rng.uniform(60, 80))
        return cls(Kind.GRE, field, tr, te, flip, fat_left=fat_left, agent_mm=agent)


def _fat_left(rng: np.random.Generator, chance: float) -> float:
    """Fat suppression in a share of the protocols; it leaves 3 to 20 % of fat."""
    return float(rng.uniform(0.03, 0.2)) if rng.random() < chance else 1.0
