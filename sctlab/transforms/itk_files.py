"""ITK transform files (`.h5`, `.tfm`) and displacement fields, as SimpleITK and 3D Slicer read them.

None of it goes through ITK's own readers: text is parsed here, HDF5 in a child process, and a field is an image with three
components, read as guardedly as every image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sctlab.transforms.data import DisplacementField, Sum, Transform, flatten
from sctlab.transforms.field import displacement_field
from sctlab.transforms.itk_hdf5 import read_hdf5_steps, write_hdf5_steps
from sctlab.transforms.itk_steps import from_steps, to_steps
from sctlab.transforms.itk_text import read_text_steps, write_text_steps
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import atomic_path
from sctlab_model.io.paths import not_a_file
from sctlab_model.io.reading import read_header, read_values
from sctlab_model.io.writing import write_array
from sctlab_model.volume import Geometry

SUFFIXES = (".h5", ".hdf5", ".tfm")


def write_itk(transform: Transform, path: str | Path, *, grid: Geometry | None = None, compress: bool = False) -> Path:
    """Write a composite transform; the format follows the suffix (`.h5` or `.tfm`).

    Args:
        transform: From fixed points to moving points.
        path: Where.
        grid: Needed for transforms that ITK lacks (a `Sum`), which are written as vectors on this grid.
        compress: Of `.h5`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(path, found=f"unknown suffix '{path.suffix}'", expected="one of " + ", ".join(SUFFIXES))
    if any(isinstance(step, Sum) for step in flatten(transform)):
        if grid is None:
            raise InputError(path, found="transforms combined by Add", expected="a grid to write them as vectors")
        transform = displacement_field(transform, grid)
    steps = to_steps(tuple(flatten(transform)))
    with atomic_path(path) as temporary:
        if suffix == ".tfm":
            write_text_steps(temporary, steps)
        else:
            write_hdf5_steps(temporary, steps, compress=compress)
    return path


def read_itk(path: str | Path) -> Transform:
    """Read a transform or composite that ITK, SimpleITK or 3D Slicer wrote.

    Raises:
        InputError: Missing, cut or malformed file, a 2D transform, an unknown type, NaN.
        ResourceError: More numbers than there is memory.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="an ITK transform (" + ", ".join(SUFFIXES) + ")")
    steps = read_text_steps(path) if path.suffix.lower() == ".tfm" else read_hdf5_steps(path)
    return from_steps(steps, path)


def write_displacement(field: DisplacementField, path: str | Path) -> Path:
    """Write the vectors as an image with three float32 components (mm, LPS)."""
    return write_array(field.vectors.astype(np.float32), field.grid, path)


def read_displacement(path: str | Path) -> DisplacementField:
    """Read an image with three components as displacements in mm (LPS).

    Raises:
        InputError: See `read_header` and `read_values`.
    """
    header = read_header(path, components=3)
    return DisplacementField(header.geometry, read_values(header).astype(np.float64))


__all__ = ["SUFFIXES", "read_displacement", "read_itk", "write_displacement", "write_itk"]
