"""Atomic writing: a file appears under its final name whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.metaimage import MAX_HEADER_BYTES, parse_header
from sctlab_model.volume import Volume

NIFTI_HEADER_BYTES = 352
SUFFIXES = (".nii.gz", ".mha", ".mhd", ".nii", ".nrrd")


def split_suffix(path: str | Path) -> tuple[str, str]:
    """File name without its image suffix, and the suffix (`.nii.gz` is one).

    Example:
        >>> split_suffix("a/1ABA001.nii.gz")
        ('1ABA001', '.nii.gz')
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)], suffix
    return Path(name).stem, Path(name).suffix


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends without an error.

    The temporary name starts with a dot and keeps the suffix, so that writers that choose the
    format by suffix work. The file and its folder are synced before and after the rename.

    Raises:
        InputError: The disk is full or the folder can't be written to.
    """
    path = Path(path)
    stem, suffix = split_suffix(path)
    temporary = path.with_name(f".{stem}.{uuid.uuid4().hex[:8]}.part{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(
            path, found=f"can't be written ({error.strerror or error})", expected="a writable folder with room"
        ) from error
    finally:
        with suppress(OSError):  # the folder itself may be what is wrong
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, indented; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_volume(volume: Volume, path: str | Path, *, compress: bool = True) -> Path:
    """Write an image atomically; the format follows the suffix (`.mha`, `.nii.gz`, `.nii`, `.nrrd`).

    Float64 and float16 become float32 and booleans become uint8; other types are kept.
    """
    import SimpleITK as sitk

    path = Path(path)
    if split_suffix(path)[1] not in (".mha", ".nii.gz", ".nii", ".nrrd"):
        raise InputError(path, found=f"unknown suffix '{path.suffix}'", expected="one of .mha, .nii.gz, .nii, .nrrd")
    array = volume.array
    if array.dtype in (np.float64, np.float16):
        array = array.astype(np.float32)
    image = volume.with_array(array).to_sitk()
    with atomic_path(path) as temporary:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(temporary))
        writer.SetUseCompression(compress)
        writer.SetCompressionLevel(1)  # level 9 is ten times slower for 5 % less
        try:
            writer.Execute(image)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1]) from error
        _check_whole(temporary, array)
    return path


def _check_whole(path: Path, array: np.ndarray) -> None:
    """Refuse a file that the writer left short: ITK's NIfTI writer only prints that the disk is full."""
    stored, suffix = path.stat().st_size, split_suffix(path)[1]
    voxels = array.nbytes
    with path.open("rb") as handle:
        start = handle.read(MAX_HEADER_BYTES)
        handle.seek(-min(4, stored), os.SEEK_END)
        last = int.from_bytes(handle.read(), "little")
    if suffix == ".mha":
        header = parse_header(start, str(path), max_voxels=array.size)
        whole = stored == header.data_offset + (header.compressed_size or header.data_bytes)
    elif suffix == ".nii":
        whole = stored == NIFTI_HEADER_BYTES + voxels
    elif suffix == ".nii.gz":
        whole = last == (NIFTI_HEADER_BYTES + voxels) % 2**32  # gzip ends with the size of what it holds
    else:
        whole = stored - (start.find(b"\n\n") + 2) == voxels or last == voxels % 2**32  # raw or gzip
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
