"""Preparation and the way back: an identity network returns the source, in any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sctlab_model.errors import InputError
from sctlab_model.network.settings import ResidualUNet3DSettings
from sctlab_model.preparation import (
    canvas_box,
    hu_to_unit,
    normalise,
    orient,
    prepare,
    prepare_target,
    restore,
    stack_indices,
    unit_to_hu,
)
from sctlab_model.recipe import Canvas, PercentileNormalisation, RangeNormalisation, Recipe, ZScoreNormalisation
from sctlab_model.volume import Geometry, Volume

# Source and target by the same linear rule: the network that returns its middle slice is the identity in HU.
LINEAR = Recipe(
    task="cbct", normalisation=RangeNormalisation(lower=-1024, upper=3071), canvas=Canvas(minimum_yx=(32, 32))
)
SHALLOW = ResidualUNet3DSettings(features=(4, 4, 4, 4))  # takes a canvas of multiples of 8
SIGNED_PERMUTATIONS = [
    tuple((np.eye(3)[:, list(order)] * signs).ravel())
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    for signs in ((1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1), (1, -1, -1))
]


def identity_round_trip(source: Volume, mask: Volume, recipe: Recipe) -> Volume:
    prepared = prepare(source, mask, recipe)
    return restore(unit_to_hu(prepared.source, recipe), prepared.without_source(), recipe)


def wave(grid: Geometry, wavelength_mm: float = 120.0) -> np.ndarray:
    """A smooth pattern in physical space, -300 to 300 HU."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.size_xyz], indexing="ij"), -1).transpose(2, 1, 0, 3)
    phase = (grid.to_physical(index) - grid.centre_xyz) * (2 * np.pi / wavelength_mm)
    return 100 * (np.cos(phase[..., 0]) + np.sin(phase[..., 1]) + np.cos(phase[..., 2]))


def ellipsoid(grid: Geometry, share: float = 0.8) -> np.ndarray:
    """A mask around the grid's centre that fills `share` of every axis, and at least one voxel."""
    radius = 0
    for axis, n in enumerate(grid.shape_zyx):
        half = max(share * n / 2, 1)
        shape = [1, 1, 1]
        shape[axis] = n
        radius = radius + (((np.arange(n) - (n - 1) / 2) / half) ** 2).reshape(shape)
    return radius <= 1


@st.composite
def grids(draw: st.DrawFn, *, directions: st.SearchStrategy, spacings: st.SearchStrategy) -> Geometry:
    size = tuple(draw(st.integers(1, 14)) for _ in range(3))
    spacing = tuple(draw(spacings) for _ in range(3))
    origin = tuple(draw(st.integers(-300, 300)) for _ in range(3))
    return Geometry(size, spacing, origin, draw(directions))


PERMUTED = st.sampled_from(SIGNED_PERMUTATIONS)
ANY_ROTATION = st.tuples(*[st.integers(-180, 180)] * 3).map(
    lambda angles: tuple(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().ravel())
)
SLIGHT_TILT = st.tuples(*[st.integers(-4, 4)] * 3).map(
    lambda angles: tuple(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().ravel())
)


@given(grid=grids(directions=PERMUTED | SLIGHT_TILT, spacings=st.just(2.0)), data=st.data())
def test_identity_is_exact_when_nothing_is_resampled(grid: Geometry, data: st.DataObject) -> None:
    """Flips, permutations and tilts that are tolerated only reorder voxels: not one HU is lost."""
    recipe = LINEAR.model_copy(update={"spacing_xyz": (2.0 * data.draw(st.sampled_from([0.995, 1, 1.005])),) * 3})
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    source = Volume(random.integers(-2000, 4000, grid.shape_zyx).astype(np.int16), grid)
    mask = random.random(grid.shape_zyx) < 0.5
    mask.flat[random.integers(mask.size)] = True
    assert not prepare(source, Volume(mask, grid), recipe).resampled
    result = identity_round_trip(source, Volume(mask, grid), recipe)
    assert result.geometry == grid
    assert result.array.dtype == np.int16
    np.testing.assert_array_equal(result.array, np.where(mask, source.array.clip(-1024, 3071), -1024))


@settings(max_examples=150)
@given(grid=grids(directions=PERMUTED | ANY_ROTATION, spacings=st.sampled_from([1.0, 1.7, 3.0, 5.0])), data=st.data())
def test_identity_within_interpolation_error(grid: Geometry, data: st.DataObject) -> None:
    """A wave of 120 mm has slopes of 5 HU/mm an axis: linear interpolation errs by h^2/8 |f''| (6 HU at 5 mm) each way
    inside, and by up to half a voxel's slope in three axes where the body is thinner than the voxels."""
    spacing = data.draw(st.sampled_from([(1, 1, 3), (2, 2, 2), (3, 3, 3)]))
    recipe = LINEAR.model_copy(update={"spacing_xyz": spacing})
    source = Volume(wave(grid), grid)
    mask = Volume(ellipsoid(grid), grid)
    extent = np.array(grid.size_xyz) * grid.spacing_xyz
    thin = extent.min() <= 2 * max(spacing)
    try:
        result = identity_round_trip(source, mask, recipe)
    except InputError:
        assert thin  # two of the recipe's voxels thick or less: none of them may lie in the body
        return
    assert result.geometry == grid
    assert (result.array[~mask.array] == -1024).all()
    error = np.abs(result.array - source.array)
    assert error[mask.array].max() < 80
    deep = ellipsoid(grid, share=0.8 * max(0.0, 1 - 2 * 1.8 * max(spacing) / (0.8 * extent.min())))
    if not thin and extent.min() > 20:
        assert error[deep].max() < 25


def test_body_edges_do_not_bleed_into_the_result() -> None:
    """Interpolating back, voxels inside the mask must not mix with the air outside of it."""
    grid = Geometry((40, 40, 20), (1.5, 1.5, 4))
    mask = ellipsoid(grid)
    mask[:6] = False
    source = Volume(np.where(mask, 100.0, -1000.0), grid)
    result = identity_round_trip(Volume(np.full(grid.shape_zyx, 100.0), grid), Volume(mask, grid), LINEAR)
    np.testing.assert_allclose(result.array[mask], source.array[mask], atol=2)


@pytest.mark.parametrize("size", [(20, 16, 1), (1, 16, 9), (20, 1, 9), (2, 2, 2), (100, 7, 3)])
@pytest.mark.parametrize("spacing", [(1, 1, 3), (0.9, 1.1, 5)])
def test_thin_and_small_volumes(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    grid = Geometry(size, spacing)
    source = Volume(np.linspace(-500, 500, size[0]) * np.ones(grid.shape_zyx), grid)
    prepared = prepare(source, Volume(np.ones(grid.shape_zyx, bool), grid), LINEAR)
    assert min(prepared.source.shape[1:]) >= 32
    assert all(n % 32 == 0 for n in prepared.source.shape[1:])
    result = restore(unit_to_hu(prepared.source, LINEAR), prepared, LINEAR)
    step = 1000 / max(1, size[0] - 1)
    np.testing.assert_allclose(result.array, source.array, atol=1 + step)


# --- orientation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", SIGNED_PERMUTATIONS)
def test_orient_only_renames_voxels(direction: tuple[float, ...]) -> None:
    grid = Geometry((3, 4, 5), (1, 2, 3), (7, 8, 9), direction)
    volume = Volume(np.arange(60).reshape(5, 4, 3), grid)
    upright = orient(volume)
    np.testing.assert_allclose(upright.geometry.axes, np.eye(3), atol=1e-12)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in upright.geometry.size_xyz], indexing="ij"), -1).reshape(-1, 3)
    old = np.rint(grid.to_index(upright.geometry.to_physical(index))).astype(int)
    np.testing.assert_array_equal(upright.array[tuple(index.T[::-1])], volume.array[tuple(old.T[::-1])])


@pytest.mark.parametrize(("tilt", "resampled"), [(0, False), (9, False), (11, True), (45, True), (91, False)])
def test_steep_tilts_are_resampled_upright(tilt: float, resampled: bool) -> None:
    matrix = Rotation.from_euler("x", tilt, degrees=True).as_matrix()
    grid = Geometry((8, 9, 10), (2, 2, 2), (0, 0, 0), tuple(matrix.ravel()))
    recipe = LINEAR.model_copy(update={"spacing_xyz": (2, 2, 2)})
    prepared = prepare(Volume(wave(grid), grid), Volume(ellipsoid(grid), grid), recipe)
    assert prepared.resampled is resampled
    if resampled:
        np.testing.assert_array_equal(prepared.grid.axes, np.eye(3))


# --- canvas ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("canvas", "start", "size"),
    [
        (Canvas(margin=8, minimum_yx=(32, 32)), (2, 1), (64, 64)),  # box 20..48, 15..51 with margin 12..56, 7..59
        (Canvas(margin=0, minimum_yx=(32, 32), multiple=1), (18, 15), (32, 36)),
        (Canvas(margin=8, minimum_yx=(320, 320)), (-126, -127), (320, 320)),
        (Canvas(margin=100, minimum_yx=(32, 32)), (-14, -14), (128, 128)),
        (Canvas(crop="none", minimum_yx=(32, 32)), (-14, -14), (128, 128)),
        (Canvas(crop="none", minimum_yx=(32, 32), fixed_yx=(512, 512)), (-206, -206), (512, 512)),
        (Canvas(crop="none", minimum_yx=(32, 32), fixed_yx=(64, 64)), (-14, -14), (128, 128)),
    ],
)
def test_canvas_rules(canvas: Canvas, start: tuple[int, int], size: tuple[int, int]) -> None:
    mask = np.zeros((3, 100, 100), bool)
    mask[1, 20:48, 15:51] = True
    found_start, found_size = canvas_box(mask, canvas)
    assert found_size == (3, *size)
    assert found_start == (0, *start)


def test_the_whole_body_is_on_the_canvas_and_padding_is_air() -> None:
    grid = Geometry((50, 40, 6), (1, 1, 3))
    mask = np.zeros(grid.shape_zyx, bool)
    mask[2:4, 5:38, 0:50] = True
    prepared = prepare(Volume(wave(grid), grid), Volume(mask, grid), LINEAR)
    assert prepared.mask.sum() == mask.sum()
    assert (prepared.source[~prepared.mask] == -1).all()
    assert prepared.source.dtype == np.float32


# --- normalisation -------------------------------------------------------------------------------------------------------------


def test_percentiles_are_taken_over_the_mask_before_the_crop() -> None:
    random = np.random.default_rng(0)
    image = random.gamma(2, 100, (5, 30, 30)).astype(np.float32)
    mask = random.random(image.shape) < 0.4
    recipe = Recipe(task="mri", normalisation=PercentileNormalisation())
    out, statistics = normalise(image, mask, recipe, "mr")
    low, high = np.percentile(image[mask], (0, 99.5))
    assert statistics["lower"] == pytest.approx(low)
    assert statistics["upper"] == pytest.approx(high)
    np.testing.assert_allclose(out[mask], 2 * (image[mask].clip(low, high) - low) / (high - low) - 1, atol=1e-5)
    np.testing.assert_allclose(out[~mask], statistics["outside"], atol=1e-6)
    assert statistics["outside"] == pytest.approx(-1, abs=0.05)  # the fill, 0, lies at or below the minimum


def test_zscore() -> None:
    image = np.random.default_rng(0).normal(50, 7, (4, 20, 20)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[:, 3:18, 3:18] = True
    out, _ = normalise(image, mask, Recipe(task="mri", normalisation=ZScoreNormalisation()), "mr")
    assert out[mask].mean() == pytest.approx(0, abs=1e-4)
    assert out[mask].std() == pytest.approx(1, abs=1e-4)
    assert (out[~mask] == -2).all()


@pytest.mark.parametrize("settings_", [ZScoreNormalisation(), PercentileNormalisation()])
def test_a_source_without_contrast_in_the_mask_is_refused(settings_: object) -> None:
    grid = Geometry((8, 8, 4))
    image = np.zeros(grid.shape_zyx)
    image[0] = 7
    mask = np.ones(grid.shape_zyx, bool)
    mask[0] = False
    with pytest.raises(InputError):
        prepare(
            Volume(image, grid), Volume(mask, grid), Recipe(task="mri", normalisation=settings_, spacing_xyz=(1, 1, 1))
        )


def test_the_scale_of_an_mr_does_not_matter() -> None:
    grid = Geometry((12, 12, 4), (1, 1, 3))
    image = np.random.default_rng(0).gamma(2, 100, grid.shape_zyx)
    mask = Volume(ellipsoid(grid), grid)
    recipe = Recipe(task="mri", canvas=Canvas(minimum_yx=(32, 32)))
    once, twice = (prepare(Volume(image * k, grid), mask, recipe).source for k in (1, 17.5))
    np.testing.assert_allclose(once, twice, atol=1e-5)


# --- target, units, stacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "direction",
    [
        SIGNED_PERMUTATIONS[0],
        SIGNED_PERMUTATIONS[10],
        tuple(Rotation.from_euler("xyz", (20, 5, 9), degrees=True).as_matrix().ravel()),
    ],
)
@pytest.mark.parametrize("spacing", [(1, 1, 3), (2, 1.5, 4)])
def test_target_and_source_see_the_same_preparation(direction: tuple, spacing: tuple) -> None:
    """With one linear rule for both, the target of a source that is its own CT is the network's input."""
    grid = Geometry((24, 20, 9), spacing, (5, 6, 7), direction)
    image, mask = Volume(wave(grid), grid), Volume(ellipsoid(grid), grid)
    prepared = prepare(image, mask, LINEAR)
    np.testing.assert_allclose(prepare_target(image, prepared, LINEAR), prepared.source, atol=1e-5)
    with pytest.raises(InputError, match="register"):
        prepare_target(Volume(image.array, replace(grid, origin_xyz=(0, 0, 0))), prepared, LINEAR)


def test_units_are_inverse() -> None:
    hu = np.array([-1024, -1000, 0, 3071], np.float32)
    np.testing.assert_allclose(unit_to_hu(hu_to_unit(hu, LINEAR), LINEAR), hu, atol=1e-3)
    assert hu_to_unit(np.array([-5000, 9000]), LINEAR).tolist() == [-1, 1]


def test_restore_clips_and_rounds() -> None:
    grid = Geometry((32, 32, 1), (1, 1, 3))
    prepared = prepare(Volume(wave(grid), grid), Volume(np.ones(grid.shape_zyx, bool), grid), LINEAR)
    values = np.full(prepared.source.shape, 0.6, np.float32)
    values[0, 0, :2] = (-9000, 9000)
    result = restore(values, prepared, LINEAR).array
    assert result[0, 0, :3].tolist() == [-1024, 3071, 1]


@pytest.mark.parametrize(("slices", "count"), [(1, 5), (2, 5), (3, 5), (9, 5), (4, 7), (6, 1)])
def test_stacks_reflect_at_the_ends(slices: int, count: int) -> None:
    expected = (
        np.pad(np.arange(slices), count // 2, mode="reflect") if slices > 1 else np.zeros(1 + 2 * (count // 2), int)
    )
    found = stack_indices(slices, count)
    assert found.shape == (slices, count)
    for z in range(slices):
        assert found[z].tolist() == expected[z : z + count].tolist()


def test_masks_that_do_not_fit_are_refused() -> None:
    grid = Geometry((8, 8, 4))
    source = Volume(wave(grid), grid)
    with pytest.raises(InputError, match="empty"):
        prepare(source, Volume(np.zeros(grid.shape_zyx, bool), grid), LINEAR)
    with pytest.raises(InputError, match="grid"):
        prepare(source, Volume(np.ones(grid.shape_zyx, bool), replace(grid, spacing_xyz=(1, 1, 2))), LINEAR)


def test_a_grid_that_would_need_too_much_memory_is_refused() -> None:
    """512 voxels of 900 mm pass every check of the header; resampled to 1 mm they are a petabyte."""
    grid = Geometry((64, 64, 64), (900, 900, 900))
    source = Volume(np.random.default_rng(0).normal(size=grid.shape_zyx).astype(np.float32), grid)
    with pytest.raises(InputError, match="spacing"):
        prepare(source, Volume(np.ones(grid.shape_zyx, bool), grid), LINEAR)
