"""Reading a transform from any file that holds one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sctlab.transforms.data import Transform
from sctlab_model.errors import InputError
from sctlab_model.io.paths import SUFFIXES as IMAGE_SUFFIXES
from sctlab_model.io.paths import split_suffix
from sctlab_model.volume import Geometry


@dataclass(frozen=True)
class TransformFile:
    """What a transform file says; ITK files hold the transform alone.

    Args:
        transform: From fixed points to moving points.
        grid: The fixed image's grid; None where the file states none.
        default_value: Of voxels outside the moving image.
        interpolation_order: B-spline order of the final resampling.
    """

    transform: Transform
    grid: Geometry | None = None
    default_value: float = 0.0
    interpolation_order: int = 3


def read_transform(path: str | Path) -> TransformFile:
    """Read a transform from an elastix text file (`.txt`), an ITK file (`.h5`, `.tfm`) or a displacement image.

    Returns the transform with the grid and outside value that the file states (elastix only).

    Raises:
        InputError: See the readers of each format; an unknown suffix.
    """
    # Imported here because the readers of each format return the type above.
    from sctlab.transforms.elastix_reading import read_elastix
    from sctlab.transforms.itk_files import SUFFIXES as ITK_SUFFIXES
    from sctlab.transforms.itk_files import read_displacement, read_itk

    path = Path(path)
    if path.suffix.lower() == ".txt":
        return read_elastix(path)
    if path.suffix.lower() in ITK_SUFFIXES:
        return TransformFile(read_itk(path))
    if split_suffix(path)[1] in IMAGE_SUFFIXES:
        return TransformFile(read_displacement(path))
    known = ", ".join((".txt", *ITK_SUFFIXES, *IMAGE_SUFFIXES))
    raise InputError(path, found=f"unknown suffix '{path.suffix}'", expected=f"a transform file: {known}")
