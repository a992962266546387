"""A simulated case as a folder that appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sctlab.simulation.deformation import Motion
from sctlab.simulation.fractions import FRACTIONS_FILE, write_fractions
from sctlab_model.io.atomic import atomic_folder, atomic_path
from sctlab_model.io.writing import write_volume

if TYPE_CHECKING:
    from sctlab.simulation.case import SimulatedCase


def write_case(case: SimulatedCase, folder: Path) -> None:
    """Write images, truth and `overview.png`; an older folder of that name is replaced at the end."""
    from sctlab.simulation.overview import save_overview

    files = case.files()
    with atomic_folder(folder) as part:
        for name, volume in files.items():
            write_volume(volume, part / name)
        write_transform(case.motion, part / "truth" / "deformation.h5")
        if case.fractions is not None and case.truth.options.get("fractions"):
            write_fractions(case.fractions, part / "truth" / FRACTIONS_FILE)
        save_overview(files, part / "overview.png", title=folder.name)
        case.truth.write(part / "truth" / "truth.json")


def write_transform(motion: Motion, path: Path) -> None:
    """Write the motion as an ITK displacement field transform (HDF5), compressed and the same bytes for a seed."""
    from sctlab.transforms.data import DisplacementField
    from sctlab.transforms.itk_hdf5 import write_hdf5_steps
    from sctlab.transforms.itk_steps import to_steps

    vectors = np.moveaxis(motion.field, -1, 0)
    _, step = to_steps((DisplacementField(motion.geometry, vectors),))  # without a composite around it
    with atomic_path(path) as temporary:
        write_hdf5_steps(temporary, [step], compress=True)
