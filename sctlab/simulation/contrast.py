"""A new contrast for a piece of a patient, in milliseconds: what training draws for every patch.

Physics and domain randomisation in one: mostly a protocol as clinics use it, now and then a contrast that no sequence
has (Billot et al., SynthSeg, Med Image Anal 2023). The signal equations and the acquisition are the simulator's own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sctlab.simulation.acquisition import Acquisition, acquire
from sctlab.simulation.fractions import Channel
from sctlab.simulation.sequences import Kind, Sequence
from sctlab.simulation.signals import Signals, magnetisation, tissue_signals
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry

RANDOM_SHARE = 0.15


def draw_contrast(
    fractions: np.ndarray,
    rng: np.random.Generator,
    *,
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 3.0),
    region: Region | None = None,
    random_share: float = RANDOM_SHARE,
) -> np.ndarray:
    """An MR of a patch with a newly drawn sequence, patient's relaxation times, shading, resolution and noise.

    Args:
        fractions: uint8 [6, z, y, x], a piece of `truth/fractions.npz` (see `fractions.Channel`).
        rng: Random numbers; the same state gives the same image.
        spacing_xyz: Voxel pitch of the patch, mm.
        region: Whose protocols to draw from; None for the trunk's.
        random_share: Chance of a contrast that no sequence has.

    Returns:
        float32 [z, y, x], at least 0, in an arbitrary unit: normalise it as the recipe does any MR.

    Example:
        >>> patch = np.zeros((6, 3, 24, 24), np.uint8)
        >>> patch[Channel.HOST] = 5  # muscle
        >>> patch[Channel.TEXTURE] = 128
        >>> draw_contrast(patch, np.random.default_rng(0)).shape
        (3, 24, 24)
    """
    sequence = Sequence.sample(region, rng)
    if rng.random() < random_share:
        signals = Signals.random(rng)
        sequence = replace(sequence, kind=Kind.TSE)  # echoes in phase, little lost beside air
    else:
        signals = tissue_signals(sequence, rng)
    # ghosts and steps of the patient need the whole slice in k-space
    settings = replace(Acquisition.sample(sequence, rng, region), ghost=0.0, motion=False, cut=0.0)
    water, fat = magnetisation(fractions, signals)
    air = fractions[Channel.AIR] * np.float32(1 / 255)
    geometry = Geometry(fractions.shape[:0:-1], spacing_xyz)
    return acquire(water, fat, air, geometry, sequence, settings, rng)
