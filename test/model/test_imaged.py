"""Fill values beyond a field of view, of empty slices and borders: neither air nor tissue, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.imaged import imaged_part
from sctlab_model.intensity import check_cbct, find_offset
from sctlab_model.overlap import dice
from sctlab_model.volume import Geometry, Volume

FILLS = [-2000, -1024, -1000, 0, 3071]


def disc(shape: tuple[int, int], radius: float, centre: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Pixels within `radius` (pixels) of the middle of a plane, which `centre` moves."""
    y, x = (i - (n - 1) / 2 - c for i, n, c in zip(np.indices(shape), shape, centre, strict=True))
    return y**2 + x**2 < radius**2


def trunk(width: float = 35, height: float = 25, chest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """CBCT [z, y, x] of 3 mm, air at -970, noise of 30 HU: an ellipse of muscle with fat around and bone; and its body."""
    y, x = (i - 63.5 for i in np.indices((128, 128)))
    body = (y / height) ** 2 + (x / width) ** 2 < 1
    plane = np.where(body, -100.0, -970.0)
    plane[(y / (height - 4)) ** 2 + (x / (width - 4)) ** 2 < 1] = 40
    plane[disc(body.shape, 6, (10, 0))] = 400
    rng = np.random.default_rng(0)
    hu = np.repeat(plane[None], 8, 0)
    if chest:
        vessels = rng.normal(-780, 110, (8, 128, 128))
        for side in (-30, 30):
            lung = np.broadcast_to(disc(body.shape, 24, (-8, side)), hu.shape)
            hu[lung] = vessels[lung]
    return hu + rng.normal(0, 30, hu.shape), np.repeat(body[None], 8, 0)


def scan(array: np.ndarray) -> Volume:
    return Volume(array.astype(np.float32), Geometry(array.shape[::-1], (3, 3, 3)), "scan")


@pytest.mark.parametrize("offset", [0, 1024])
@pytest.mark.parametrize("fill", FILLS)
def test_a_round_field_of_view(fill: int, offset: int) -> None:
    hu, body = trunk()
    hu += offset
    hu[:, ~disc((128, 128), 61)] = fill
    hu[:2] = np.where(disc((128, 128), 50), hu[:2], fill)  # a cone beam sees less at its ends
    assert dice(body_mask(scan(hu), Task.CBCT).array, body) > 0.97
    found = find_offset(scan(hu))
    assert offset in (found.value, *found.others)
    assert [f.text[:11] for f in check_cbct(scan(hu))] == (["VALUES LOOK"] if offset else [])


@pytest.mark.parametrize("offset", [0, 1024])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("border", [((0, 0), (30, 0), (0, 0)), ((0, 0), (20, 30), (40, 20)), ((3, 4), (0, 0), (0, 0))])
def test_filled_borders_and_empty_slices(border: tuple[tuple[int, int], ...], fill: int, offset: int) -> None:
    """A stripe of zeros beside a patient in HU is brighter than fat."""
    hu, body = trunk()
    padded = scan(np.pad(hu + offset, border, constant_values=fill))
    assert dice(body_mask(padded, Task.CBCT).array, np.pad(body, border)) > 0.97
    found = find_offset(padded)
    assert offset in (found.value, *found.others)


@pytest.mark.parametrize("fill", [0, 3071])
def test_a_masked_body_in_a_bright_fill(fill: int) -> None:
    """Zero in HU is brighter than fat; the fill reaches three of the sides, the body the fourth."""
    hu, body = trunk()
    masked = scan(np.where(body, hu, fill)[:, :, 40:])
    assert dice(body_mask(masked, Task.CBCT).array, body[:, :, 40:]) > 0.99


@pytest.mark.parametrize("fill", [0, -1024, 5000])
@pytest.mark.parametrize("pedestal", [0, 500])
def test_an_mr_with_filled_parts(fill: int, pedestal: int) -> None:
    """A border, slices and a round field of view of any fill, where air may lie at any level: the body is the same."""
    _, body = trunk()
    rng = np.random.default_rng(0)
    mr = np.hypot(np.where(body, 300, 0) + rng.normal(0, 15, body.shape), rng.normal(0, 15, body.shape)) + pedestal
    padded = np.pad(mr, ((1, 2), (30, 0), (20, 20)), constant_values=fill)
    wanted = np.pad(body, ((1, 2), (30, 0), (20, 20)))
    assert dice(body_mask(scan(padded), Task.MRI).array, wanted) > 0.97
    masked = np.where(body, mr, min(fill, 0) - 200)
    mr[:, ~disc((128, 128), 61)] = fill
    assert dice(body_mask(scan(mr), Task.MRI).array, body) > 0.97
    assert dice(body_mask(scan(masked), Task.MRI).array, body) > 0.97


@pytest.mark.parametrize("offset", [-1000, -300, 0, 300, 1024])
def test_a_body_at_any_offset(offset: int) -> None:
    hu, body = trunk()
    assert dice(body_mask(scan(hu + offset), Task.CBCT).array, body) > 0.97


def test_an_eight_bit_copy_is_refused() -> None:
    """Everything in it lies above the threshold in HU, as where a field of view lies in a body."""
    hu, _ = trunk()
    with pytest.raises(InputError, match="can't be told apart"):
        body_mask(scan((hu.clip(-1000, 1000) + 1000) * 255 / 2000), Task.CBCT)


@pytest.mark.parametrize("fill", FILLS)
def test_lungs_that_a_round_field_of_view_cuts_are_body(fill: int) -> None:
    hu, _ = trunk(90, 80, chest=True)
    field = disc((128, 128), 45)
    hu[:, ~field] = fill
    mask = body_mask(scan(hu), Task.CBCT).array
    assert mask[:, field].mean() > 0.99
    assert not mask[:, ~field].any()


def test_air_of_any_level_that_fills_a_field_of_view_is_not_body() -> None:
    """Even and too bright for air: no lung, so that a mask of everything isn't believed."""
    hu = np.full((8, 128, 128), -700.0) + np.random.default_rng(0).normal(0, 30, (8, 128, 128))
    hu[:, disc((128, 128), 12)] = 40
    hu[:, ~disc((128, 128), 61)] = -1000
    assert body_mask(scan(hu), Task.CBCT).array.mean() == pytest.approx(disc((128, 128), 12).mean(), abs=0.003)


def test_which_shapes_are_fields_of_view() -> None:
    image = np.random.default_rng(0).normal(0, 1, (4, 60, 80))
    assert imaged_part(image, (1, 1)) is None
    for radius, centre in ((29, (0, 0)), (45, (0, 0)), (20, (5, -12))):
        plane = disc((60, 80), radius, centre)
        found = imaged_part(np.where(plane, image, 7), (2, 2))
        assert found is not None
        assert (found == plane).all()
    y, x = (i - (n - 1) / 2 for i, n in zip(np.indices((60, 80)), (60, 80), strict=True))
    for other in ((y / 20) ** 2 + (x / 30) ** 2 < 1, (abs(y) < 20) & (abs(x) < 20)):
        assert imaged_part(np.where(other, image, -7), (1, 1)) is None  # the air of a masked image
        bright = imaged_part(np.where(other, image, 7), (1, 1))
        assert bright is not None
        assert (bright == other).all()
    stretched = imaged_part(np.where((2 * y) ** 2 + x**2 < 30**2, image, 7), (2, 1))  # round in mm
    assert stretched is not None
    empty = image.copy()
    empty[0], empty[3] = 0, 5
    found = imaged_part(empty, (1, 1))
    assert found is not None
    assert found.mean(axis=(1, 2)).tolist() == [0, 1, 1, 0]
    assert imaged_part(np.zeros((2, 5, 5)), (1, 1)) is None
