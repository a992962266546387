"""NIfTI read with nibabel: ITK's reader fills truncated files with zeros, replaces NaN by 0 and repairs
impossible headers, all without saying so."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.metaimage import MAX_DEFLATE_RATIO, check_direction, check_spacing
from sctlab_model.volume import Geometry, Volume

_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_nifti(path: str | Path, *, max_voxels: int) -> Volume:
    """Read a `.nii` or `.nii.gz` file (NIfTI-1 or 2), scaled to its units.

    Raises:
        InputError: Malformed or truncated, not 3D, colour or complex, sheared, or placed differently by its
            two transforms.
    """
    import nibabel

    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it prints what it repairs, beside our one line
    path = Path(path)
    where = str(path)
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image):
            raise InputError(where, found=f"a {type(image).__name__}", expected="a NIfTI volume in one file")
        _check_voxels(image, path, max_voxels)
        geometry = _geometry(image, where)
        array = np.asanyarray(image.dataobj)
    except InputError:
        raise
    # nibabel raises its own types, ValueError, OSError, EOFError, zlib.error and more for damaged files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            where,
            found=f"can't be read ({reason.replace(where, path.name)[:160]})",
            expected="a complete NIfTI file",
            advice="the file is damaged or of another type",
        ) from error
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Volume(np.ascontiguousarray(array.transpose(2, 1, 0)), geometry, where)


def _check_voxels(image, path: Path, max_voxels: int) -> None:
    """Number, kind and sum of the voxels, before any is read."""
    shape, dtype = image.shape, image.get_data_dtype()
    if dtype.fields is not None or (len(shape) > 3 and image.header["intent_code"] in (1003, 1005, 1006, 1007)):
        raise InputError(path, found="several channels a voxel (a colour or vector image)", expected="1 channel")
    if len(shape) != 3:
        raise InputError(path, found=f"{len(shape)} dimensions", expected="a volume with 3 dimensions")
    if dtype.kind not in "iuf":
        raise InputError(path, found=f"{dtype} voxels", expected="real numbers: a magnitude image")
    if min(shape) < 1 or math.prod(shape) > max_voxels:
        raise InputError(path, found=f"{'x'.join(map(str, shape))} voxels", expected=f"1 to {max_voxels} voxels")
    stored, needed = path.stat().st_size, math.prod(shape) * dtype.itemsize + int(image.dataobj.offset)
    if path.suffix.lower() == ".gz":
        stored *= MAX_DEFLATE_RATIO
    if stored < needed:
        raise InputError(
            path,
            found=f"{path.stat().st_size} bytes",
            expected=f"{needed} bytes when inflated",
            advice="the file is truncated: copy it again",
        )


def _geometry(image, where: str) -> Geometry:
    """The grid in LPS and mm from the sform, else the qform, else the spacing alone."""
    header, size = image.header, image.shape
    affine = header.get_best_affine()
    if header["qform_code"] > 0 and header["sform_code"] > 0:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], (1,))).reshape(4, -1)
        apart = np.abs((header.get_qform() - header.get_sform()) @ corners).max()
        if not apart <= 0.1 * max(header.get_zooms()):
            raise InputError(
                where,
                found=f"qform and sform that place the image {apart:.3g} units apart",
                expected="one position",
                advice="set the code of the wrong one to 0",
            )
    affine = _RAS_TO_LPS @ affine * _MM[header.get_xyzt_units()[0]]
    if not np.isfinite(affine).all():
        raise InputError(
            where, found="a transform that isn't finite", expected="finite numbers", advice="the header is damaged"
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    check_spacing(tuple(spacing), where)
    axes = affine[:3, :3] / spacing
    check_direction(axes, where)
    return Geometry(size, tuple(spacing), tuple(affine[:3, 3]), tuple(axes.ravel()))
