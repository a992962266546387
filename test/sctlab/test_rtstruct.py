"""RTSTRUCT contours as masks: known solids, holes, other grids, a real file; and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sctlab.dicom import read_dicom_series
from sctlab.evaluation.structures import Structures, load_structures
from sctlab.rtstruct import read_rtstruct
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.volume import Geometry, Volume

pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "sctlab[clinical]"')

SHARED = Path(__file__).parents[3] / "shared" / "data"
GRID = Geometry((40, 36, 20), (2.0, 2.0, 3.0), (-40.0, -30.0, -200.0))


def _circle(radius: float, z: float, centre: tuple[float, float] = (0.0, 5.0)) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle), np.full(120, z)], axis=1)


def write_rtstruct(
    path: Path, rois: Sequence[tuple[str, str, Sequence[np.ndarray]]], modality: str = "RTSTRUCT"
) -> Path:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.Modality = modality
    names, contours, kinds = [], [], []
    for number, (name, kind, polygons) in enumerate(rois, 7):
        roi, entry, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber = entry.ReferencedROINumber = observation.ReferencedROINumber = number
        roi.ROIName, observation.RTROIInterpretedType, observation.ObservationNumber = name, kind, number
        entry.ContourSequence = []
        for points in polygons:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{v:.3f}" for v in np.ravel(points)]
            entry.ContourSequence.append(contour)
        names.append(roi)
        contours.append(entry)
        kinds.append(observation)
    file.StructureSetROISequence, file.ROIContourSequence, file.RTROIObservationsSequence = names, contours, kinds
    file.save_as(path, enforce_file_format=True)
    return path


def _planes(radius: float, low: float = -191.0, high: float = -173.0, **more: tuple[float, float]) -> list[np.ndarray]:
    return [_circle(radius, z, **more) for z in np.arange(low, high + 0.1, 3.0)]


def test_a_cylinder_has_its_volume_and_its_place(tmp_path: Path) -> None:
    (roi,) = read_rtstruct(write_rtstruct(tmp_path / "s.dcm", [("PTV", "PTV", _planes(15))]))
    mask = roi.mask(GRID)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    assert slices.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert mask.sum() * 12 == pytest.approx(np.pi * 15**2 * 21, rel=0.02)
    assert GRID.to_physical(np.argwhere(mask)[:, ::-1]).mean(0) == pytest.approx((0, 5, -182), abs=0.2)


def test_another_grid_takes_the_nearest_plane(tmp_path: Path) -> None:
    (roi,) = read_rtstruct(write_rtstruct(tmp_path / "s.dcm", [("PTV", "PTV", _planes(15))]))
    for spacing in ((2.0, 2.0, 1.0), (1.0, 1.5, 1.5), (3.0, 3.0, 3.0)):
        grid = GRID.resized(spacing)
        assert roi.mask(grid).sum() * grid.voxel_volume_mm3 == pytest.approx(np.pi * 15**2 * 21, rel=0.08), spacing
    flipped = Geometry(GRID.size_xyz, GRID.spacing_xyz, (38.0, 40.0, -200.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert np.array_equal(roi.mask(flipped)[:, ::-1, ::-1], roi.mask(GRID))
    assert not roi.mask(Geometry(GRID.size_xyz, GRID.spacing_xyz, (500.0, 500.0, 500.0))).any()


def test_a_contour_within_another_is_a_hole(tmp_path: Path) -> None:
    ring = [c for pair in zip(_planes(15), _planes(8), strict=True) for c in pair]
    rois = read_rtstruct(write_rtstruct(tmp_path / "s.dcm", [("ring", "ORGAN", ring), ("core", "ORGAN", _planes(8))]))
    ring_mask, core = (roi.mask(GRID) for roi in rois)
    assert not (ring_mask & core).any()
    assert ring_mask.sum() * 12 == pytest.approx(np.pi * (15**2 - 8**2) * 21, rel=0.03)


def test_contours_that_cross_the_slices_are_refused(tmp_path: Path) -> None:
    tilted = _circle(15, -182)
    tilted[:, 2] += 0.2 * tilted[:, 0]
    (roi,) = read_rtstruct(write_rtstruct(tmp_path / "s.dcm", [("PTV", "PTV", [tilted])]))
    with pytest.raises(InputError, match="cross the image's slices"):
        roi.mask(GRID)


def test_what_is_no_rtstruct_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(InputError, match="no DICOM file"):
        read_rtstruct(tmp_path / "text.dcm")
    with pytest.raises(InputError, match="modality CT"):
        read_rtstruct(write_rtstruct(tmp_path / "ct.dcm", [("PTV", "PTV", _planes(5))], modality="CT"))
    with pytest.raises(InputError, match="no closed contour"):
        read_rtstruct(write_rtstruct(tmp_path / "empty.dcm", [("PTV", "PTV", [])]))
    with pytest.raises(InputError, match="no such file"):
        read_rtstruct(tmp_path / "nowhere.dcm")
    whole = write_rtstruct(tmp_path / "whole.dcm", [("PTV", "PTV", _planes(15))]).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        read_rtstruct(tmp_path / "cut.dcm")


def test_the_target_and_the_organs_of_a_plan(tmp_path: Path) -> None:
    rois = [
        ("GTV small", "GTV", _planes(5)),
        ("PTV", "PTV", _planes(12)),
        ("Cord", "ORGAN", _planes(4, centre=(0.0, 25.0))),
        ("Skin", "EXTERNAL", _planes(28)),
    ]
    structures = Structures(rois=read_rtstruct(write_rtstruct(tmp_path / "s.dcm", rois)))
    name, target = structures.target(GRID)
    assert (name, list(structures.organs(GRID))) == ("PTV", ["Cord"])
    other = Structures(rois=structures.rois, wanted="gtv SMALL").target(GRID)
    assert other[0] == "GTV small"
    assert 0 < other[1].sum() < target.sum()
    two = Structures(rois=(structures.rois[1], structures.rois[1]))
    with pytest.raises(InputError, match="2 structures to aim at: PTV, PTV"):
        two.target(GRID)
    with pytest.raises(InputError, match="no structure 'liver'"):
        Structures(rois=structures.rois, wanted="liver").target(GRID)


def test_labels_are_structures_too() -> None:
    labels = np.zeros(GRID.shape_zyx, np.uint8)
    labels[5:9, 10:20, 10:20], labels[5:9, 22:30, 10:20] = 5, 200
    volume = Volume(labels, GRID)
    for wanted in ("5", "Liver"):
        structures = Structures(volume, wanted=wanted)
        assert np.array_equal(structures.target(GRID)[1], labels == 5)
        assert list(structures.organs(GRID)) == ["class 200"]
    assert Structures(volume).target(GRID) is None
    assert list(Structures(volume).organs(GRID)) == ["liver", "class 200"]
    with pytest.raises(InputError, match="nothing of label 7"):
        Structures(volume, wanted="7").target(GRID)


def test_the_file_of_a_case_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "Task1" / "AB" / "1ABA001"
    folder.mkdir(parents=True)
    case = Case("1ABA001", Task.MRI, folder / "mr.mha", region=Region.AB, folder=folder)
    assert load_structures(case, None, None, None).rois == ()
    write_rtstruct(folder / "structures.dcm", [("beside", "PTV", _planes(9))])
    assert load_structures(case, None, None, None).rois[0].name == "beside"
    (tmp_path / "rt" / "AB").mkdir(parents=True)
    write_rtstruct(tmp_path / "rt" / "AB" / "1ABA001.dcm", [("given", "PTV", _planes(9))])
    assert load_structures(case, None, tmp_path / "rt", None).rois[0].name == "given"
    (tmp_path / "empty").mkdir()
    (folder / "structures.dcm").unlink()
    grid = Geometry((4, 4, 4), (2.0, 2.0, 2.0))
    labels = Volume(np.full(grid.shape_zyx, 27, np.uint8), grid)
    assert set(load_structures(case, labels, None, None).organs(grid)) == {"vertebrae_L5"}
    group = load_structures(case, labels, None, None, {27: "spine"})
    assert set(group.organs(grid)) == {"spine"}
    with pytest.raises(InputError, match=r"no 1ABA001\.dcm"):
        load_structures(case, None, tmp_path / "empty", None)


@pytest.mark.skipif(not (SHARED / "rt_pair_sts_018").is_dir(), reason="the shared real images are not here")
def test_a_real_tumour_has_the_volume_of_its_contours_and_the_density_of_soft_tissue() -> None:
    folder = SHARED / "rt_pair_sts_018" / "CT"
    ct = read_dicom_series(folder / "image")
    (roi,) = read_rtstruct(folder / "mask" / "RS.dcm")
    assert (roi.name, roi.kind) == ("GTV_Mass_CT", "GTV")
    mask = roi.mask(ct.geometry)
    area = 0.0
    for points in roi.contours:
        x, y = points[:, 0], points[:, 1]
        area += abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    assert mask.sum() * ct.geometry.voxel_volume_mm3 == pytest.approx(area * ct.geometry.spacing_xyz[2], rel=0.03)
    assert -50 < np.median(ct.array[mask]) < 100
