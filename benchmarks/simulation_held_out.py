"""A real MR that no number of the simulator was chosen on: its own CT outlines the tissues, by a rule and not by hand.

    python benchmarks/simulation_held_out.py [--pair ../shared/data/rt_pair_sts_018] \
        > benchmarks/simulation_held_out.txt

The pair's MR (T1 spin echo of the buttock) and CT lie in one frame of reference and fit within two millimetres where
looked at; `sctlab register --method rigid` finds nothing better (it calls its result doubtful). Muscle, fat, spongy bone and cortex
are what `fractions` makes of the CT, two voxels inside their surfaces; the tumour of the RTSTRUCT and 5 mm around it
are left out. Everything else is `simulation_realism.py` as it is.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from simulation_realism import Patient, RealImage, compare, edge_sharpness, noise_level, tissues_of_ct, whole_images

from sctlab.simulation.case import simulate
from sctlab.simulation.settings import CaseSettings
from sctlab_model.cases import Region, Task
from sctlab_model.volume import Geometry, Volume, resample

ROOT = Path(__file__).resolve().parent.parent
# names of simulation_realism.REGIONS for what the CT tells apart
NAMES = {"fat": "fat", "spongy, 100-350 HU": "pelvis_marrow", "cortex, above 900 HU": "cortex"}


def read_series(folder: Path) -> Volume:
    """A DICOM series of any modality, axes LPS."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = sitk.DICOMOrient(reader.Execute(), "LPS")
    return Volume.from_sitk(sitk.Cast(image, sitk.sitkFloat32), str(folder))


def contours(path: Path) -> list[np.ndarray]:
    """Points [n, 3] (LPS, mm) of every contour of an RTSTRUCT: its elements Contour Data (3006,0050)."""
    data = path.read_bytes()
    found = []
    for match in re.finditer(b"\x06\x30\x50\x00", data):
        at = match.end()
        explicit = data[at : at + 2] == b"DS"
        length = int.from_bytes(data[at + 2 : at + 4] if explicit else data[at : at + 4], "little")
        text = data[at + 4 : at + 4 + length].decode("ascii").strip(" \0")
        found.append(np.array([float(v) for v in text.split("\\")]).reshape(-1, 3))
    return found


def inside_contours(points: list[np.ndarray], grid: Geometry) -> np.ndarray:
    """Voxels inside axial contours, boolean [z, y, x]."""
    from skimage.draw import polygon

    mask = np.zeros(grid.shape_zyx, bool)
    for contour in points:
        index = grid.to_index(contour)
        z = round(float(index[:, 2].mean()))
        if 0 <= z < len(mask):
            rows, columns = polygon(index[:, 1], index[:, 0], mask.shape[1:])
            mask[z, rows, columns] = True
    return mask


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=ROOT.parent / "shared" / "data" / "rt_pair_sts_018")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--whole", type=int, default=30)
    arguments = parser.parse_args()
    mr, ct = read_series(arguments.pair / "MR_T1" / "image"), read_series(arguments.pair / "CT" / "image")
    tumour = inside_contours(contours(arguments.pair / "CT" / "mask" / "RS.dcm"), ct.geometry)
    away = ndimage.distance_transform_edt(~tumour, sampling=ct.geometry.spacing_xyz[::-1]) > 5
    moved = resample(mr, ct.geometry, outside=0.0)
    settings = CaseSettings(spacing_xyz=ct.geometry.spacing_xyz, amplitude_mm=0)
    case = simulate(Task.MRI, Region.AB, settings, ct=ct)
    cut = tuple(slice(n) for n in case.fractions.shape[1:])
    real, allowed = moved.array[cut], away[cut] & (moved.array[cut] > 0)
    tissues = tissues_of_ct(case.fractions, case.ct_aligned.array.astype(np.float32), allowed)
    images = whole_images(Patient(case.fractions, case.source.geometry), "t1_tse", arguments.whole)
    print(f"HELD OUT: {arguments.pair.name}, T1 spin echo, tissues by its CT")
    print("\ntissue : muscle, patches as in simulation_realism.py")
    print(f"{'':15s} {'voxels':>7s} {'real':>7s} {'5 %':>7s} {'50 %':>7s} {'95 %':>7s}  inside")
    values = {NAMES[t]: real[m] for t, m in tissues.items() if t in NAMES} | {"muscle": real[tissues["muscle"]]}
    image = RealImage("held_out", "t1_tse", values, mr)
    for tissue, ratio, simulated in compare(image, arguments.draws):
        row(tissue, len(values[tissue]), ratio, simulated)
    print("\ntissue : muscle, whole MRs simulated from this CT, same voxels")
    muscle = [float(np.median(i[tissues["muscle"]])) for i in images]
    for name, where in tissues.items():
        if name != "muscle":
            ratio = float(np.median(real[where]) / np.median(real[tissues["muscle"]]))
            ratios = np.array([np.median(i[where]) / m for i, m in zip(images, muscle, strict=True)])
            row(name, int(where.sum()), ratio, ratios)
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(real > 0))  # the MR covers a part of the CT
    row("noise", real[box].size, noise_level(mr.array), np.array([noise_level(i[box]) for i in images]))
    row("edges", real[box].size, edge_sharpness(mr.array), np.array([edge_sharpness(i[box]) for i in images]))
    body = ndimage.binary_erosion(real > 0.1 * np.percentile(real, 98), iterations=2)
    both = [float(np.corrcoef(real[body], i[body])[0, 1]) for i in images]
    print(f"correlation of the images inside the body: {np.median(both):.2f} (median), {max(both):.2f} (best)")


def row(name: str, voxels: int, value: float, simulated: np.ndarray) -> None:
    """One line of a table."""
    p1, p5, p50, p95, p99 = np.percentile(simulated, (1, 5, 50, 95, 99))
    verdict = "yes" if p5 <= value <= p95 else "1-99 %" if p1 <= value <= p99 else "NO"
    print(f"{name:22s} {voxels:7d} {value:7.3f} {p5:7.3f} {p50:7.3f} {p95:7.3f}  {verdict}")


if __name__ == "__main__":
    main()
