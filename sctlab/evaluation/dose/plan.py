"""The plans that doses are compared by: ours, not a clinic's, and the same for every case of a region."""

from __future__ import annotations

from typing import Literal

from sctlab.evaluation.tissues import ELECTRON_DENSITY, ELECTRON_DENSITY_HU
from sctlab.evaluation.water_equivalent import STOPPING_POWER, STOPPING_POWER_HU
from sctlab_model.cases import Region
from sctlab_model.settings import Settings

Modality = Literal["photons", "protons"]

# Photons: five coplanar fields, from the front where the target is deep in the trunk. Protons: two fields, from the sides that avoid
# the face in the head and neck.
GANTRY_ANGLES: dict[tuple[str, Region], tuple[float, ...]] = {
    ("photons", Region.AB): (0.0, 72.0, 144.0, 216.0, 288.0),
    ("photons", Region.TH): (0.0, 72.0, 144.0, 216.0, 288.0),
    ("photons", Region.HN): (0.0, 72.0, 144.0, 216.0, 288.0),
    ("protons", Region.AB): (0.0, 270.0),
    ("protons", Region.TH): (0.0, 270.0),
    ("protons", Region.HN): (60.0, 300.0),
}
PRESCRIPTION_GY, FRACTIONS = 60.0, 30
GRID_MM, BIXEL_MM = 3.0, 5.0
TARGET_RADIUS_MM = 12.5  # of the default target, a ball at the mask's centre


class Plan(Settings):
    """A plan's settings, as the worker takes them.

    Args (units in the names): `hlut` holds pairs of HU and electron density (photons) or stopping power (protons) relative to
    water; outside its ends the last value holds.
    """

    modality: Modality
    gantry_angles: tuple[float, ...]
    prescription_gy: float = PRESCRIPTION_GY
    fractions: int = FRACTIONS
    bixel_mm: float = BIXEL_MM
    grid_mm: float = GRID_MM
    hlut: tuple[tuple[float, float], ...]


def default_plan(modality: Modality, region: Region | None) -> Plan:
    """The plan of a modality and region; the abdomen's where the region isn't known."""
    curve = (ELECTRON_DENSITY_HU, ELECTRON_DENSITY) if modality == "photons" else (STOPPING_POWER_HU, STOPPING_POWER)
    points = [(float(hu), max(float(value), 0.001)) for hu, value in zip(*curve, strict=True)]
    angles = GANTRY_ANGLES[modality, region or Region.AB]
    return Plan(modality=modality, gantry_angles=angles, hlut=tuple(points))
