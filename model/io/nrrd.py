"""NRRD (.nrrd, .nhdr) read in Python: ITK's parser overwrites its stack on long lines and opens whatever file a header
names, and it picks the reader by content, so that other formats pass under this name.

Format: https://teem.sourceforge.net/nrrd/format.html. Read: volumes of real numbers, raw or gzip, in the file itself or
in one file of the same folder, in one of the three frames of a patient. Every other field and value is refused by its name.
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
from sctlab_model.io.streams import Encoding, deflated
from sctlab_model.volume import Geometry, triple

MAX_FIELD_LENGTH = 8192
_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
# What turns a frame's axes into LPS.
SPACES = {
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip
ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_SPATIAL_KINDS = frozenset(("domain", "space", "???", "none"))
_VECTOR_KINDS = frozenset(("vector", "3-vector", "covariant-vector", "list", "point", "none", "???"))
_SYNONYMS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip", "oldmin": "old min",
             "oldmax": "old max", "sampleunits": "sample units", "axismins": "axis mins", "axismaxs": "axis maxs",
             "blocksize": "block size", "centerings": "centers"}  # fmt: skip
_USED = frozenset(
    ("dimension", "type", "encoding", "endian", "sizes", "spacings", "space", "space dimension", "space origin",
     "space directions", "space units", "units", "kinds", "data file", "line skip", "byte skip", "axis mins")
)  # fmt: skip
# They say nothing about the grid or the voxels: centers would only matter together with axis mins.
_WITHOUT_EFFECT = frozenset(
    ("content", "min", "max", "old min", "old max", "sample units", "axis maxs", "thicknesses", "labels", "centers",
     "measurement frame", "number")
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")
_VECTOR = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)


def read_nrrd_header(path: Path, *, components: int = 1, max_voxels: int = DEFAULT_MAX_VOXELS) -> ImageHeader:
    """Check a NRRD header.

    Args:
        path: The file.
        components: Values a voxel that are wanted.
        max_voxels: Larger images are refused.

    Raises:
        InputError: A field that is missing, repeated, malformed, unknown or beyond what is read here.
    """
    with path.open("rb") as handle:
        raw = handle.read(MAX_HEADER_BYTES)
    fields, header_end = _fields(raw, path)
    return _Nrrd(path, fields).header(header_end, components, max_voxels)


def _fields(raw: bytes, path: Path) -> tuple[dict[str, str], int | None]:
    """The fields, and where the voxels start; None where the header is all there is."""

    def refuse(found: str, expected: str) -> InputError:
        return InputError(path, found=found, expected=expected, advice="the file is damaged or of another type")

    first, _, _ = raw.partition(b"\n")
    if not re.fullmatch(rb"NRRD000[1-6]\r?", first):
        raise refuse("no NRRD000x in the first line", "a NRRD file")
    fields: dict[str, str] = {}
    position = len(first) + 1
    while position < len(raw):
        end = raw.find(b"\n", position)
        if end < 0:
            end = len(raw)
            if end == MAX_HEADER_BYTES:
                break
        line, position = raw[position:end].removesuffix(b"\r"), end + 1
        if not line:
            return fields, position
        # Other readers take a lone carriage return for the end of a line: fields would hide behind it.
        if b"\r" in line or b"\0" in line:
            raise refuse("a carriage return or a zero byte within a line of the header", "lines of text")
        name, separator, text = os.fsdecode(line).partition(":")
        if name.startswith("#"):
            continue
        # Readers disagree about other spellings, and about a key that has a field's name.
        is_pair = text.startswith("=")
        plain = name.strip().lower() if is_pair else name
        plain = _SYNONYMS.get(plain, plain)
        known = plain in _USED | _WITHOUT_EFFECT
        if is_pair and not known:
            continue  # a key and its free text
        name = plain
        if not separator or is_pair or not known or text[:1] not in (" ", ""):
            raise refuse(f"a line '{_short(os.fsdecode(line))}'", "the fields of a NRRD volume")
        if len(text) > MAX_FIELD_LENGTH:
            raise refuse(f"{len(text)} characters of {name}", f"at most {MAX_FIELD_LENGTH}")
        if name in fields:
            raise refuse(f"{name} stands twice in the header", "each field once")
        # Digits and spaces of other scripts would pass for numbers here, and nowhere else.
        if not text.isascii() and name not in ("data file", "content"):
            raise refuse(f"{name}: {_short(text)}", "plain letters and digits (ASCII)")
        fields[name] = text.strip()
    if position <= len(raw) and len(raw) == MAX_HEADER_BYTES:
        raise refuse(f"a header of more than {MAX_HEADER_BYTES} bytes", "an empty line that ends it")
    return fields, None


def _short(text: str) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= 40 else f"{printable[:40]}…"


class _Nrrd:
    """The fields of one header, and what they say."""

    def __init__(self, path: Path, fields: Mapping[str, str]) -> None:
        self.path, self.fields = path, fields
        self.notes: list[str] = []

    def refuse(self, field: str, expected: str, advice: str = "the file is damaged or of another type") -> InputError:
        found = f"{field}: {_short(self.fields[field])}" if field in self.fields else f"no {field} in the header"
        return InputError(self.path, found=found, expected=expected, advice=advice)

    def header(self, header_end: int | None, components: int, max_voxels: int) -> ImageHeader:
        """The checked header; `header_end` is where an attached header ends."""
        sizes = self._sizes()
        axes, component_axis = self._axes(sizes, components)
        size = tuple(sizes[a] for a in axes)
        check_size(size, str(self.path), max_voxels)
        geometry, notes = self._grid(axes, size)
        dtype = self._dtype()
        encoding = ENCODINGS.get(self._word("encoding", ""))
        if encoding is None:
            raise self.refuse("encoding", "raw or gzip", "write it again with one of these encodings")
        data_bytes = math.prod(size) * components * dtype.itemsize
        data_path, offset = self._place(header_end, encoding, data_bytes)
        return ImageHeader(
            self.path,
            geometry,
            dtype,
            data_path,
            encoding,
            offset,
            stored_bytes=data_bytes if encoding == "raw" else None,
            components=components,
            planar=component_axis not in (None, 0),
            notes=(*self.notes, *notes),
        )

    def _word(self, field: str, default: str) -> str:
        return " ".join(self.fields.get(field, default).lower().split())

    def _sizes(self) -> list[int]:
        words = self.fields.get("sizes", "").split()
        if not words or not all(re.fullmatch(r"\d{1,10}", w) for w in words):
            raise self.refuse("sizes", "a whole number for each axis")
        if self._word("dimension", "") != str(len(words)):
            raise self.refuse("dimension", f"{len(words)}, as there are sizes")
        return [int(w) for w in words]

    def _axes(self, sizes: list[int], components: int) -> tuple[list[int], int | None]:
        """The three axes of space, and the axis of the components if there is one; an axis of one sample is passed over."""
        count = len(sizes)
        if not 3 <= count <= 4 or self._word("space dimension", "3") != "3":
            raise InputError(self.path, found=f"{count} dimensions", expected="a volume with 3 dimensions")
        kinds = self.fields["kinds"].lower().split() if "kinds" in self.fields else ["???"] * count
        vectors = self._vectors("space directions")
        if len(kinds) != count:
            raise self.refuse("kinds", f"{count} of them")
        if vectors is not None and len(vectors) != count:
            raise self.refuse("space directions", f"{count} of them")
        if vectors is not None:
            spatial = [i for i in range(count) if vectors[i] is not None]
        else:
            spatial = [i for i in range(count) if kinds[i] in _SPATIAL_KINDS]
            if len(spatial) == 4 and sizes[3] == 1:
                spatial.pop()
        others = [i for i in range(count) if i not in spatial or kinds[i] not in _SPATIAL_KINDS]
        if components == 1:
            channels = next((i for i in others if sizes[i] != 1), None)
            if channels is not None:
                raise InputError(
                    self.path,
                    found=f"{sizes[channels]} channels a voxel, kind {kinds[channels][:20]} (a colour or vector image)",
                    expected="1 channel",
                )
            if len(spatial) == 3 and not any(i in spatial for i in others):
                return spatial, None
        elif len(spatial) == 3 and others in ([0], [count - 1]):
            axis = others[0]
            if sizes[axis] == components and kinds[axis] in _VECTOR_KINDS:
                return spatial, axis
        raise InputError(
            self.path,
            found=f"{count} dimensions, sizes {' '.join(map(str, sizes))}, kinds {' '.join(kinds)[:60]}",
            expected="a volume with 3 dimensions" + (f" and {components} components" if components > 1 else ""),
        )

    def _grid(self, axes: list[int], size: tuple[int, ...]) -> tuple[Geometry, tuple[str, ...]]:
        """The grid in LPS."""
        for field in ("space units", "units"):
            words = re.findall(r'"([^"]*)"', self.fields.get(field, ""))
            if any(
                w.strip().lower() not in ("mm", "millimeter", "millimeters", "millimetre", "???", "") for w in words
            ):
                raise self.refuse(field, "mm", "convert the image to millimetres")
        space = self._word("space", "")
        if space not in SPACES and "space" in self.fields:
            raise self.refuse("space", "left-posterior-superior, right-anterior-superior or left-anterior-superior")
        if not space:
            self.notes.append("its header names no space: axes are taken to point left, posterior and superior")
        to_lps = np.array(SPACES[space or "lps"])
        vectors = self._vectors("space directions")
        if any(w.lower() != "nan" for w in self.fields.get("axis mins", "").split()):
            raise self.refuse("axis mins", "space origin", "state the place of the first voxel as space origin")
        if vectors is None:
            spacing, matrix = self._spacings(axes), np.eye(3)
        else:
            if any(w.lower() != "nan" for i, w in enumerate(self.fields.get("spacings", "").split()) if i in axes):
                raise self.refuse("spacings", "space directions alone")
            columns = np.array([vectors[a] for a in axes]).T
            lengths = np.linalg.norm(columns, axis=0)
            spacing = tuple(lengths.tolist())
            matrix = to_lps[:, None] * columns / np.where(lengths > 0, lengths, 1)
        origin = (0.0, 0.0, 0.0)
        origins = self._vectors("space origin")
        if origins is not None:
            if len(origins) != 1 or origins[0] is None:
                raise self.refuse("space origin", "one point (x,y,z)")
            origin = tuple((to_lps * origins[0] + 0.0).tolist())
        return checked_grid(triple(size), spacing, origin, matrix + 0.0, str(self.path))

    def _spacings(self, axes: list[int]) -> tuple[float, ...]:
        if "spacings" not in self.fields:
            raise self.refuse(
                "space directions", "space directions or spacings", "voxels without a size can't be placed"
            )
        words = self.fields["spacings"].split()
        if len(words) != len(self.fields["sizes"].split()) or not all(_NUMBER.fullmatch(words[a]) for a in axes):
            raise self.refuse("spacings", "a number for each axis")
        return tuple(float(words[a]) for a in axes)

    def _vectors(self, field: str) -> list[tuple[float, ...] | None] | None:
        """Vectors `(x,y,z)` or `none` of a field; None where the field is missing."""
        if field not in self.fields:
            return None
        text = self.fields[field]
        matches = list(_VECTOR.finditer(text))
        if not matches or _VECTOR.sub("", text).strip():
            raise self.refuse(field, "vectors (x,y,z)")
        vectors: list[tuple[float, ...] | None] = []
        for match in matches:
            if match[1] is None:
                vectors.append(None)
                continue
            words = [w.strip() for w in match[1].split(",")]
            if len(words) != 3 or not all(_NUMBER.fullmatch(w) for w in words):
                raise self.refuse(field, "vectors of three finite numbers")
            vectors.append(tuple(float(w) for w in words))
        return vectors

    def _dtype(self) -> np.dtype:
        code = TYPES.get(self._word("type", ""))
        if code is None:
            raise self.refuse("type", "one of " + ", ".join(names.split(", ")[0] for names in _TYPES.values()))
        endian = self._word("endian", "" if code[1] != "1" else "little")
        if endian not in ("little", "big"):
            raise self.refuse("endian", "little or big")
        return np.dtype(("<" if endian == "little" else ">") + code)

    def _place(self, header_end: int | None, encoding: Encoding, data_bytes: int) -> tuple[Path, int]:
        """The file that holds the voxels, and where in it they start."""
        if "data file" in self.fields:
            path, start = file_beside(self.path, self.fields["data file"]), 0
        elif header_end is None:
            raise self.refuse("data file", "voxels behind an empty line, or in a file of the same folder")
        else:
            path, start = self.path, header_end
        if self._word("line skip", "0") != "0":
            raise self.refuse("line skip", "0")
        skip = self._word("byte skip", "0")
        if not re.fullmatch(r"-1|\d{1,18}", skip) or (skip != "0" and encoding != "raw"):
            raise self.refuse("byte skip", "0, or -1 and more for raw voxels")
        if skip == "-1":  # the voxels are the end of the file
            return path, max(start, path.stat().st_size - data_bytes)
        return path, start + int(skip)


def encode_nrrd(
    array: np.ndarray, geometry: Geometry, metadata: Mapping[str, str], *, compress: bool
) -> Iterator[bytes | memoryview]:
    """The pieces of a `.nrrd` file.

    Args:
        array: Values in native byte order, axes z, y, x; with components: component, z, y, x.
        geometry: The grid.
        metadata: Keys and texts for the header, checked by `writing.py`.
        compress: With gzip.
    """
    vector = array.ndim == 4
    voxels = memoryview(interleaved(array)).cast("B")
    sizes = " ".join(map(str, ([len(array)] if vector else []) + list(geometry.size_xyz)))
    directions = " ".join(f"({','.join(map(_number, column))})" for column in geometry.matrix.T)
    lines = [
        "NRRD0004",
        f"type: {_TYPES[array.dtype.newbyteorder('=').str[1:]].split(', ')[0]}",
        f"dimension: {4 if vector else 3}",
        "space: left-posterior-superior",
        f"sizes: {sizes}",
        f"space directions: {'none ' if vector else ''}{directions}",
        f"kinds: {'vector ' if vector else ''}domain domain domain",
        "endian: little",
        f"encoding: {'gzip' if compress else 'raw'}",
        f"space origin: ({','.join(map(_number, geometry.origin_xyz))})",
        *(f"{key}:={text}" for key, text in metadata.items()),
        "",
    ]
    yield "".join(f"{line}\n" for line in lines).encode("ascii")
    if compress:
        yield from deflated([voxels], "gzip")
    else:
        yield voxels


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
