"""Contours of a DICOM RTSTRUCT as masks on any grid (optional: `pip install "sctlab[clinical]"`).

pydicom reads the file in a child process with limits (`sctlab_model.io.child`); what comes back are numbers and names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sctlab_model.errors import InputError
from sctlab_model.io.child import read_in_child
from sctlab_model.io.paths import not_a_file
from sctlab_model.volume import Geometry

PLANE_TOLERANCE_MM = 0.05  # contours of one plane
TILT_VOXELS = 0.25  # a contour may leave its slice by so much


@dataclass(frozen=True)
class Roi:
    """One structure.

    Args:
        name: As its author called it.
        kind: RT ROI interpreted type, capitals: PTV, CTV, GTV, ORGAN, EXTERNAL, …; empty where the file says none.
        contours: Closed planar polygons, each [points, 3] in mm (x, y, z of the patient, LPS).
    """

    name: str
    kind: str
    contours: tuple[np.ndarray, ...]

    def mask(self, grid: Geometry) -> np.ndarray:
        """Voxels whose centre lies inside: boolean, axes z, y, x.

        A slice takes the nearest plane of contours within half the planes' pitch; contours within contours are holes, as an odd number
        of them counts as inside. Voxels outside the grid are lost.

        Raises:
            InputError: The contours don't lie in the grid's slices.
        """
        from skimage.draw import polygon

        result = np.zeros(grid.shape_zyx, bool)
        placed = [grid.to_index(points) for points in self.contours]
        if any(np.ptp(points[:, 2]) > TILT_VOXELS for points in placed):
            raise InputError(
                self.name,
                found="contours that cross the image's slices",
                expected="contours in the image's slices",
                advice="use the image that was contoured, or one with its orientation",
            )
        spacing = grid.spacing_xyz[2]
        heights = np.array([points[:, 2].mean() for points in placed])  # in slices
        for z, plane in _nearest_planes(heights, grid.size_xyz[2], PLANE_TOLERANCE_MM / spacing).items():
            for k in plane:
                rows, columns = polygon(placed[k][:, 1], placed[k][:, 0], shape=result.shape[1:])
                result[z, rows, columns] ^= True
        return result


def read_rtstruct(path: str | Path) -> tuple[Roi, ...]:
    """The structures of a file that have contours.

    Raises:
        InputError: pydicom isn't installed, another kind of file, damage, or no contours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="an RTSTRUCT")
    found = read_in_child("sctlab.rtstruct:contours_in_child", path)
    points, ends = found["points"], np.cumsum(found["counts"])
    contours = np.split(points, ends[:-1]) if len(ends) else []
    rois = tuple(
        Roi(name, kind, tuple(c for c, owner in zip(contours, found["owners"], strict=True) if owner == k))
        for k, (name, kind) in enumerate(zip(found["names"], found["kinds"], strict=True))
    )
    rois = tuple(roi for roi in rois if roi.contours)
    if not rois:
        raise InputError(path, found="no closed contour", expected="structures with contours")
    return rois


def contours_in_child(path: str) -> dict[str, Any]:
    """Names, kinds and contours of an RTSTRUCT, called by name in the child process.

    Returns:
        `names` and `kinds` of the structures; for each contour `owners` (index of its structure) and `counts` (its points);
        `points`, float64 [points of all, 3].
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError(
            path,
            found="pydicom isn't installed",
            expected="it, to read RTSTRUCT",
            advice='pip install "sctlab[clinical]"',
        ) from error
    try:
        file = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
        raise InputError(path, found="no DICOM file", expected="an RTSTRUCT") from error
    if file.get("Modality") != "RTSTRUCT":
        raise InputError(path, found=f"modality {file.get('Modality', 'none')}", expected="RTSTRUCT")
    kinds = {
        int(o.ReferencedROINumber): str(o.get("RTROIInterpretedType") or "").upper()
        for o in file.get("RTROIObservationsSequence") or ()
    }
    numbers = [int(roi.ROINumber) for roi in file.StructureSetROISequence]
    names = [str(roi.get("ROIName") or f"ROI {roi.ROINumber}") for roi in file.StructureSetROISequence]
    owners, counts, points = [], [], []
    for entry in file.get("ROIContourSequence") or ():
        for contour in entry.get("ContourSequence") or ():
            polygon = np.array([float(v) for v in contour.get("ContourData") or ()])
            kind = contour.get("ContourGeometricType", "").replace("_", "")
            if not kind.startswith("CLOSEDPLANAR") or polygon.size < 9:
                continue  # points and open lines enclose nothing
            if polygon.size % 3 or not np.isfinite(polygon).all():
                raise InputError(path, found="a contour that isn't made of points", expected="x, y, z in mm")
            owners.append(numbers.index(int(entry.ReferencedROINumber)))
            counts.append(polygon.size // 3)
            points.append(polygon.reshape(-1, 3))
    return {
        "names": names,
        "kinds": [kinds.get(number, "") for number in numbers],
        "owners": owners,
        "counts": counts,
        "points": np.concatenate(points) if points else np.zeros((0, 3)),
    }


def _nearest_planes(heights: np.ndarray, slices: int, tolerance: float) -> dict[int, np.ndarray]:
    """Slice and the contours of its nearest plane, for the slices that have one near enough; all in slices."""
    order = np.argsort(heights)
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > tolerance)
    planes = np.split(order, starts[1:])
    centres = heights[order][starts]
    pitch = float(np.median(np.diff(centres))) if len(centres) > 1 else 1.0
    found = {}
    for z in range(max(0, int(centres[0] - pitch)), min(slices, int(centres[-1] + pitch) + 2)):
        k = int(np.abs(centres - z).argmin())
        if abs(centres[k] - z) <= pitch / 2 + tolerance:
            found[z] = planes[k]
    return found
