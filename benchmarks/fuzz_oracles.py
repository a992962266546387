"""Readers that others wrote, called in a child process by `fuzz.py`: voxels z, y, x, and where index (x, y, z) lies in LPS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

# Keys that say nothing about grid or voxels are ours to ignore; ITK parses them, and trips over bad ones.
_INERT = re.compile(
    rb"^[ \t]*(Color|ID|ParentID|SequenceID|ElementMin|ElementMax|ObjectSubType|TransformType"
    rb"|Name|Comment|Modality|DistanceUnits|AnatomicalOrientation)[ \t]*[=:].*\n",
    re.MULTILINE,
)


def simpleitk(path: str) -> dict[str, Any]:
    """MetaImage."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(path, imageIO="MetaImageIO")
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return {"array": sitk.GetArrayFromImage(image), "matrix": matrix.ravel().tolist(), "origin": image.GetOrigin()}


def nibabel(path: str) -> dict[str, Any]:
    """NIfTI; the frame is turned to LPS and the unit to mm."""
    import logging

    import nibabel as library

    logging.disable(logging.CRITICAL)
    image = library.load(path)
    array = np.asarray(image.dataobj)
    array = array.reshape(array.shape[:3]) if array.ndim > 3 and set(array.shape[3:]) == {1} else array
    unit = {"meter": 1000.0, "micron": 0.001}.get(image.header.get_xyzt_units()[0], 1.0)
    affine = np.diag([-1, -1, 1, 1]) @ image.affine * unit
    return {
        "array": np.ascontiguousarray(array.T.astype(array.dtype.newbyteorder("="))),
        "matrix": affine[:3, :3].ravel().tolist(),
        "origin": affine[:3, 3].tolist(),
    }


def pynrrd(path: str) -> dict[str, Any]:
    """NRRD; the frame is turned to LPS."""
    import nrrd

    array, header = nrrd.read(path, index_order="C")
    space = str(header.get("space", "left-posterior-superior")).lower()
    known = {"left-posterior-superior": "LPS", "right-anterior-superior": "RAS", "left-anterior-superior": "LAS"}
    letters = known.get(space, space.upper())
    signs = np.array([1 if letters[0] == "L" else -1, 1 if letters[1] == "P" else -1, 1])
    if "space directions" in header:
        rows = np.asarray(header["space directions"], dtype=np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        array = array.reshape([n for n in array.shape if n != 1] if len(rows) != array.ndim else array.shape)
    else:
        rows = np.diag(np.asarray(header["spacings"], dtype=np.float64)[:3])
        array = array.reshape(array.shape[-3:]) if array.ndim == 4 and array.shape[0] == 1 else array
    origin = np.asarray(header.get("space origin", (0, 0, 0)), dtype=np.float64)
    return {
        "array": np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))),
        "matrix": (signs[:, None] * rows.T).ravel().tolist(),
        "origin": (signs * origin).tolist(),
    }


def transform(path: str, points: list[list[float]]) -> dict[str, Any]:
    """An ITK transform."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = sitk.ReadTransform(path)
    return {"points": np.array([found.TransformPoint(p) for p in points])}


def cleaned(path: Path) -> Path:
    """A MetaImage without the keys that this product ignores."""
    path.write_bytes(_INERT.sub(b"Comment = -\n", path.read_bytes()))
    return path
