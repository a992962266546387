"""Where an image ends: fill that software added, bodies that it cuts, and the air of masked images, which cuts nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.cut_edges import box_on, cut_lines, extended, image_box
from sctlab_model.io.reading import read_volume
from sctlab_model.outline import find_outline, percentiles
from sctlab_model.overlap import dice
from sctlab_model.preparation import orient
from sctlab_model.volume import Geometry, Volume

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SHAPE = (6, 90, 110)
WHOLE = ((0, 0), SHAPE[1:])


def trunk(seed: int, power: float = 2.0, air: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A magnitude MR of a superellipse with texture, blurred by one voxel, air at `air`; and its body."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    wide, high = 38 + 4 * np.sin(z / 2 + seed), 30 + 3 * np.cos(z / 2 + seed)
    body = np.abs((x - 55) / wide) ** power + np.abs((y - 45) / high) ** power < 1
    tissue = 400 + 60 * ndimage.gaussian_filter(rng.normal(0, 8, SHAPE), (0, 2, 2))
    image = ndimage.gaussian_filter(np.where(body, tissue, air), (0, 1, 1))
    return (image + rng.normal(0, 5, SHAPE)).astype(np.float32), body


def masked(image: np.ndarray, body: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """As vendors export: one value outside of the body."""
    return np.where(body, image, np.float32(fill))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    axis=st.sampled_from((1, 2)),
    end=st.booleans(),
    deep=st.integers(19, 27),
    fill=st.sampled_from((0.0, -1.0, -1024.0)),
    power=st.sampled_from((2.0, 3.0)),
)
def test_a_straight_cut_through_a_masked_body_ends_the_image(
    seed: int, axis: int, end: bool, deep: int, fill: float, power: float
) -> None:
    """The air is one value already, and so is what was cut off: the line is known by tissue that ends in it."""
    image, body = trunk(seed, power)
    array = masked(image, body, fill)
    lines = np.flatnonzero(body.any(axis=(0, 3 - axis)))
    first = int(lines[-1] - deep if end else lines[0] + deep)
    beyond: list[slice] = [slice(None)] * 3
    beyond[axis] = slice(first + 1, None) if end else slice(0, first)
    array[tuple(beyond)] = fill
    start, size = image_box(array)
    wanted = (0, first + 1) if end else (first, SHAPE[axis] - first)
    assert (start[axis - 1], size[axis - 1]) == wanted
    assert (start[2 - axis], size[2 - axis]) == (0, SHAPE[3 - axis])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), power=st.sampled_from((2.0, 3.0, 6.0)), fill=st.sampled_from((0.0, -1024.0)))
def test_the_skin_of_a_masked_body_is_no_cut(seed: int, power: float, fill: float) -> None:
    """A back as flat as a superellipse of power 6, too."""
    image, body = trunk(seed, power)
    assert image_box(masked(image, body, fill)) == WHOLE


def test_a_back_that_is_flat_on_a_table_is_no_cut() -> None:
    """Flat to the voxel in every slice, masked with the partial volume of its skin."""
    image, body = trunk(1)
    body = body.copy()
    body[:, 62:] = False
    flat = ndimage.gaussian_filter(np.where(body, image, 0), (0, 1, 1))
    assert image_box(masked(flat, ndimage.binary_dilation(body, np.ones((1, 3, 3))))) == WHOLE
    noise = flat + np.abs(np.random.default_rng(0).normal(0, 4, SHAPE))
    assert image_box(masked(noise, ndimage.binary_dilation(body, np.ones((1, 9, 9))))) == WHOLE  # a mask with a margin


def test_a_couch_below_the_body_is_no_cut_of_it() -> None:
    """The image may be said to end at the couch; nothing that is mirrored there is body."""
    rng = np.random.default_rng(0)
    image, body = trunk(2)
    array = masked(image, body, -1000) - 400
    array[:, 80:83, 5:105] = 100 + rng.normal(0, 20, (SHAPE[0], 3, 100))
    (top, left), (rows, columns) = image_box(array)
    assert top == 0
    assert left == 0
    assert columns == SHAPE[2]
    seen = np.s_[:, :rows]
    assert not cut_lines(body[seen], array[seen], -1000.0)[:, -1].any()


def test_a_round_field_of_view_is_no_straight_cut() -> None:
    image, _ = trunk(3, 4.0)
    _, y, x = np.indices(SHAPE)
    assert image_box(masked(image, np.hypot(y - 45, x - 55) < 28, -1024)) == WHOLE


def test_air_of_whole_numbers_with_many_zeros() -> None:
    """Half of the air is zero by chance: the image isn't cut at the first line with another value."""
    image, body = trunk(4)
    noise = np.random.default_rng(0).integers(0, 2, SHAPE)
    array = np.where(body, np.rint(np.maximum(image, 1)), noise)
    (top, left), (rows, columns) = image_box(array)
    assert top <= 1
    assert left <= 1
    assert rows >= SHAPE[1] - 2
    assert columns >= SHAPE[2] - 2


def test_two_constant_halves_are_one_image() -> None:
    array = np.zeros((2, 4, 6))
    array[:, 2:] = 7
    assert image_box(array) == ((0, 0), (4, 6))


def test_what_is_filled_in_goes_on_as_the_last_line() -> None:
    image, body = trunk(5)
    array = masked(image, body)
    array[:, 60:] = 0
    box = image_box(array)
    shown = extended(array, box)
    np.testing.assert_array_equal(shown[:, :60], array[:, :60])
    np.testing.assert_array_equal(shown[:, 60:], np.broadcast_to(array[:, 59:60], shown[:, 60:].shape))
    assert extended(image, WHOLE) is image


@settings(max_examples=50, deadline=None)
@given(
    first=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    spacing=st.floats(0.5, 4),
)
def test_a_box_on_another_grid_holds_the_voxels_with_their_centre_in_it(
    first: tuple[int, int], size: tuple[int, int], spacing: float
) -> None:
    old = Geometry((20, 20, 2), (1.5, 2.5, 3.0), (7.0, -3.0, 1.0))
    new = old.resized((spacing, 1.7, 3.0))
    assert box_on(old, (first, size), old) == (first, size)
    (_, left), (rows, columns) = box_on(new, (first, size), old) or pytest.fail("the axes run alike")
    centres = old.to_index(new.to_physical(np.array([[k, 0, 0] for k in range(new.size_xyz[0])])))[:, 0]
    inside = np.flatnonzero((centres > first[1] - 0.5 + 1e-3) & (centres < first[1] + size[1] - 0.5 - 1e-3))
    if inside.size:
        assert left <= inside[0] <= left + 1
        assert left + columns - 2 <= inside[-1] <= left + columns - 1
    assert rows >= 1
    turned = Geometry((20, 20, 2), (1.5, 2.5, 3.0), (0, 0, 0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    assert box_on(turned, (first, size), old) is None


def test_a_dark_line_at_the_border_is_skin_or_air() -> None:
    """A mask one voxel wider than the body that touches the border: nothing is cut; bright tissue there is."""
    image = np.zeros((3, 40, 60), np.float32)
    image[:, :, 10:50] = 500
    body = image > 0
    assert cut_lines(body, image, 0.0)[:, 0].any()
    image[:, 0] = 4
    assert not cut_lines(body, image, 0.0)[:, 0].any()
    assert cut_lines(body, image, 0.0)[:, -1].any()


# --- the scale of a cut body ---------------------------------------------------------------------------------------------


def test_an_uncut_body_has_no_weights() -> None:
    image, body = trunk(6)
    assert find_outline(image, body, WHOLE, (3, 2, 2)) is None


def test_the_rim_that_is_left_counts_for_the_whole_outline() -> None:
    _, y, x = np.indices(SHAPE)
    body = np.hypot(y - 45, x - 55) < 40
    part = np.s_[:, :, 55:]  # a half: the cut is a diameter
    outline = find_outline(np.where(body, 100.0, 0.0)[part], body[part], ((0, 0), (90, 55)), (3, 1, 1))
    assert outline is not None
    assert outline.cut == pytest.approx(2 / (2 + np.pi), abs=0.03)
    depth = 40 - np.hypot(y - 45, x - 55)[part]
    assert outline.weights[body[part] & (depth > 7)].max() == 1
    assert outline.weights[body[part] & (depth < 3)].min() == pytest.approx(1 + 2 / np.pi, abs=0.05)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.floats(0, 100))
def test_weighted_percentiles(values: list[float], wanted: float) -> None:
    """With equal weights those of NumPy; a voxel that counts twice is two voxels, between the places of both."""
    array = np.array(values)
    (found,) = percentiles(array, np.ones(array.size), (wanted,))
    assert found == pytest.approx(float(np.percentile(array, wanted)), abs=1e-6)
    (doubled,) = percentiles(array, np.full(array.size, 2.0), (wanted,))
    assert doubled == pytest.approx(found, abs=1e-6)


# --- real images -----------------------------------------------------------------------------------------------------------

UNCUT = (
    "abdomen_ct/ct.nii.gz",
    "abdomen_ct_crlm_1004/ct.nii.gz",
    "hn_ct_openkbp_109/ct.nii.gz",
    "abdomen_mr_t2/scan_001_t2.nii.gz",
    "head_mr_fernando_t2/t2.nii.gz",
    "abdomen_mr/mr.nii.gz",
)
CUT = ("thorax_ct/ct.nii.gz", "pair_mrct_sts_044/mr_t1.nii.gz")


def real(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Image and body, axial, and the value of its air."""
    path = DATA / name
    if not path.is_file():
        pytest.skip("the shared images aren't here")
    task = Task.CBCT if "ct.nii" in name else Task.MRI
    image = orient(read_volume(path))
    image = image.with_array(image.array.astype(np.float32))
    return image.array, orient(body_mask(image, task)).array, -1000.0 if task is Task.CBCT else 0.0


@pytest.mark.parametrize("name", [*UNCUT, *CUT], ids=lambda n: n.split("/")[0])
def test_real_bodies_with_masked_air(name: str) -> None:
    """Around a masked body with its own skin nothing is an end; a body that was cut on four sides ends at each."""
    image, body, air = real(name)
    array = np.pad(masked(image, body, air), ((0, 0), (12, 12), (20, 20)), constant_values=air)
    wanted = ((12, 20), image.shape[1:]) if name in CUT else ((0, 0), array.shape[1:])
    assert image_box(array) == wanted


@pytest.mark.parametrize("name", ["abdomen_mr/mr.nii.gz", "abdomen_mr_t2/scan_001_t2.nii.gz"])
def test_the_body_of_a_real_image_with_filled_borders(name: str) -> None:
    """Four sides cut off and filled with zeros: the mask is that of the image without them, up to the filled edge."""
    image, body, _ = real(name)
    rows, columns = (np.flatnonzero(body.any(axis=(0, 3 - k))) for k in (1, 2))
    seen = tuple(slice(int(n[0]) + n.size // 10, int(n[-1]) + 1 - n.size // 10) for n in (rows, columns))
    part = (slice(None), *seen)
    filled = np.zeros_like(image)
    filled[part] = image[part]
    spacing = (3.0, 3.0, 3.0) if name.startswith("abdomen_mr/") else (1.4, 1.4, 8.0)
    mask = body_mask(Volume(filled, Geometry(image.shape[::-1], spacing)), Task.MRI).array
    assert image_box(filled) == ((seen[0].start, seen[1].start), image[part].shape[1:])
    assert dice(mask, body & (filled != 0) | mask & body) > 0.97
    assert not np.delete(mask.any(axis=(0, 1)), np.arange(*seen[1].indices(mask.shape[2]))).any()


def test_added_zeros_do_not_change_the_body_that_they_cut() -> None:
    """The threshold between noise and tissue is that of the image, however much was filled in around it."""
    path = DATA / "pair_mrct_sts_044" / "mr_t1.nii.gz"
    if not path.is_file():
        pytest.skip("the shared images aren't here")
    image = orient(read_volume(path))
    wide = np.pad(image.array, ((0, 0), (30, 30), (40, 40)))
    grid = image.geometry.cropped((-40, -30, 0), wide.shape[::-1])
    found = body_mask(Volume(wide, grid), Task.MRI).array
    np.testing.assert_array_equal(found[:, 30:-30, 40:-40], body_mask(image, Task.MRI).array)
    assert found.sum() == found[:, 30:-30, 40:-40].sum()
