"""Gamma comparison of two dose files (optional extra: `pip install "sctlab[gamma]"`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.volume import Volume

DOSE_PERCENT = 2.0
DISTANCE_MM = 2.0
CUTOFF_PERCENT = 10.0
MAX_GAMMA = 2.0  # searching beyond changes no pass rate


@dataclass(frozen=True)
class GammaResult:
    """Gamma of Low et al. (Med Phys 25:656, 1998), global dose criterion.

    Args:
        pass_rate: Percent of the voxels above the cutoff with gamma <= 1.
        mean_gamma: Over the same voxels, capped at 2.
        voxels: How many there are.
    """

    pass_rate: float
    mean_gamma: float
    voxels: int


def gamma_pass_rate(evaluated: Volume, reference: Volume, *, prescription: float | None = None) -> GammaResult:
    """3D gamma 2 %/2 mm, cutoff 10 %, both relative to the prescription (or the reference's maximum), by pymedphys.

    Args:
        evaluated: Dose recalculated on the CT or sCT, any unit.
        reference: Dose to compare with, in the same unit; its grid may differ but must not be rotated.
        prescription: Dose that percentages refer to; the reference's maximum when left out.

    Raises:
        InputError: pymedphys isn't installed, negative dose, no dose, or a rotated grid.
    """
    try:
        from pymedphys import gamma
    except ImportError as error:
        raise InputError(
            "gamma", found="pymedphys isn't installed", expected="it", advice='pip install "sctlab[gamma]"'
        ) from error
    for dose in (evaluated, reference):
        if dose.array.min() < 0 or not dose.array.any():
            raise InputError(
                dose.name, found=f"values from {dose.array.min():g} to {dose.array.max():g}", expected="a dose"
            )
        if not np.allclose(dose.geometry.axes, np.eye(3), atol=1e-4):
            raise InputError(
                dose.name,
                found="a rotated or flipped grid",
                expected="axes along the patient's",
                advice="resample it first",
            )
    values = gamma(
        _axes(reference),
        reference.array.astype(np.float64),
        _axes(evaluated),
        evaluated.array.astype(np.float64),
        dose_percent_threshold=DOSE_PERCENT,
        distance_mm_threshold=DISTANCE_MM,
        lower_percent_dose_cutoff=CUTOFF_PERCENT,
        max_gamma=MAX_GAMMA,
        global_normalisation=prescription,
        quiet=True,
        interp_algo="scipy",  # its own needs numba
    )
    values = values[np.isfinite(values)]
    if values.size == 0:
        raise InputError(reference.name, found="no voxel with a gamma value", expected="doses that overlap")
    return GammaResult(float(100 * np.mean(values <= 1)), float(values.mean()), int(values.size))


def _axes(dose: Volume) -> tuple[np.ndarray, ...]:
    """Coordinates of the voxels along z, y, x in mm."""
    g = dose.geometry
    return tuple(
        o + s * np.arange(n) for o, s, n in zip(g.origin_xyz[::-1], g.spacing_xyz[::-1], g.shape_zyx, strict=True)
    )
