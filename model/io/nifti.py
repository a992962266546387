"""NIfTI (.nii, .nii.gz): the header through nibabel, the voxels through the one checked stream.

ITK's reader fills truncated files with zeros, replaces NaN by 0 and repairs impossible headers, nibabel repairs others, and
neither says so in its result. Here a header in which two readers could see different images is refused with what to do,
and what is repaired without doubt is noted. `docs/formats.md` lists both.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.grids import DEFAULT_MAX_VOXELS, check_size, check_spacing, checked_grid
from sctlab_model.io.header import ImageHeader
from sctlab_model.io.paths import split_suffix
from sctlab_model.io.streams import Encoding, VoxelStream, deflated
from sctlab_model.volume import Geometry

_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micrometre
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_NUMBERS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_COLOURS = {128: "RGB", 2304: "RGBA"}
_MAGIC = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
_DISPLACEMENT, _VECTOR = 1006, 1007  # intent codes
_COLOUR_INTENTS = (1003, 1005, 1006, 1007, 2003, 2004)
MAX_EXTENSIONS = 1 << 20
_TOLERATED = 0.1  # voxels by which two statements of one place may differ
SAME_PLACE_MM = 0.01  # qform and sform that agree to this are one
_ROUNDING = 3 * float(np.finfo(np.float32).eps)  # of a quaternion's length, as nibabel has it
NOTE_EXTENSION = 6  # a header extension with plain text
DAMAGED = "the header is damaged"


def read_nifti_header(path: Path, *, components: int = 1, max_voxels: int = DEFAULT_MAX_VOXELS) -> ImageHeader:
    """Check the header of a `.nii` or `.nii.gz` file (NIfTI-1 or 2, in one file).

    Args:
        path: The file.
        components: Values a voxel that are wanted.
        max_voxels: Larger images are refused.

    Raises:
        InputError: Malformed, not 3D, colour or complex, sheared, without or with two different orientations.
    """
    encoding: Encoding = "gzip" if split_suffix(path)[1] == ".nii.gz" else "raw"
    with VoxelStream(path, encoding) as stream:
        start = stream.read(4)
        kind = {348: "Nifti1Header", 540: "Nifti2Header"}
        order = next((o for o in "<>" if struct.unpack(f"{o}i", start)[0] in kind), None)
        if order is None:
            raise InputError(
                path,
                found="a first number that is neither 348 nor 540",
                expected="a NIfTI file",
                advice="the file is damaged or of another type",
            )
        length = struct.unpack(f"{order}i", start)[0]
        block = start + stream.read(length - 4)
        header = _Nifti(path, length, order, block)
        data_offset = header.data_offset()
        header.check_extensions(stream, data_offset)
    return header.checked(encoding, data_offset, components, max_voxels)


class _Nifti:
    """One header, field by field."""

    def __init__(self, path: Path, length: int, order: str, block: bytes) -> None:
        from nibabel.nifti1 import Nifti1Header
        from nibabel.nifti2 import Nifti2Header

        self.path, self.length, self.order = path, length, order
        kind = Nifti1Header if length == 348 else Nifti2Header
        self.header = kind(block, endianness=order, check=False)  # nibabel's own check repairs what it finds
        if self.header["magic"].item().ljust(len(_MAGIC[length]), b"\0") != _MAGIC[length]:
            raise self.refuse(
                f"magic {self.header['magic'].item()!r}", "a NIfTI volume in one file", "convert it to .nii or .nii.gz"
            )

    def refuse(self, found: str, expected: str, advice: str = DAMAGED) -> InputError:
        return InputError(self.path, found=found, expected=expected, advice=advice)

    def number(self, field: str, index: int | None = None) -> Any:
        value = self.header[field]
        return value.item() if index is None else value[index].item()

    def data_offset(self) -> int:
        """Where the voxels start, in the inflated file."""
        offset = self.number("vox_offset")
        least = self.length + 4
        if not math.isfinite(offset) or offset != int(offset) or not least <= offset <= least + MAX_EXTENSIONS:
            raise self.refuse(
                f"vox_offset {offset:g}",
                f"{least}, the end of the header, or the end of its extensions",
                "readers disagree about where the voxels start: write the file again with the program that made it",
            )
        return int(offset)

    def check_extensions(self, stream: VoxelStream, data_offset: int) -> None:
        """Extensions must fill what lies between the header and the voxels: 4 bytes that say whether any follow, then
        for each its size (a multiple of 16, these 8 bytes included) and its code."""
        flag = stream.read(4)
        position = self.length + 4
        while flag[0] and position < data_offset:
            size, _ = struct.unpack(f"{self.order}2i", stream.read(8))
            if size < 16 or size % 16 or position + size > data_offset:
                break
            stream.skip(size - 8)
            position += size
        if position != data_offset:
            raise self.refuse(
                f"vox_offset {data_offset} with a header that ends at {position}",
                "voxels that start where the header and its extensions end",
                "readers disagree about where the voxels start: write the file again with the program that made it",
            )

    def checked(self, encoding: Encoding, data_offset: int, components: int, max_voxels: int) -> ImageHeader:
        size = self._size(components)
        check_size(size, str(self.path), max_voxels)
        code = self.number("datatype")
        if code in _COLOURS:
            raise self.refuse(
                f"{_COLOURS[code]} voxels: several channels a voxel (a colour image)", "1 channel", "convert it"
            )
        if code not in _NUMBERS:
            raise self.refuse(f"element type {code}", "real numbers: a magnitude image", "convert it")
        dtype = np.dtype(self.order + _NUMBERS[code])
        if self.number("bitpix") != 8 * dtype.itemsize:
            raise self.refuse(f"bitpix {self.number('bitpix')} with element type {dtype.name}", f"{8 * dtype.itemsize}")
        geometry, notes = self._grid(size)
        return ImageHeader(
            self.path,
            geometry,
            dtype,
            self.path,
            encoding,
            skip=data_offset,
            components=components,
            planar=True,
            scale=self._scale(),
            # Displacements are stated in NIfTI's own frame (RAS); plain vectors are left as they are, as ITK does.
            component_signs=(-1, -1, 1) if components == 3 and self.number("intent_code") == _DISPLACEMENT else None,
            notes=notes,
        )

    def _size(self, components: int) -> tuple[int, int, int]:
        dim = [self.number("dim", i) for i in range(8)]
        count, sizes = dim[0], dim[1 : dim[0] + 1] if 1 <= dim[0] <= 7 else []
        if not sizes:
            raise self.refuse(f"{count} dimensions", "a volume with 3 dimensions")
        if components > 1:
            if count != 5 or sizes[3:] != [1, components] or self.number("intent_code") not in (
                _DISPLACEMENT, _VECTOR
            ):  # fmt: skip
                raise self.refuse(
                    f"axes of {'x'.join(map(str, sizes))}, intent {self.number('intent_code')}",
                    f"x, y, z, 1 and {components} components with a vector's intent",
                    "it holds no vectors",
                )
        else:
            several = count > 3 and any(n != 1 for n in sizes[3:])
            if several and (self.number("intent_code") in _COLOUR_INTENTS or (count == 5 and sizes[3] == 1)):
                raise self.refuse(f"{sizes[-1]} channels a voxel (a colour or vector image)", "1 channel", "convert it")
            if count < 3 or several:
                raise self.refuse(f"{count} dimensions", "a volume with 3 dimensions", "take one frame of it")
        return tuple(sizes[:3])  # a fourth axis of one frame is none

    def _scale(self) -> tuple[float, float] | None:
        """Slope and intercept; None for 0 and NaN (which nibabel writes for none), and where they change nothing."""
        slope, intercept = self.number("scl_slope"), self.number("scl_inter")
        if slope == 0 or math.isnan(slope):
            return None
        if not math.isfinite(slope) or not math.isfinite(intercept):
            raise self.refuse(f"scl_slope {slope:g} and scl_inter {intercept:g}", "finite numbers")
        return None if (slope, intercept) == (1, 0) else (slope, intercept)

    def _grid(self, size: tuple[int, int, int]) -> tuple[Geometry, tuple[str, ...]]:
        """The grid in LPS and mm: from the sform, else from the qform."""
        codes = [self.number("qform_code"), self.number("sform_code")]
        if not all(0 <= c <= 5 for c in codes):
            raise self.refuse(f"qform_code {codes[0]} and sform_code {codes[1]}", "0 to 5")
        if codes == [0, 0]:
            raise self.refuse(
                "qform_code 0 and sform_code 0: no orientation",
                "at least one of them above 0",
                "left and right are undefined and readers guess differently: convert the image again from DICOM, or set a"
                " code once you have checked the orientation (for example with nibabel: image.set_sform(affine, 1))",
            )
        unit = _MM.get(self.number("xyzt_units") & 7)
        if unit is None:
            raise self.refuse(f"xyzt_units {self.number('xyzt_units')}", "metre, millimetre or micrometre")
        pixdim = np.array([self.number("pixdim", i) for i in range(4)])
        if not np.isfinite(pixdim).all() or (pixdim[1:] <= 0).any():
            raise self.refuse(
                f"pixdim {' '.join(f'{p:g}' for p in pixdim[1:])}",
                "three finite positive sizes: a spacing",
                "readers disagree about other ones: write the file again with the program that made it",
            )
        check_spacing(tuple(pixdim[1:] * unit), str(self.path))
        qform = self._qform(pixdim) if codes[0] else None
        sform = self._sform() if codes[1] else None
        affine = sform if sform is not None else qform
        assert affine is not None
        notes: tuple[str, ...] = ()
        if qform is not None and sform is not None:
            notes = self._compared(qform, sform, size, unit)
        affine = affine * unit
        spacing = np.linalg.norm(affine[:, :3], axis=0)
        stretch = float((np.abs(spacing - pixdim[1:] * unit) * (np.array(size) - 1)).max())
        if sform is not None and not stretch <= _TOLERATED * spacing.max():
            raise self.refuse(
                f"pixdim {' '.join(f'{p:g}' for p in pixdim[1:])} with an sform whose columns are "
                f"{' '.join(f'{s / unit:g}' for s in spacing)} long",
                "one voxel size",
                "readers disagree about which counts: write the file again with the program that made it",
            )
        check_spacing(tuple(spacing), str(self.path))
        axes = _RAS_TO_LPS @ affine[:, :3] / spacing
        geometry, repairs = checked_grid(
            size, tuple(spacing.tolist()), tuple((_RAS_TO_LPS @ affine[:, 3]).tolist()), axes, str(self.path)
        )
        return geometry, (*notes, *repairs)

    def _qform(self, pixdim: np.ndarray) -> np.ndarray:
        """[3, 4]: rotation by a quaternion, scales, shift."""
        quaternion = [self.number(f"quatern_{letter}") for letter in "bcd"]
        shift = [self.number(f"qoffset_{letter}") for letter in "xyz"]
        if not np.isfinite([*quaternion, *shift]).all() or sum(q * q for q in quaternion) > 1 + _ROUNDING:
            raise self.refuse(
                f"a qform with the quaternion {' '.join(f'{q:g}' for q in quaternion)} and the shift "
                f"{' '.join(f'{s:g}' for s in shift)}",
                "finite numbers, the quaternion of length 1 at most",
            )
        if pixdim[0] not in (-1, 0, 1):
            raise self.refuse(f"pixdim[0] (qfac) {pixdim[0]:g}", "1 or -1", "readers disagree about other ones")
        self.header["pixdim"][0] = pixdim[0] or 1  # the standard takes 0 for 1
        return self.header.get_qform()[:3]

    def _sform(self) -> np.ndarray:
        rows = np.array([self.header[f"srow_{letter}"] for letter in "xyz"], dtype=np.float64)
        lengths = np.linalg.norm(rows[:, :3], axis=0)
        if not np.isfinite(rows).all() or not np.isfinite(lengths).all() or (lengths == 0).any():
            raise self.refuse("an sform that isn't finite or has an empty column", "finite numbers")
        return rows

    def _compared(
        self, qform: np.ndarray, sform: np.ndarray, size: tuple[int, int, int], unit: float
    ) -> tuple[str, ...]:
        """A note on how far the two transforms place voxels apart; refused where it is a tenth of a voxel."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], (1,))).reshape(4, -1)
        apart = float(np.linalg.norm((qform - sform) @ corners, axis=0).max()) * unit
        if not apart <= _TOLERATED * unit * float(np.linalg.norm(sform[:, :3], axis=0).max()):
            raise self.refuse(
                f"qform and sform that place the image {apart:.3g} mm apart",
                "one position",
                "set the code of the wrong one to 0",
            )
        if apart <= SAME_PLACE_MM:
            return ()
        return (f"qform and sform differ by up to {apart:.3f} mm: the sform is taken",)


def encode_nifti(
    array: np.ndarray, geometry: Geometry, metadata: Mapping[str, str], *, compress: bool
) -> Iterator[bytes | memoryview]:
    """The pieces of a `.nii` or, with `compress`, a `.nii.gz` file (NIfTI-1).

    Args:
        array: Values in native byte order, axes z, y, x; with components: component, z, y, x.
        geometry: The grid, written as qform and sform with the code of scanner coordinates.
        metadata: Keys and texts, checked by `writing.py`: they become a header extension of plain text.
        compress: With gzip.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Header

    header = Nifti1Header(endianness="<")
    size = geometry.size_xyz
    header.set_data_dtype(array.dtype.newbyteorder("<"))
    header.set_data_shape((*size, 1, len(array)) if array.ndim == 4 else size)
    affine = np.eye(4)
    affine[:3, :3] = _RAS_TO_LPS @ geometry.matrix
    affine[:3, 3] = _RAS_TO_LPS @ np.array(geometry.origin_xyz)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(1, 0)
    if array.ndim == 4:
        header["intent_code"] = _VECTOR
    header["magic"] = _MAGIC[348].rstrip(b"\0")
    if metadata:
        text = "".join(f"{key} = {value}\n" for key, value in metadata.items())
        header.extensions.append(Nifti1Extension(NOTE_EXTENSION, text.encode("ascii")))
    header["vox_offset"] = 352 + header.extensions.get_sizeondisk()
    start = io.BytesIO()
    header.write_to(start)
    voxels = memoryview(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))).cast("B")
    if compress:
        yield from deflated([memoryview(start.getvalue()), voxels], "gzip")
    else:
        yield start.getvalue()
        yield voxels
