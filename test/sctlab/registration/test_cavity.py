"""The cavity of a CT: a trunk of fat, muscles, ribs, and organs that lie against them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from sctlab.dicom import read_dicom_series
from sctlab.registration import cavity as module
from sctlab.registration.cavity import (
    cavity_by_labels,
    cavity_by_organs,
    cavity_by_wall,
    find_cavity,
    of_version_1,
    register_cavity_finder,
)
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume, resample

GRID = Geometry((120, 90, 24), (3.0, 3.0, 6.0), (-178.5, -133.5, 0.0))


def trunk() -> tuple[np.ndarray, np.ndarray]:
    """HU and the true cavity [z, y, x]: 14 mm of wall, on the right an organ against it, ribs in every third slice."""
    y, x = (np.arange(n) * 3.0 + o for n, o in ((90, -133.5), (120, -178.5)))
    y, x = np.meshgrid(y, x, indexing="ij")

    def ellipse(shrink: float) -> np.ndarray:
        return (x / (165 - shrink)) ** 2 + (y / (120 - shrink)) ** 2 < 1

    hu = np.full(y.shape, -1000.0)
    hu[ellipse(0)] = -100
    hu[ellipse(25)] = 50
    inside = ellipse(39)
    hu[inside] = -100
    hu[inside & (x < -30)] = 60  # an organ
    hu[inside & (np.hypot(x - 40, y + 30) < 30)] = -900  # gas
    spine = np.hypot(x, y - 70) < 22
    volume = np.broadcast_to(hu, GRID.shape_zyx).copy()
    volume[:, spine] = 400
    ribs = ellipse(29) & ~ellipse(37)
    volume[::3, ribs] = 400
    true = np.broadcast_to(inside & ~spine, GRID.shape_zyx)
    return volume + np.random.default_rng(0).normal(0, 10, volume.shape), true


def test_the_wall_is_found_beside_fat_gas_and_organs() -> None:
    hu, true = trunk()
    found = cavity_by_wall(Volume(hu.astype(np.float32), GRID))
    z, y, x = np.indices(GRID.shape_zyx)
    index = found.geometry.to_index(GRID.to_physical(np.stack([x, y, z], -1)))
    on_grid = found.array[tuple(np.clip(np.rint(index[..., ::-1]).astype(int), 0, np.array(found.array.shape) - 1).T)].T
    surface = distance_transform_edt(true[2], sampling=3.0) == 3.0
    depth = np.where(on_grid, 1, -1) * (
        distance_transform_edt(on_grid, sampling=(6, 3, 3)) + distance_transform_edt(~on_grid, sampling=(6, 3, 3))
    )
    side = surface & (y[2] * 3.0 - 133.5 < 40)  # beside the spine the wall has no clear end
    assert np.median(np.abs(depth[4:-4, side])) < 5
    assert (on_grid[4:-4] & true[4:-4]).sum() / true[4:-4].sum() > 0.85
    assert (on_grid[4:-4] & ~true[4:-4]).sum() / true[4:-4].sum() < 0.15


@pytest.mark.parametrize("slice_mm", [5.0, 6.5])
def test_a_cavity_reaches_the_last_slices(slice_mm: float) -> None:
    """The finder's 3 mm don't divide the image: what is left over lies at both ends."""
    hu, _ = trunk()
    grid = Geometry(GRID.size_xyz, (3.0, 3.0, slice_mm), GRID.origin_xyz)
    found = cavity_by_wall(Volume(hu.astype(np.float32), grid))
    on_ct = resample(found.with_array(found.array.astype(np.uint8)), grid, interpolation="nearest", outside=0).array
    assert on_ct[0].sum() > 0.8 * on_ct[4].sum()
    assert on_ct[-1].sum() > 0.8 * on_ct[-5].sum()


def test_organs_apart_that_hold_no_litre_together_are_no_cavity(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.3 litres of organs, but half of them on either side of a wall: the next finder is asked."""
    box = Geometry((60, 50, 40), (3.0, 3.0, 3.0))
    labels = np.zeros(box.shape_zyx, np.uint8)
    labels[:, 10:40, 2:22] = labels[:, 10:40, 42:58] = 5  # liver
    labels[..., 22:42] = 27  # spine
    monkeypatch.setattr(module, "is_here", lambda: True)
    seen = "sctlab_model.anatomy.segmenter.see_anatomy"
    monkeypatch.setattr(seen, lambda image: SimpleNamespace(labels=image.with_array(labels)))
    assert cavity_by_organs(Volume(np.full(box.shape_zyx, 40.0, np.float32), box)) is None


@pytest.mark.parametrize(
    ("spine", "ribs", "bowel", "first"),
    [(18, 60, 55, True), (30, 95, 18, False), (30, 0, 18, False), (18, 0, 0, True), (0, 95, 60, False)],
)
def test_the_version_of_labels_shows_in_where_bone_is(spine: int, ribs: int, bowel: int, first: bool) -> None:
    """Vertebrae and ribs have 250 HU, the bowel 40; numbers of version 1 or 2, parts of them missing."""
    box = Geometry((30, 20, 10), (3.0, 3.0, 3.0))
    hu, labels = np.full(box.shape_zyx, -100.0, np.float32), np.zeros(box.shape_zyx, np.uint8)
    for number, (value, part) in enumerate(zip((250, 250, 40), (spine, ribs, bowel), strict=True)):
        hu[..., 10 * number : 10 * number + 9], labels[..., 10 * number + 1 : 10 * number + 8] = value, part
    assert of_version_1(Volume(hu, box), Volume(labels, box)) is first


def test_no_body_has_no_cavity() -> None:
    air = np.full((10, 20, 20), -1000.0, np.float32)
    assert find_cavity(Volume(air, Geometry((20, 20, 10), (6.0, 6.0, 6.0)))) is None


def test_a_finder_that_knows_more_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FINDERS", list(module._FINDERS))
    known = Volume(np.ones((4, 4, 4), bool), Geometry((4, 4, 4), (1.0, 1.0, 1.0)))
    register_cavity_finder(position=1)(lambda ct: known)
    assert find_cavity(Volume(np.zeros((4, 4, 4), np.float32), known.geometry)) is known


def test_organs_of_the_network_bound_the_cavity(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between organs counts as inside, what the network calls wall doesn't, whatever the grid's axes are."""
    box = Geometry((60, 50, 40), (3.0, 3.0, 3.0), (-88.5, -73.5, -58.5))
    labels = np.zeros(box.shape_zyx, np.uint8)
    labels[:, 10:40, 8:28], labels[:, 10:40, 34:52] = 5, 18  # liver, 18 mm of something, bowel
    labels[:, 34:40, 20:40] = 27  # spine reaches between them
    monkeypatch.setattr(module, "is_here", lambda: True)
    seen = "sctlab_model.anatomy.segmenter.see_anatomy"
    monkeypatch.setattr(seen, lambda image: SimpleNamespace(labels=image.with_array(labels)))
    hu = np.full(box.shape_zyx, 40.0, np.float32)
    found = cavity_by_organs(Volume(hu, box))
    assert found is not None
    assert found.array[:, 15:32, 10:50].all()
    assert not found.array[:, 36:39, 22:38].any()
    assert not found.array[:, :6].any()
    assert not found.array[..., 56:].any()

    labels[:] = np.where(np.indices(labels.shape)[0] < 3, labels, 0)  # a quarter of a litre
    assert cavity_by_organs(Volume(hu, box)) is None


def labelled() -> tuple[Volume, Volume]:
    """A CT of 40 HU and its labels on a grid of its own: liver, fat, bowel, and a spine that reaches between them."""
    box = Geometry((120, 100, 40), (1.5, 1.5, 3.0), (-88.5, -73.5, -58.5))
    labels = np.zeros(box.shape_zyx, np.int32)
    labels[:, 20:80, 16:56], labels[:, 20:80, 68:104] = 5, 18
    labels[:, 68:80, 40:80] = 29
    coarse = Geometry((60, 50, 40), (3.0, 3.0, 3.0), (-88.5, -73.5, -58.5))
    return Volume(np.full(coarse.shape_zyx, 40.0, np.float32), coarse), Volume(labels, box)


def test_labels_bound_the_cavity_without_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_here", lambda: False)
    ct, labels = labelled()
    found = cavity_by_labels(ct, labels)
    assert found is not None
    assert found.array[:, 15:32, 10:50].all()  # the fat between organs as well
    assert not found.array[:, 36:39, 22:38].any()  # spine
    assert not found.array[:, :6].any()
    assert not found.array[..., 56:].any()


@pytest.mark.parametrize(
    "kept", [(5, 29), (5, 18), (1,)], ids=["one organ and bone", "organs without bone", "a mask of ones"]
)
def test_labels_of_some_organs_are_no_cavity(kept: tuple[int, ...]) -> None:
    """A liver alone would slide along the bowel beside it."""
    ct, labels = labelled()
    some = np.where(np.isin(labels.array, kept), labels.array, 0) if kept != (1,) else (labels.array > 0).astype(int)
    assert cavity_by_labels(ct, labels.with_array(some)) is None


def test_a_real_cavity_agrees_with_its_organs_labels(shared_data: Path) -> None:
    """A CT that trained no network: found within the labelled organs' hull and far from muscles and bones."""
    ct = read_dicom_series(shared_data / "abdomen_ct_dicom/series")
    labels = read_volume(shared_data / "abdomen_ct_dicom/labels.nii.gz")
    found = cavity_by_organs(ct)
    assert found is not None
    label = resample(labels, found.geometry, interpolation="nearest", outside=0).array
    organs, wall = np.isin(label, (1, 2, 3, 5, 6, 7, 18, 19, 20)), np.isin(label, (*range(25, 51), *range(86, 117)))
    assert found.array[organs].mean() > 0.92  # 0.940 here, 0.933 to 0.947 on grids shifted by 0.5 to 1.5 mm
    assert found.array[wall].mean() < 0.07
