"""MetaImage (.mha, .mhd) read in Python, because the header is hostile until checked.

ITK's MetaIO parser trusts the header: a malformed one can crash it or make it ask for any amount of
memory. Here the header is checked key by key, the size is compared with the data that is there, and
compressed data is inflated within its declared bound. ITK never sees the file.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. Keys that don't describe the grid or the voxels
(SimpleITK writes DICOM tags and free text there) are ignored.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume

MAX_HEADER_BYTES = 1 << 20
DEFAULT_MAX_VOXELS = 1 << 29  # 512 Mi voxels: 1024 x 1024 x 512, four times the largest clinical CT
MAX_DEFLATE_RATIO = 1032  # zlib can't do better (https://zlib.net/zlib_tech.html)

ELEMENT_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
# Older writers use other names for the same thing.
OFFSET_KEYS = ("Offset", "Position", "Origin")
DIRECTION_KEYS = ("TransformMatrix", "Rotation", "Orientation")
BYTE_ORDER_KEYS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
STRUCTURAL_KEYS = frozenset(
    ("ObjectType", "NDims", "DimSize", "ElementType", "ElementSpacing", "ElementSize", "ElementDataFile",
     "ElementNumberOfChannels", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize",
     "ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset",
     *OFFSET_KEYS, *DIRECTION_KEYS, *BYTE_ORDER_KEYS)
)  # fmt: skip
_INTEGER = re.compile(r"[+-]?\d{1,19}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")


@dataclass(frozen=True)
class MetaHeader:
    """A checked header: the grid, the element type with byte order, and where the data lies."""

    geometry: Geometry
    dtype: np.dtype
    compressed: bool
    compressed_size: int | None
    data_file: str  # "LOCAL" or a bare file name
    data_offset: int  # bytes before the voxels in the file that holds them; -1: count from the end

    @property
    def data_bytes(self) -> int:
        """Size of the voxels when inflated."""
        return math.prod(self.geometry.size_xyz) * self.dtype.itemsize


def parse_header(raw: bytes, where: str, *, max_voxels: int = DEFAULT_MAX_VOXELS) -> MetaHeader:
    """Check a MetaImage header.

    Args:
        raw: The file's first bytes, at least up to the end of the `ElementDataFile` line.
        where: File name for messages.
        max_voxels: Larger images are refused before anything is allocated.

    Raises:
        InputError: Anything structural that is missing, repeated, malformed or out of range.
    """
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
    if values.get("ElementNumberOfChannels", "1") != "1":
        raise refuse(f"{values['ElementNumberOfChannels'][:40]} channels a voxel (a colour image)", "1 channel")
    if values["ElementType"] not in ELEMENT_TYPES:
        raise refuse(f"ElementType = {values['ElementType'][:40]}", " ".join(ELEMENT_TYPES))
    size = _integers(values["DimSize"], "DimSize", where)
    if min(size) < 1:
        raise refuse(f"DimSize = {values['DimSize'][:60]}", "three positive sizes")
    if math.prod(size) > max_voxels:
        raise InputError(
            where,
            found=f"{'x'.join(map(str, size))} = {math.prod(size)} voxels",
            expected=f"at most {max_voxels} voxels",
            advice="crop or resample the image",
        )
    if not _boolean(values, "BinaryData", True, where):
        raise refuse("BinaryData = False", "binary voxels")
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in values and _numbers(values[key], 1, key, where)[0] != neutral:
            raise refuse(f"{key} = {values[key][:40]}", f"{neutral:g}: rescale the image before")

    spacing_key = "ElementSpacing" if "ElementSpacing" in values else "ElementSize"
    spacing = _numbers(values.get(spacing_key, "1 1 1"), 3, spacing_key, where)
    check_spacing(spacing, where)
    origin = _numbers(_one_of(values, OFFSET_KEYS, "0 0 0", where), 3, "Offset", where)
    # The file lists the direction of each axis in turn; ITK's matrix has them as columns.
    rows = _numbers(_one_of(values, DIRECTION_KEYS, "1 0 0 0 1 0 0 0 1", where), 9, "TransformMatrix", where)
    axes = np.array(rows).reshape(3, 3).T
    check_direction(axes, where)

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
    if data_file.upper() in ("LOCAL", "LOCAL_DATA"):
        data_file = "LOCAL"
        if "HeaderSize" in values and header_size not in (0, -1, header_end):
            raise refuse(f"HeaderSize = {header_size}", f"{header_end}, where the header ends")
        offset = header_end
    else:
        if not re.fullmatch(r"[\w][\w .+()-]*", data_file) or data_file.split()[0] == "LIST":
            raise refuse(f"ElementDataFile = {data_file[:60]}", "LOCAL or one file name in the same folder")
        if header_size < -1 or (header_size == -1 and compressed):
            raise refuse(f"HeaderSize = {header_size}", "0 or more bytes, or -1 for uncompressed data")
        offset = header_size
    geometry = Geometry(size, spacing, origin, tuple(axes.ravel()))
    return MetaHeader(geometry, dtype, compressed, compressed_size, data_file, offset)


def check_spacing(spacing_xyz: tuple[float, ...], where: str) -> None:
    """Refuse a voxel pitch that isn't finite, positive and of the size of anything a scanner makes."""
    if not all(1e-3 <= s <= 1e3 for s in spacing_xyz):
        raise InputError(
            where,
            found=f"spacing {' x '.join(f'{s:g}' for s in spacing_xyz)} mm",
            expected="finite positive spacing between 0.001 and 1000 mm",
            advice="the header is damaged",
        )


def check_direction(axes: np.ndarray, where: str) -> None:
    """Refuse a 3x3 direction matrix whose columns aren't orthonormal within 1e-3."""
    if not np.isfinite(axes).all() or np.abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        raise InputError(
            where,
            found=f"direction {np.round(axes, 4).tolist()}",
            expected="an orthonormal direction matrix",
            advice="shears and scales in the direction aren't supported: resample the image",
        )


def read_metaimage(path: str | Path, *, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read an `.mha` or `.mhd` file.

    Raises:
        InputError: The header is malformed, or the data is shorter, longer or larger than it says.
    """
    path = Path(path)
    with path.open("rb") as handle:
        header = parse_header(handle.read(MAX_HEADER_BYTES), str(path), max_voxels=max_voxels)
    data_path = path if header.data_file == "LOCAL" else path.with_name(header.data_file)
    if not data_path.is_file():
        raise InputError(
            path, found=f"its data file {data_path.name} is not there", expected="a plain file beside the header"
        )
    payload = data_path.stat().st_size - max(header.data_offset, 0)
    expected = header.compressed_size if header.compressed else header.data_bytes
    if header.data_offset == -1:
        offset = data_path.stat().st_size - header.data_bytes
        payload = header.data_bytes if offset >= 0 else data_path.stat().st_size
    else:
        offset = header.data_offset
    if payload < expected:
        raise InputError(
            path,
            found=f"{max(payload, 0)} bytes of voxel data",
            expected=f"{expected} bytes",
            advice="the file is truncated: copy it again",
        )
    if not header.compressed:
        if payload != expected:
            raise InputError(
                path,
                found=f"{payload} bytes of voxel data",
                expected=f"{expected} bytes",
                advice="header and data disagree",
            )
        array = np.fromfile(data_path, header.dtype, math.prod(header.geometry.size_xyz), offset=offset)
    else:
        array = _inflate(data_path, header, offset, str(path))
    array = array.reshape(header.geometry.shape_zyx).astype(header.dtype.newbyteorder("="), copy=False)
    return Volume(array, header.geometry, str(path))


def _inflate(data_path: Path, header: MetaHeader, offset: int, where: str) -> np.ndarray:
    """Inflate at most the declared number of bytes."""
    if header.data_bytes > MAX_DEFLATE_RATIO * header.compressed_size:
        raise InputError(
            where,
            found=f"{header.compressed_size} bytes of compressed data",
            expected=f"enough for {header.data_bytes} bytes",
            advice="header and data disagree",
        )
    inflater = zlib.decompressobj()
    out = bytearray(header.data_bytes)
    filled = 0
    try:
        with data_path.open("rb") as handle:
            handle.seek(offset)
            left = header.compressed_size
            while not inflater.eof:
                if inflater.unconsumed_tail:
                    block = inflater.unconsumed_tail
                else:
                    block = handle.read(min(1 << 22, left))
                    left -= len(block)
                    if not block:
                        raise InputError(
                            where,
                            found="compressed data that stops early",
                            expected="a complete zlib stream",
                            advice="the file is truncated: copy it again",
                        )
                piece = inflater.decompress(block, 1 << 24)
                if filled + len(piece) > len(out):
                    raise InputError(
                        where,
                        found=f"compressed data of more than {len(out)} bytes",
                        expected=f"{len(out)} bytes, as the header says",
                        advice="header and data disagree",
                    )
                out[filled : filled + len(piece)] = piece
                filled += len(piece)
    except zlib.error as error:
        raise InputError(
            where, found=f"damaged compressed data ({error})", expected="a zlib stream", advice="copy it again"
        ) from error
    if filled != len(out):
        raise InputError(
            where,
            found=f"compressed data of {filled} bytes",
            expected=f"{len(out)} bytes, as the header says",
            advice="header and data disagree",
        )
    return np.frombuffer(out, header.dtype)


def _read_keys(raw: bytes, where: str) -> tuple[dict[str, str], int]:
    """Structural `key = value` lines up to ElementDataFile, and the offset behind that line.

    Stricter than ITK where two readers could disagree: repeated keys, keys before NDims, and text without
    a separator, which ITK takes as part of the next line's key.
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
            dangling = dangling or bool(line.strip())
            continue
        name = line[: separator.start()].strip(b" \t\r").decode("ascii", "replace")
        text = line[separator.end() :].strip(b" \t\r").decode("ascii", "replace")
        if dangling and (not name or name in STRUCTURAL_KEYS):
            raise refuse(f"text without '=' before {name or 'a value'}", "key = value lines")
        dangling = False
        if name not in STRUCTURAL_KEYS:
            continue
        if name in values:
            raise refuse(f"{name} stands twice in the header", "each key once")
        if not re.fullmatch(r"[ -~\t]*", text):
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
    return tuple(_integer(part, key, where) for part in parts)


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
