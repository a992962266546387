"""Geometry and resampling."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import sctlab_model.cases.types
import sctlab_model.io.writing
import sctlab_model.preparation
import sctlab_model.recipe
import sctlab_model.volume
from sctlab_model.volume import Geometry, Volume, resample


@st.composite
def grids(draw: st.DrawFn) -> Geometry:
    angles = [draw(st.integers(-180, 180)) for _ in range(3)]
    return Geometry(
        tuple(draw(st.integers(1, 40)) for _ in range(3)),
        tuple(draw(st.sampled_from([0.5, 1.0, 1.7, 3.0, 5.0])) for _ in range(3)),
        tuple(draw(st.integers(-500, 500)) for _ in range(3)),
        tuple(Rotation.from_euler("xyz", angles, degrees=True).as_matrix().ravel()),
    )


@given(grid=grids(), index=st.tuples(*[st.floats(-5, 50)] * 3))
def test_points_agree_with_sitk_and_come_back(grid: Geometry, index: tuple[float, float, float]) -> None:
    image = Volume(np.zeros(grid.shape_zyx, np.uint8), grid).to_sitk()
    point = grid.to_physical(np.array(index))
    np.testing.assert_allclose(point, image.TransformContinuousIndexToPhysicalPoint(index), atol=1e-6)
    np.testing.assert_allclose(grid.to_index(point), index, atol=1e-6)
    back = Volume.from_sitk(image)
    assert back.geometry.same_grid(grid)


@given(grid=grids(), spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 2.5, 3.0])] * 3))
def test_resized_grids_cover_the_same_extent(grid: Geometry, spacing: tuple[float, float, float]) -> None:
    new = grid.resized(spacing)
    np.testing.assert_allclose(new.centre_xyz, grid.centre_xyz, atol=1e-6)
    old_extent, extent = (np.array(g.size_xyz) * g.spacing_xyz for g in (grid, new))
    assert (extent >= old_extent - 1e-4).all()
    assert (extent < old_extent + np.array(spacing)).all()
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in new.size_xyz])).reshape(3, -1).T
    inside = grid.to_index(new.to_physical(corners))
    assert (inside > -0.5 - 1e-4).all()
    assert (inside < np.array(grid.size_xyz) - 0.5 + 1e-4).all()


def test_cropped_grids_keep_their_voxels_in_place() -> None:
    grid = Geometry(
        (9, 8, 7), (1, 2, 3), (5, 6, 7), tuple(Rotation.from_euler("z", 30, degrees=True).as_matrix().ravel())
    )
    part = grid.cropped((2, -1, 3), (4, 4, 4))
    np.testing.assert_allclose(part.to_physical([0, 0, 0]), grid.to_physical([2, -1, 3]))
    assert part.spacing_xyz == grid.spacing_xyz
    assert not part.same_grid(grid)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 4)))
    with pytest.raises(ValueError, match="spacing_xyz has 2 values"):
        Geometry((2, 3, 4), (1, 1))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
def test_resampling_onto_the_same_grid_changes_nothing(dtype: type) -> None:
    grid = Geometry((5, 6, 7), (1, 2, 3))
    volume = Volume((np.arange(210).reshape(7, 6, 5) % 2).astype(dtype), grid)
    again = resample(volume, grid, interpolation="nearest")
    assert again.array.dtype == dtype
    np.testing.assert_array_equal(again.array, volume.array)


def test_resampling_direction_and_outside() -> None:
    """The transform maps points of the new grid to points of the volume."""
    grid = Geometry((4, 1, 1))
    volume = Volume(np.array([[[10.0, 20, 30, 40]]]), grid)
    moved = resample(volume, grid, transform=sitk.TranslationTransform(3, (1.0, 0, 0)), outside=-1)
    assert moved.array.ravel().tolist() == [20, 30, 40, -1]


@pytest.mark.parametrize(
    "module",
    [
        sctlab_model.volume,
        sctlab_model.io.writing,
        sctlab_model.cases.types,
        sctlab_model.recipe,
        sctlab_model.preparation,
    ],
)
def test_examples_in_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0
