"""Guarded reading: one door for image files, whatever their format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.content import Content, content_of
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS
from sctlab_model.io.header import ImageHeader, read_voxels
from sctlab_model.io.metaimage import read_metaimage_header
from sctlab_model.io.nifti import read_nifti_header
from sctlab_model.io.nrrd import read_nrrd_header
from sctlab_model.io.paths import SUFFIXES, not_a_file, split_suffix
from sctlab_model.limits import check_memory
from sctlab_model.volume import Geometry, Volume

_READERS: dict[str, Callable[..., ImageHeader]] = {
    ".mha": read_metaimage_header,
    ".mhd": read_metaimage_header,
    ".nii": read_nifti_header,
    ".nii.gz": read_nifti_header,
    ".nrrd": read_nrrd_header,
    ".nhdr": read_nrrd_header,
}
# First bytes that tell no more than the name: of header and voxels apart, and of a stream that stops or is damaged.
_SAME = {".mhd": (".mha",), ".nhdr": (".nrrd",), ".nii.gz": (".nii.gz", ".gz")}


def read_header(path: str | Path, *, components: int = 1, max_voxels: int = DEFAULT_MAX_VOXELS) -> ImageHeader:
    """Check an image's header, and read no voxel.

    Args:
        path: The file.
        components: Values a voxel that are wanted: 1 for images, 3 for displacements.
        max_voxels: Larger images are refused.

    Raises:
        InputError: Missing, malformed or oversized file, not 3D, another number of components.
    """
    path = Path(path)
    suffix = split_suffix(path)[1]
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="an image file")
    if suffix not in _READERS:
        found = f"unknown suffix '{suffix}'" if suffix else "a name without suffix"
        raise InputError(path, found=found, expected="one of " + ", ".join(SUFFIXES), advice=_what_it_is(path))
    try:
        with np.errstate(all="ignore"):  # values that are no numbers are refused, in one sentence
            return _READERS[suffix](path, components=components, max_voxels=max_voxels)
    except InputError as error:
        content = content_of(path)
        if content is None or content.suffix in _SAME.get(suffix, (suffix,)):
            raise
        raise InputError(
            path, found=content.what, expected=f"what its name says ({suffix})", advice=_remedy(path, content)
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_volume(
    path: str | Path,
    *,
    max_voxels: int = DEFAULT_MAX_VOXELS,
    working_bytes: Callable[[Geometry], int] = lambda geometry: 0,
) -> Volume:
    """Read a scalar 3D image (`.mha`, `.mhd`, `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`) and refuse what can't be right.

    Args:
        path: The file.
        max_voxels: Larger images are refused before they are loaded.
        working_bytes: Memory that the caller will take for an image on this grid, beyond the voxels. With what reading
            takes it must fit into the memory that is free, before anything is inflated.

    Returns:
        The image with its element type kept, axes z, y, x. Its `notes` say what was repaired or assumed.

    Raises:
        InputError: Missing, malformed, truncated or oversized file, not 3D, colour, NaN or infinite voxels.
        ResourceError: More memory is needed than there is.
    """
    header = read_header(path, max_voxels=max_voxels)
    return Volume(
        read_values(header, header.reading_bytes + working_bytes(header.geometry)),
        header.geometry,
        str(header.path),
        header.notes,
    )


def read_values(header: ImageHeader, needed_bytes: int | None = None) -> np.ndarray:
    """The values behind a checked header, all finite; axes z, y, x, with components: component, z, y, x.

    Raises:
        InputError: The data is shorter, longer or damaged, or has NaN or infinite values.
        ResourceError: More memory is needed than there is.
    """
    size = "x".join(map(str, header.geometry.size_xyz))
    check_memory(header.path, needed_bytes or header.reading_bytes, f"an image of {size} voxels")
    try:
        with np.errstate(all="ignore"):  # what overflows is counted below
            array = read_voxels(header)
    except OSError as error:
        raise _unreadable(header.path, error) from error
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if not bad and array.dtype.itemsize == 8 and max(array.max(), -array.min()) > np.finfo(np.float32).max:
            raise InputError(
                header.path,
                found="values beyond what float32 holds (3.4e38)",
                expected="intensities",
                advice="check scale and type of the voxels",
            )
        if bad:
            raise InputError(
                header.path,
                found=f"{bad} voxels are NaN or infinite",
                expected="finite values",
                advice="repair the export that made this image",
            )
    return array


def read_mask(path: str | Path, *, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read a mask; every voxel above zero belongs to it. Returns a boolean volume."""
    volume = read_volume(path, max_voxels=max_voxels)
    return volume.with_array(volume.array > 0)


def _what_it_is(path: Path) -> str:
    """Advice for a file with another suffix: what it seems to be, and what to do with it."""
    content = content_of(path)
    if content is not None:
        return f"it is {content.what}: {_remedy(path, content)}"
    headers = [p for s in (".mhd", ".nhdr", ".hdr") if (p := path.with_suffix(s)).is_file()]
    if not headers:
        return ""
    readable = headers[0].suffix in _READERS
    return f"give its header, {headers[0].name}" if readable else "write header and voxels into one .nii.gz"


def _remedy(path: Path, content: Content) -> str:
    return content.advice or f"call it {split_suffix(path)[0]}{content.suffix}"


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(path, found=f"can't be read ({error.strerror or error})", expected="a readable file")
