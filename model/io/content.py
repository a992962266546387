"""What a file is by its first bytes, for the sentence that refuses one whose name says something else."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_START = 512


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Args:
        what: In words.
        suffix: The name's end that such a file has; empty where no image of that kind is read.
        advice: What to do about it; empty: rename it.
    """

    what: str
    suffix: str = ""
    advice: str = ""


_DOWNLOAD = "fetch the file itself again"
_BY_START: tuple[tuple[bytes, Content], ...] = (
    (b"version https://git-lfs", Content("a pointer of Git LFS, not the file that it stands for", advice="run `git lfs pull`")),
    (b"NRRD000", Content("NRRD", ".nrrd")),
    (b"PK\x03\x04", Content("a zip archive", advice="unpack it")),
    (b"\x89HDF", Content("HDF5", advice="convert it to .nii.gz or .mha")),
    (b"\x93NUMPY", Content("a NumPy array, which says nothing of its grid", advice="write it as .nii.gz or .mha")),
    (b"\xfd7zXZ", Content("data compressed with xz", advice="unpack it")),
    (b"BZh", Content("data compressed with bzip2", advice="unpack it")),
    (b"\x28\xb5\x2f\xfd", Content("data compressed with zstd", advice="unpack it")),
    (b"\x89PNG", Content("a picture (PNG)", advice="convert the image again from DICOM")),
    (b"\xff\xd8\xff", Content("a picture (JPEG)", advice="convert the image again from DICOM")),
    (b"ObjectType", Content("MetaImage", ".mha")),
    (b"NDims", Content("MetaImage", ".mha")),
    (b"<", Content("a web page", advice=_DOWNLOAD)),
    (b"{", Content("JSON", advice=_DOWNLOAD)),
)  # fmt: skip


def content_of(path: Path) -> Content | None:
    """What a file's first bytes say; None for what isn't known here."""
    try:
        with path.open("rb") as handle:
            start = handle.read(_START)
    except OSError:
        return None
    if not start:
        return Content("an empty file", advice="copy it again")
    if dicom_begins_at(start) is not None:
        from sctlab_model.cases.files import DICOM_ADVICE

        return Content("DICOM", advice=DICOM_ADVICE)
    if start.startswith(b"\x1f\x8b"):
        inner = _named(_inflated(start))
        if inner is None:
            return Content("data compressed with gzip", ".gz", advice="unpack it")
        if inner.suffix == ".nii":
            return Content("compressed NIfTI", ".nii.gz")
        return Content(f"{inner.what}, compressed with gzip", advice="unpack it")
    return _named(start)


def dicom_begins_at(start: bytes) -> int | None:
    """Where the elements of a DICOM file begin: behind preamble and magic word, or at 0 in files of before 1993 and of
    programs that leave both out, which begin with an element of group 2 or 8; None in other files.

    Args:
        start: The first 132 bytes or more.

    Example:
        >>> dicom_begins_at(bytes(128) + b"DICM")
        132
        >>> dicom_begins_at(b"\\x08\\x00\\x05\\x00CS\\x0a\\x00ISO_IR 100")
        0
    """
    if start[128:132] == b"DICM":
        return 132
    if len(start) < 16:
        return None
    group, element, length = struct.unpack("<HHI", start[:8])
    if group not in (0x2, 0x8) or element > 0x18:
        return None
    explicit = start[4:6] in (b"UL", b"OB", b"UI", b"CS", b"SH", b"DA")
    return 0 if explicit or (length % 2 == 0 and 0 < length <= 64) else None


def _named(start: bytes) -> Content | None:
    if len(start) >= 348 and any(struct.unpack(f"{o}i", start[:4])[0] in (348, 540) for o in "<>"):
        if start[344:347] == b"ni1":
            advice = "write header and voxels into one .nii.gz"
            return Content("the header of a NIfTI pair (magic ni1: .hdr and .img)", advice=advice)
        if start[344:347] == b"n+1" or start[4:7] == b"n+2":
            return Content("NIfTI", ".nii")
        if start[344:348] == bytes(4):
            return Content("an Analyze header, which says nothing of left and right", advice="convert again from DICOM")
    text = start.lstrip()
    return next((content for words, content in _BY_START if text.startswith(words)), None)


def _inflated(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(start, _START)
    except zlib.error:
        return b""
