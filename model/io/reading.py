"""Guarded reading: one door for image files, whatever their format."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.metaimage import (
    DEFAULT_MAX_VOXELS,
    MAX_HEADER_BYTES,
    check_direction,
    check_spacing,
    read_metaimage,
)
from sctlab_model.io.nifti import read_nifti
from sctlab_model.io.writing import SUFFIXES, split_suffix
from sctlab_model.volume import Volume


def read_volume(path: str | Path, *, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read a scalar 3D image (`.mha`, `.mhd`, `.nii`, `.nii.gz`, `.nrrd`) and refuse what can't be right.

    Args:
        path: The file.
        max_voxels: Larger images are refused before they are loaded.

    Returns:
        The image with its element type kept, axes z, y, x.

    Raises:
        InputError: Missing, malformed, truncated or oversized file, not 3D, colour, NaN or infinite voxels.
    """
    path = Path(path)
    suffix = split_suffix(path)[1]
    if not path.is_file():
        raise InputError(path, found="no such file", expected="an image file")
    if suffix not in SUFFIXES:
        raise InputError(path, found=f"unknown suffix '{suffix}'", expected="one of " + ", ".join(SUFFIXES))
    try:
        if suffix in (".mha", ".mhd"):
            volume = read_metaimage(path, max_voxels=max_voxels)
        elif suffix == ".nrrd":
            volume = _read_nrrd(path, max_voxels)
        else:
            volume = read_nifti(path, max_voxels=max_voxels)
    except OSError as error:
        raise InputError(
            path, found=f"can't be read ({error.strerror or error})", expected="a readable file"
        ) from error
    if volume.array.dtype.kind == "f":
        bad = volume.array.size - int(np.count_nonzero(np.isfinite(volume.array)))
        if bad:
            raise InputError(
                path,
                found=f"{bad} voxels are NaN or infinite",
                expected="finite values",
                advice="repair the export that made this image",
            )
    return volume


def read_mask(path: str | Path, *, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read a mask; every voxel above zero belongs to it. Returns a boolean volume."""
    volume = read_volume(path, max_voxels=max_voxels)
    return volume.with_array(volume.array > 0)


def _read_nrrd(path: Path, max_voxels: int) -> Volume:
    """ITK's reader, with its result checked; the voxels must lie in the file itself."""
    import SimpleITK as sitk

    with path.open("rb") as handle:
        header = handle.read(MAX_HEADER_BYTES).partition(b"\n\n")[0].replace(b"\r", b"")
    if re.search(rb"^data ?file *:", header, re.MULTILINE | re.IGNORECASE):
        raise InputError(path, found="a header whose voxels lie in another file", expected="one file that holds both")
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # C++ warnings would break the one-line messages
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() != 3:
            raise InputError(path, found=f"{reader.GetDimension()} dimensions", expected="a volume with 3 dimensions")
        if reader.GetNumberOfComponents() != 1:
            raise InputError(
                path, found=f"{reader.GetNumberOfComponents()} channels a voxel (a colour image)", expected="1 channel"
            )
        size = reader.GetSize()
        if min(size) < 1 or math.prod(size) > max_voxels:
            raise InputError(path, found=f"{'x'.join(map(str, size))} voxels", expected=f"1 to {max_voxels} voxels")
        spacing, origin = reader.GetSpacing(), reader.GetOrigin()
        check_spacing(spacing, str(path))
        if not all(map(math.isfinite, origin)):
            raise InputError(path, found=f"origin {origin} mm", expected="finite values")
        check_direction(np.array(reader.GetDirection()).reshape(3, 3), str(path))
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].removeprefix("ITK ERROR: ")
        raise InputError(
            path,
            found=f"can't be read ({reason[:160]})",
            expected="a complete image file",
            advice="the file is damaged or of another type",
        ) from error
    if image.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise InputError(path, found="complex voxels", expected="a magnitude image")
    return Volume.from_sitk(image, str(path))
