"""MetaImage (.mha, .mhd) read in Python, because the header is hostile until checked.

ITK's MetaIO parser trusts the header: a malformed one can crash it or make it ask for any amount of
memory. Here the header is checked key by key, the size is compared with the data that is there, and
compressed data is inflated within its declared bound. ITK never sees the file.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. Keys that don't describe the grid or the voxels
(SimpleITK writes DICOM tags and free text there) are ignored.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS, check_size, checked_grid
from sctlab_model.io.header import MAX_HEADER_BYTES, ImageHeader, interleaved
from sctlab_model.io.paths import file_beside
from sctlab_model.io.streams import deflated
from sctlab_model.volume import Geometry, triple

ELEMENT_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_ELEMENT_NAMES = {code: name for name, code in ELEMENT_TYPES.items() if "LONG" not in name or "LONG_LONG" in name}
# Older writers use other names for the same thing.
OFFSET_KEYS = ("Offset", "Position", "Origin")
DIRECTION_KEYS = ("TransformMatrix", "Rotation", "Orientation")
BYTE_ORDER_KEYS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
STRUCTURAL_KEYS = frozenset(
    ("ObjectType", "NDims", "DimSize", "ElementType", "ElementSpacing", "ElementSize", "ElementDataFile",
     "ElementNumberOfChannels", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize",
     "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "CenterOfRotation",
     *OFFSET_KEYS, *DIRECTION_KEYS, *BYTE_ORDER_KEYS)
)  # fmt: skip
# Further names behind which ITK reads numbers; of no effect here, and refused only where their '=' is missing.
_NUMBERS_OF_NO_EFFECT = frozenset(
    ("Color", "ID", "ParentID", "SequenceID", "ImagePosition", "ElementMin", "ElementMax", "ElementNBits")
)
_INTEGER = re.compile(r"[+-]?\d{1,19}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")


def read_metaimage_header(path: Path, *, components: int = 1, max_voxels: int = DEFAULT_MAX_VOXELS) -> ImageHeader:
    """Check the header of an `.mha` or `.mhd` file.

    Args:
        path: The file.
        components: Values a voxel that are wanted.
        max_voxels: Larger images are refused.

    Raises:
        InputError: Anything structural that is missing, repeated, malformed or out of range.
    """
    with path.open("rb") as handle:
        raw = handle.read(MAX_HEADER_BYTES)
    return parse_header(raw, path, components=components, max_voxels=max_voxels)


def parse_header(raw: bytes, path: Path, *, components: int = 1, max_voxels: int = DEFAULT_MAX_VOXELS) -> ImageHeader:
    """A header from a file's first bytes, which reach at least to the end of the `ElementDataFile` line."""
    where = str(path)
    values, header_end = _read_keys(raw, where)

    def refuse(found: str, expected: str) -> InputError:
        return InputError(where, found=found, expected=expected, advice="the file is damaged or not a MetaImage volume")

    if values.get("ObjectType", "Image") != "Image":
        raise refuse(f"ObjectType = {values['ObjectType'][:40]}", "Image")
    for key in ("NDims", "DimSize", "ElementType"):
        if key not in values:
            raise refuse(f"no {key} in the header", "a MetaImage header")
    if values["NDims"] != "3":
        raise refuse(f"NDims = {values['NDims'][:40]}", "a volume with 3 dimensions")
    channels = values.get("ElementNumberOfChannels", "1")
    if channels != str(components):
        kind = " (a colour or vector image)" if components == 1 else ""
        raise refuse(f"{channels[:40]} channels a voxel{kind}", f"{components} channel{'s' * (components > 1)}")
    if values["ElementType"] not in ELEMENT_TYPES:
        raise refuse(f"ElementType = {values['ElementType'][:40]}", " ".join(ELEMENT_TYPES))
    size = _integers(values["DimSize"], "DimSize", where)
    check_size(size, where, max_voxels)
    if not _boolean(values, "BinaryData", True, where):
        raise refuse("BinaryData = False", "binary voxels")
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in values and _numbers(values[key], 1, key, where)[0] != neutral:
            raise refuse(f"{key} = {values[key][:40]}", f"{neutral:g}: rescale the image before")

    spacing_key = "ElementSpacing" if "ElementSpacing" in values else "ElementSize"
    spacing = _numbers(values.get(spacing_key, "1 1 1"), 3, spacing_key, where)
    for key in ("ElementSize", "CenterOfRotation"):  # of no effect here, but other readers go astray after bad ones
        if key in values:
            _numbers(values[key], 3, key, where)
    origin = _numbers(_one_of(values, OFFSET_KEYS, "0 0 0", where), 3, "Offset", where)
    # The file lists the direction of each axis in turn; ITK's matrix has them as columns.
    rows = _numbers(_one_of(values, DIRECTION_KEYS, "1 0 0 0 1 0 0 0 1", where), 9, "TransformMatrix", where)
    geometry, notes = checked_grid(size, spacing, origin, np.array(rows).reshape(3, 3).T, where)

    _one_of(values, BYTE_ORDER_KEYS, "", where)
    big_endian = any(_boolean(values, key, False, where) for key in BYTE_ORDER_KEYS)
    dtype = np.dtype(ELEMENT_TYPES[values["ElementType"]]).newbyteorder(">" if big_endian else "<")
    compressed = _boolean(values, "CompressedData", False, where)
    compressed_size = None
    if compressed:
        if "CompressedDataSize" not in values:
            raise refuse("compressed data without CompressedDataSize", "its number of bytes")
        compressed_size = _integer(values["CompressedDataSize"], "CompressedDataSize", where)
        if compressed_size < 1:
            raise refuse(f"CompressedDataSize = {compressed_size}", "a positive number of bytes")

    data_file = values["ElementDataFile"]
    header_size = _integer(values.get("HeaderSize", "0"), "HeaderSize", where)
    data_bytes = math.prod(size) * components * dtype.itemsize
    if data_file.upper() in ("LOCAL", "LOCAL_DATA"):
        if "HeaderSize" in values and header_size not in (0, -1, header_end):
            raise refuse(f"HeaderSize = {header_size}", f"{header_end}, where the header ends")
        data_path, offset = path, header_end
    else:
        if header_size < -1 or (header_size == -1 and compressed):
            raise refuse(f"HeaderSize = {header_size}", "0 or more bytes, or -1 for uncompressed data")
        data_path, offset = file_beside(path, data_file), header_size
        if header_size == -1:  # the voxels are the end of the file
            offset = max(0, data_path.stat().st_size - data_bytes)
    return ImageHeader(
        path,
        geometry,
        dtype,
        data_path,
        "zlib" if compressed else "raw",
        offset,
        stored_bytes=compressed_size if compressed else data_bytes,
        components=components,
        notes=notes,
    )


def _numbers_of(array: np.ndarray | tuple[float, ...]) -> str:
    """Numbers that read back as the same float64."""
    return " ".join(repr(float(v)).removesuffix(".0") for v in np.ravel(array))


def encode_metaimage(
    array: np.ndarray, geometry: Geometry, metadata: Mapping[str, str], *, compress: bool
) -> Iterator[bytes | memoryview]:
    """The pieces of an `.mha` file.

    Args:
        array: Values in native byte order, axes z, y, x; with components: component, z, y, x.
        geometry: The grid.
        metadata: Keys and texts for the header, checked by `writing.py`.
        compress: With zlib.
    """
    components = len(array) if array.ndim == 4 else 1
    voxels = memoryview(interleaved(array)).cast("B")
    pieces: list[bytes] | list[memoryview] = list(deflated([voxels], "zlib")) if compress else [voxels]
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {compress}",
        *([f"CompressedDataSize = {sum(map(len, pieces))}"] if compress else []),
        # The file lists the direction of each axis in turn; the matrix has them as columns.
        f"TransformMatrix = {_numbers_of(geometry.axes.T)}",
        f"Offset = {_numbers_of(geometry.origin_xyz)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers_of(geometry.spacing_xyz)}",
        f"DimSize = {' '.join(map(str, geometry.size_xyz))}",
        *([f"ElementNumberOfChannels = {components}"] if components > 1 else []),
        f"ElementType = {_ELEMENT_NAMES[array.dtype.newbyteorder('=').str[1:]]}",
        *(f"{key} = {text}" for key, text in metadata.items()),
        "ElementDataFile = LOCAL",
    ]
    yield "".join(f"{line}\n" for line in lines).encode("ascii")
    yield from pieces


def _read_keys(raw: bytes, where: str) -> tuple[dict[str, str], int]:
    """Structural `key = value` lines up to ElementDataFile, and the offset behind that line.

    Stricter than ITK where two readers could disagree: repeated keys, keys before NDims, and text without
    a separator, which ITK takes as part of the next line's key. A key's name alone it takes for the key, and reads its
    value from further lines, over which it passes.
    """

    def refuse(found: str, expected: str) -> InputError:
        return InputError(where, found=found, expected=expected, advice="the file is damaged or of another type")

    values: dict[str, str] = {}
    position, dangling = 0, False
    while position < len(raw):
        end = raw.find(b"\n", position)
        end = len(raw) if end < 0 else end  # an .mhd may end without a newline
        line, position = raw[position:end], end + 1
        if b"\0" in line or end >= MAX_HEADER_BYTES:
            break
        separator = re.search(rb"[=:]", line)  # ITK takes a colon, too
        if separator is None:
            if line.strip() and not values:
                raise refuse("a first line without '='", "a MetaImage header")
            words = line.decode("ascii", "replace").split()
            if words and words[0] in STRUCTURAL_KEYS | _NUMBERS_OF_NO_EFFECT:
                raise refuse(f"{words[0]} without '='", "key = value lines")
            dangling = dangling or bool(words)
            continue
        name = line[: separator.start()].strip(b" \t\r").decode("ascii", "replace")
        value = line[separator.end() :].strip(b" \t\r")
        # A file's name is bytes to the system; every other value is plain text.
        text = os.fsdecode(value) if name == "ElementDataFile" else value.decode("ascii", "replace")
        if dangling and (not name or name in STRUCTURAL_KEYS):
            raise refuse(f"text without '=' before {name or 'a value'}", "key = value lines")
        dangling = False
        if name not in STRUCTURAL_KEYS:
            continue
        if name in values:
            raise refuse(f"{name} stands twice in the header", "each key once")
        if name != "ElementDataFile" and not re.fullmatch(r"[ -~\t]*", text):
            raise refuse(f"{name} = {text[:40]!r}", "printable text")
        if "NDims" not in values and name not in ("ObjectType", "NDims"):
            raise refuse(f"{name} before NDims", "NDims first")
        values[name] = text
        if name == "ElementDataFile":
            return values, min(position, len(raw))
    raise refuse("no ElementDataFile line", "a MetaImage header")


def _one_of(values: dict[str, str], keys: tuple[str, ...], default: str, where: str) -> str:
    """The value of whichever of several names of one thing is there; refused when they differ."""
    found = {key: values[key] for key in keys if key in values}
    if len(set(found.values())) > 1:
        raise InputError(
            where,
            found=f"{' and '.join(found)} with different values",
            expected="one of them",
            advice="the file is damaged",
        )
    return next(iter(found.values()), default)


def _boolean(values: dict[str, str], key: str, default: bool, where: str) -> bool:
    text = values.get(key)
    if text is None:
        return default
    if text.lower() not in ("true", "false", "1", "0"):
        raise InputError(where, found=f"{key} = {text[:40]}", expected="True or False", advice="the file is damaged")
    return text.lower() in ("true", "1")


def _integer(text: str, key: str, where: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise InputError(where, found=f"{key} = {text[:60]}", expected="a whole number", advice="the file is damaged")
    return int(text)


def _integers(text: str, key: str, where: str) -> tuple[int, int, int]:
    parts = text.split()
    if len(parts) != 3:
        raise InputError(where, found=f"{key} = {text[:60]}", expected="3 whole numbers", advice="the file is damaged")
    return triple(_integer(part, key, where) for part in parts)


def _numbers(text: str, count: int, key: str, where: str) -> tuple[float, ...]:
    parts = text.split()
    if len(parts) != count or not all(_NUMBER.fullmatch(part) for part in parts):
        raise InputError(
            where, found=f"{key} = {text[:60]}", expected=f"{count} finite numbers", advice="the file is damaged"
        )
    numbers = tuple(float(part) for part in parts)
    if not all(map(math.isfinite, numbers)):
        raise InputError(
            where, found=f"{key} = {text[:60]}", expected=f"{count} finite numbers", advice="the file is damaged"
        )
    return numbers
