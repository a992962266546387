"""A contrast medium in a patient: iodine in the blood and in what takes it up, as planning CTs often have it."""

from __future__ import annotations

import numpy as np

from sctlab.simulation.phantom import Phantom
from sctlab.simulation.tissues import PROPERTIES, Tissue

# HU that iodine adds to blood, from a late venous to an arterial phase: Bae, Radiology 256 (2010) 32.
BLOOD_HU = (60.0, 280.0)
# Of the equilibrium with blood (the table's `uptake`), what organs have reached by then: bright blood is early.
REACHED = (1.0, 0.35)
ORGAN_SPREAD = 0.25  # standard deviation of the logarithm of an organ's own share
# Bone hardly enhances (marrow is a tenth of what its water would take up), and its HU are mineral.
_NEVER = (Tissue.CORTICAL_BONE, Tissue.RED_MARROW, Tissue.YELLOW_MARROW, Tissue.TOOTH, Tissue.METAL)


def add_contrast_medium(phantom: Phantom, rng: np.random.Generator, share: float) -> Phantom:
    """Give a patient a contrast medium, or none.

    Every tissue gets iodine by its water and its uptake relative to blood: vessels, heart and kidneys most, muscle and
    lung little, bone and fat next to none.

    Args:
        phantom: The patient; HU float32 [z, y, x].
        rng: Decides whether, how much and in which phase.
        share: Of the patients that get one, 0 to 1.

    Returns:
        The patient with other HU; tissues and labels stay.
    """
    given, blood = rng.random(), rng.uniform(*BLOOD_HU)
    own = np.exp(ORGAN_SPREAD * np.clip(rng.standard_normal(len(Tissue)), -2, 2))
    if given >= share:
        return phantom
    reached = np.interp(blood, BLOOD_HU, REACHED)
    added = np.zeros(len(Tissue), np.float32)
    for tissue in Tissue:
        properties = PROPERTIES[tissue]
        if tissue is Tissue.BLOOD:
            added[tissue] = blood
        elif tissue not in _NEVER:
            added[tissue] = blood * reached * min(properties.uptake * properties.pd * own[tissue], 1.2)
    return phantom.with_hu(phantom.hu + added[phantom.tissue])
