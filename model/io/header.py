"""What a checked header says, the same for every format; and the one place where voxels are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.streams import MAX_DEFLATE_RATIO, Encoding, VoxelStream
from sctlab_model.volume import Geometry

MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class ImageHeader:
    """A checked header: the grid, the element type, and where the voxels lie.

    Args:
        path: The file that was opened.
        geometry: The grid.
        dtype: Element type as stored, with its byte order.
        data_path: The file that holds the voxels.
        encoding: How they are stored.
        offset: Stored bytes before them.
        skip: Inflated bytes before them (NIfTI's header lies inside its gzip stream).
        stored_bytes: Their number as stored; None: up to the end of the file.
        components: Values a voxel.
        planar: Whether the components are the slowest axis in the file, not the fastest.
        scale: Slope and intercept that turn stored values into the image's own.
        component_signs: Factors of the components, where the file states them in another frame than LPS.
        notes: What was repaired or assumed.
    """

    path: Path
    geometry: Geometry
    dtype: np.dtype
    data_path: Path
    encoding: Encoding = "raw"
    offset: int = 0
    skip: int = 0
    stored_bytes: int | None = None
    components: int = 1
    planar: bool = False
    scale: tuple[float, float] | None = None
    component_signs: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        """Size of the voxels when inflated."""
        return math.prod(self.geometry.size_xyz) * self.components * self.dtype.itemsize

    @property
    def reading_bytes(self) -> int:
        """Memory that reading takes at its peak: the voxels, what scaling makes of them, and a mask of them."""
        values = math.prod(self.geometry.size_xyz) * self.components
        return self.data_bytes + (2 * 8 * values if self.scale else 0) + values


def read_voxels(header: ImageHeader) -> np.ndarray:
    """The values in native byte order, axes z, y, x; with several components: component, z, y, x.

    Nothing is allocated before the size of the file was compared with what the header promises.

    Raises:
        InputError: The data is shorter, longer, damaged, or its checksum is wrong.
    """
    where = str(header.path)
    there = header.data_path.stat().st_size - header.offset
    stored = there if header.stored_bytes is None else header.stored_bytes
    if header.encoding == "raw":
        needed = header.skip + header.data_bytes
    else:
        needed = stored if header.stored_bytes is not None else 1
    if there < needed:
        raise InputError(
            where,
            found=f"{max(there, 0)} bytes of voxel data",
            expected=f"{needed} bytes",
            advice="the file is truncated: copy it again",
        )
    if header.stored_bytes is not None and there != header.stored_bytes:
        raise InputError(
            where,
            found=f"{there} bytes of voxel data",
            expected=f"{header.stored_bytes} bytes",
            advice="header and data disagree",
        )
    if header.encoding != "raw" and header.skip + header.data_bytes > MAX_DEFLATE_RATIO * stored:
        raise InputError(
            where,
            found=f"{stored} bytes of compressed data",
            expected=f"enough for {header.data_bytes} bytes",
            advice="header and data disagree: the file is truncated",
        )
    values = np.empty(header.data_bytes // header.dtype.itemsize, header.dtype)
    with VoxelStream(
        header.data_path, header.encoding, offset=header.offset, stored_bytes=header.stored_bytes, where=where
    ) as stream:
        stream.skip(header.skip)
        stream.read_into(memoryview(values.view(np.uint8)))
        stream.finish()
    if not header.dtype.isnative:
        values = values.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
    shape = header.geometry.shape_zyx
    array: np.ndarray
    if header.components == 1:
        array = values.reshape(shape)
    elif header.planar:
        array = values.reshape(header.components, *shape)
    else:
        array = np.ascontiguousarray(np.moveaxis(values.reshape(*shape, header.components), -1, 0))
    if header.component_signs is not None:
        for component, sign in enumerate(header.component_signs):
            array[component] *= sign
    if header.scale is not None:
        from nibabel.volumeutils import apply_read_scaling  # the one NIfTI library's choice of types and rounding

        array = apply_read_scaling(array, *header.scale)
    return array


def interleaved(array: np.ndarray) -> np.ndarray:
    """Values in the order of MetaImage and NRRD, little-endian: components (the first of four axes) fastest."""
    array = np.moveaxis(array, 0, -1) if array.ndim == 4 else array
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
