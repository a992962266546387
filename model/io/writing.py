"""Images written in Python: no name or number goes through C++, and a disk that is full is an error like any other.

The same image gives the same bytes. MetaImage and NRRD hold the geometry as float64, NIfTI as float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path
from sctlab_model.io.metaimage import STRUCTURAL_KEYS, encode_metaimage
from sctlab_model.io.nifti import encode_nifti
from sctlab_model.io.nrrd import encode_nrrd
from sctlab_model.io.paths import split_suffix
from sctlab_model.volume import Geometry, Volume

WRITTEN_SUFFIXES = (".mha", ".nii.gz", ".nii", ".nrrd")
MAX_METADATA_LENGTH = 1000
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_TEXT = re.compile(r"[ -~]*")
_TYPES = {"f2": np.float32, "f8": np.float32, "b1": np.uint8}


def write_volume(
    volume: Volume, path: str | Path, *, compress: bool = True, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write an image atomically; the format follows the suffix (`.mha`, `.nii.gz`, `.nii`, `.nrrd`).

    Float64 and float16 become float32 and booleans become uint8; other types are kept.

    Args:
        volume: The image.
        path: Where.
        compress: Of `.mha` and `.nrrd`; NIfTI's suffix says it.
        metadata: Short texts for the file's own header: letters, digits and underscores as keys, ASCII as values.

    Raises:
        InputError: Unknown suffix, metadata that a header can't hold, or a folder that can't be written to.
        ResourceError: The disk is full.
    """
    code = volume.array.dtype.str[1:]
    array = volume.array.astype(_TYPES[code]) if code in _TYPES else volume.array
    return write_array(array, volume.geometry, path, compress=compress, metadata=metadata)


def write_array(
    array: np.ndarray,
    geometry: Geometry,
    path: str | Path,
    *,
    compress: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write values z, y, x, or vectors with the component as first axis, in their own type; see `write_volume`."""
    path = Path(path)
    suffix = written_suffix(path)
    metadata = checked_metadata(metadata or {}, path)
    if suffix == ".mha":
        pieces = encode_metaimage(array, geometry, metadata, compress=compress)
    elif suffix == ".nrrd":
        pieces = encode_nrrd(array, geometry, metadata, compress=compress)
    else:
        pieces = encode_nifti(array, geometry, metadata, compress=suffix == ".nii.gz")
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        for piece in pieces:
            handle.write(piece)
    return path


def written_suffix(path: str | Path) -> str:
    """The suffix of an image that is to be written, for commands that should refuse another before they compute.

    Raises:
        InputError: One that isn't written.
    """
    suffix = split_suffix(path)[1]
    if suffix not in WRITTEN_SUFFIXES:
        raise InputError(path, found=f"unknown suffix '{suffix}'", expected="one of " + ", ".join(WRITTEN_SUFFIXES))
    return suffix


def checked_metadata(metadata: Mapping[str, str], where: str | Path) -> dict[str, str]:
    """Keys and texts that every format's header can hold.

    Raises:
        InputError: A key that is no plain word or that has a meaning in the header, or a text that is no single short line.
    """
    for key, text in metadata.items():
        if not _KEY.fullmatch(key) or key in STRUCTURAL_KEYS:
            raise InputError(where, found=f"a metadata key '{key[:40]}'", expected="a word of letters, digits and _")
        if not _TEXT.fullmatch(text) or len(text) > MAX_METADATA_LENGTH:
            raise InputError(
                where,
                found=f"metadata {key} = {text[:40]!r}",
                expected=f"a line of up to {MAX_METADATA_LENGTH} characters",
            )
    return dict(metadata)
