"""A simulated case as a folder that appears whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sctlab.simulation.deformation import Motion
from sctlab.simulation.fractions import FRACTIONS_FILE, write_fractions
from sctlab_model.io.writing import atomic_path, write_volume

if TYPE_CHECKING:
    from sctlab.simulation.case import SimulatedCase


def write_case(case: SimulatedCase, folder: Path) -> None:
    """Write images, truth and `overview.png`; an older folder of that name is replaced at the end."""
    from sctlab.simulation.overview import save_overview

    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "truth").mkdir(parents=True)
    files = case.files()
    try:
        for name, volume in files.items():
            write_volume(volume, part / name)
        write_transform(case.motion, part / "truth" / "deformation.h5")
        if case.fractions is not None and case.truth.options.get("fractions"):
            write_fractions(case.fractions, part / "truth" / FRACTIONS_FILE)
        save_overview(files, part / "overview.png", title=folder.name)
        case.truth.write(part / "truth" / "truth.json")
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    part.replace(folder)


def write_transform(motion: Motion, path: Path) -> None:
    """Write the motion as an ITK displacement field transform (HDF5).

    ITK's own file is copied without the library and system versions that ITK stamps and without HDF5's time stamps, so
    that a seed gives the same bytes, and compressed, which ITK can't write but reads.
    """
    import h5py
    import SimpleITK as sitk

    with atomic_path(path) as temporary:
        raw = temporary.with_name(f"{temporary.stem}.itk.h5")
        try:
            sitk.WriteTransform(motion.transform(), str(raw))
            with h5py.File(raw) as found, h5py.File(temporary, "w") as file:
                for name in ("HDFVersion", "ITKVersion", "OSName", "OSVersion"):
                    file.create_dataset(name, data=[b"any"], dtype=h5py.string_dtype("ascii"), track_times=False)
                group = "TransformGroup/0"
                kind = found[f"{group}/TransformType"][()]
                file.create_dataset(
                    f"{group}/TransformType", data=kind, dtype=h5py.string_dtype("ascii"), track_times=False
                )
                for name in ("TransformFixedParameters", "TransformParameters"):
                    values = found[f"{group}/{name}"][()]
                    if name == "TransformParameters":
                        values = values.astype("f4").astype("f8")  # 1e-5 mm at most, for half the file
                    file.create_dataset(
                        f"{group}/{name}",
                        data=values,
                        compression="gzip",
                        compression_opts=4,
                        shuffle=True,
                        track_times=False,
                    )
        finally:
            raw.unlink(missing_ok=True)
