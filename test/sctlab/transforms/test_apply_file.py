"""Applying a transform file: what lies outside the image, and inverses of images and points."""

from pathlib import Path

import numpy as np
import pytest

from sctlab.transforms.apply_file import apply_file
from sctlab.transforms.data import BSplineTransform, EulerTransform, Transform, compose
from sctlab.transforms.elastix_writing import write_elastix
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

FIXED = Geometry((20, 20, 20), (4, 4, 4))
MOVING = Geometry((24, 24, 24), (4, 4, 4), (-20, -8, -8))
RIGID = EulerTransform((0, 0, 0.05), (20.0, 0, 0))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A transform that states -1024 (of a CT), and images on both grids."""
    rng = np.random.default_rng(0)
    values = {
        "mr": (FIXED, rng.integers(0, 300, FIXED.shape_zyx)),
        "ct": (MOVING, rng.integers(-1000, 300, MOVING.shape_zyx)),
        "labels": (MOVING, rng.integers(1, 9, MOVING.shape_zyx)),
    }
    for name, (grid, array) in values.items():
        write_volume(Volume(array.astype(np.int16), grid), tmp_path / f"{name}.mha")
    transform = write_elastix(RIGID, tmp_path, FIXED, default_value=-1024)[-1]
    return {name: tmp_path / f"{name}.mha" for name in values} | {"transform": transform, "out": tmp_path / "out.mha"}


@pytest.mark.parametrize(
    ("image", "interpolation", "outside"),
    [("ct", "safe", -1024), ("ct", "nearest", -1024), ("labels", "nearest", 0)],
)
def test_what_lies_outside_gets_the_value_of_its_kind(files, image: str, interpolation: str, outside: int) -> None:
    lines = list(apply_file(files["transform"], files[image], files["out"], interpolation=interpolation))
    assert f"{outside} elsewhere" in lines[-1]
    result = read_volume(files["out"]).array
    assert result[0, 0, -1] == outside  # 20 mm further along x the image has ended


def test_an_inverse_ignores_the_value_that_was_made_for_the_moving_image(files) -> None:
    lines = list(apply_file(files["transform"], files["mr"], files["out"], like=files["ct"], inverse=True))
    assert "0 elsewhere" in lines[-1]
    assert read_volume(files["out"]).array.min() == 0


def points_back(transform: Transform, points: np.ndarray, folder: Path) -> tuple[list[str], np.ndarray]:
    """What `apply --inverse` says, and the points [n, 3] that it writes."""
    path = write_elastix(transform, folder, FIXED)[-1]
    np.savetxt(folder / "p.csv", points, delimiter=",")
    lines = list(apply_file(path, folder / "p.csv", folder / "q.csv", inverse=True))
    return lines, np.loadtxt(folder / "q.csv", delimiter=",", skiprows=1, ndmin=2)


def test_the_inverse_of_points_needs_no_grid(tmp_path, samples) -> None:
    """Inside the deformation, and 1 m beside it, where only the rigid part moves a point."""
    transform = compose(samples[2](FIXED, 6.0), RIGID)
    points = np.array([[38.0, 38, 38], [60, 20, 50], [-1000, 38, 38]])
    lines, found = points_back(transform, points, tmp_path)
    assert "none found for 0 of 3 points" in lines[0]
    np.testing.assert_allclose(transform(found), points, atol=2e-3)
    assert np.abs(found - points)[2].max() > 10


def test_points_without_an_inverse_are_counted_and_not_invented(tmp_path) -> None:
    """A spline that moves everything by 60 mm and ends at x = -40 leaves a gap from there to 20 mm."""
    knots = Geometry((8, 8, 8), (20, 20, 20), (-40, -40, -40))
    coefficients = np.zeros((3, 8, 8, 8))
    coefficients[0] = 60.0
    torn = BSplineTransform(knots, coefficients, order=1)
    lines, found = points_back(torn, np.array([[0.0, 30, 30], [60, 30, 30]]), tmp_path)
    assert "none found for 1 of 2 points" in lines[0]
    assert lines[1].startswith(f"{tmp_path / 'q.csv'}: 1 points moved by 60.00 mm")
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], (0, 30, 30), atol=2e-3)


@pytest.mark.parametrize("name", ["ct", "mr", "transform"])
def test_a_result_never_replaces_an_input(files: dict[str, Path], name: str) -> None:
    link = files[name].with_name(f"link{files[name].suffix}")
    link.symlink_to(files[name])
    before = files[name].read_bytes()
    for out in (files[name], link):
        with pytest.raises(InputError, match="would replace this input"):
            list(apply_file(files["transform"], files["ct"], out, like=files["mr"]))
    assert files[name].read_bytes() == before
