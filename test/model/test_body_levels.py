"""Bodies whose air isn't where it should be: shading, offsets, foam as bright as lung, and images that hold hardly any air."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.io.reading import read_volume
from sctlab_model.overlap import dice
from sctlab_model.volume import Geometry, Volume

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
Chest = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def chest() -> Chest:
    """HU [z, y, x] of 3 mm: fat, muscle, a spine and two lungs full of vessels, air at -1000; noise of 10 HU; and the body."""
    rng = np.random.default_rng(0)
    y, x = (i - 63.5 for i in np.indices((128, 128)))
    body = (y / 40) ** 2 + (x / 55) ** 2 < 1
    plane = np.where(body, -100.0, -1000.0)
    plane[(y / 36) ** 2 + (x / 51) ** 2 < 1] = 40
    plane[(y - 24) ** 2 + x**2 < 49] = 400
    hu = np.repeat(plane[None], 8, 0)
    for side in (-26, 26):
        lung = np.broadcast_to((y / 28) ** 2 + ((x - side) / 18) ** 2 < 1, hu.shape)
        hu[lung] = rng.normal(-800, 90, hu.shape)[lung]
    return hu + rng.normal(0, 10, hu.shape), np.repeat(body[None], 8, 0)


def scan(array: np.ndarray) -> Volume:
    return Volume(np.ascontiguousarray(array, dtype=np.float32), Geometry(array.shape[::-1], (3, 3, 3)), "scan")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_shading_makes_no_lung_of_air(chest: Chest, axis: int, sign: int) -> None:
    """300 HU from one end to the other: the air of one end lies above that of the other as lung does."""
    hu, body = chest
    ramp = np.moveaxis(np.linspace(-150, 150, hu.shape[axis])[:, None, None], 0, axis)
    assert dice(body_mask(scan(hu + sign * ramp), Task.CBCT).array, body) > 0.98


@pytest.mark.parametrize("level", [-900, -800, -700])
def test_cushions_as_bright_as_lung(chest: Chest, level: float) -> None:
    """Foam under and beside the patient."""
    hu, body = chest
    under = ~body & (np.arange(128) > 64)[:, None]
    padded = np.where(under, level + np.random.default_rng(1).normal(0, 8, hu.shape), hu)
    assert dice(body_mask(scan(padded), Task.CBCT).array, body) > 0.98


@pytest.mark.parametrize("offset", [-300, 1000, 1024])
def test_a_crop_without_air_at_an_offset(offset: float) -> None:
    """Its lungs are the darkest of it, and are not taken for air."""
    path = DATA / "thorax_ct" / "ct.nii.gz"
    if not path.is_file():
        pytest.skip("the shared images aren't here")
    hu = read_volume(path).array[::4, ::2, ::2].astype(np.float32)
    assert dice(body_mask(scan(hu + offset), Task.CBCT).array, body_mask(scan(hu), Task.CBCT).array) > 0.98


def test_many_small_regions_of_air_in_the_corners(chest: Chest) -> None:
    """None of them holds a tenth of the corners: it ended in numpy's error."""
    hu, _ = chest
    full = np.repeat(np.full_like(hu[:, 38:80, 32:96], 40), 2, 0) + np.linspace(0, 100, 64)
    full[::2, :12, :12] = -1000
    assert body_mask(scan(full), Task.CBCT).array.mean() > 0.9


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.15, 0.3, 1.0])
@pytest.mark.parametrize("outside", ["air", "zeros"])
@pytest.mark.parametrize("name", ["abdomen_mr/mr.nii.gz", "head_mr_fernando_t2/t2.nii.gz"])
def test_a_real_mr_at_any_offset(name: str, share: float, outside: str) -> None:
    """Offsets of 2 to 100 % of its brightest, the zeros of a masked image with it."""
    if not (DATA / name).is_file():
        pytest.skip("the shared images aren't here")
    source = read_volume(DATA / name)
    step = max(1, source.array.shape[1] // 90)
    array = source.array[:, ::step, ::step].astype(np.float32)
    spacing = (
        source.geometry.spacing_xyz[0] * step,
        source.geometry.spacing_xyz[1] * step,
        source.geometry.spacing_xyz[2],
    )
    grid = Geometry(array.shape[::-1], spacing)
    wanted = body_mask(Volume(array, grid), Task.MRI).array
    if outside == "zeros":
        array = np.where(wanted, array, np.float32(0))
    moved = body_mask(Volume(array + share * np.percentile(array, 99), grid), Task.MRI)
    assert dice(moved.array, wanted) > 0.98
    assert not moved.notes


def test_an_mr_whose_border_cuts_the_body_says_so() -> None:
    """Without air the darker tissue is left out: it is less even than air is."""
    if not (DATA / "abdomen_mr").is_dir():
        pytest.skip("the shared images aren't here")
    source = read_volume(DATA / "abdomen_mr" / "mr.nii.gz")
    inner = np.ascontiguousarray(source.array[:, 25:65, 30:85])
    found = body_mask(Volume(inner, source.geometry.cropped((30, 25, 0), inner.shape[::-1])), Task.MRI)
    assert "look at the computed body mask" in found.notes[0]
