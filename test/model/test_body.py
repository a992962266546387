"""The body mask: body in, couch and air out, whatever the orientation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


@pytest.fixture(params=[Task.CBCT, Task.MRI])
def scan(request: pytest.FixtureRequest, cbct: Volume, mr: Volume) -> tuple[Volume, Task]:
    return (cbct if request.param is Task.CBCT else mr), request.param


def test_the_trunk_without_the_couch_and_with_its_gas(scan: tuple[Volume, Task], outline: Volume) -> None:
    found = body_mask(*scan)
    assert found.array.dtype == bool
    assert found.geometry == scan[0].geometry
    assert dice(found.array, outline.array) > 0.95
    gas = (5, 14, 36)  # z, y, x
    assert outline.array[gas]
    assert found.array[gas]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_stored_along_any_axis(cbct: Volume, order: tuple[int, int, int]) -> None:
    """The same patient with another order of array axes: the same voxels belong to the body."""
    axes = [2 - k for k in order][::-1]  # x, y, z of the new grid, as axes of the old
    grid = Geometry(
        tuple(cbct.geometry.size_xyz[k] for k in axes), (6, 6, 6), (0, 0, 0), tuple(np.eye(3)[:, axes].ravel())
    )
    turned = body_mask(Volume(cbct.array.transpose(order), grid), Task.CBCT)
    np.testing.assert_array_equal(turned.array, body_mask(cbct, Task.CBCT).array.transpose(order))


@pytest.mark.parametrize("scale", [1e-3, 1, 50])
def test_the_scale_of_an_mr_does_not_matter(mr: Volume, scale: float) -> None:
    found = body_mask(mr.with_array(mr.array * scale), Task.MRI)
    assert dice(found.array, body_mask(mr, Task.MRI).array) > 0.999


def magnitude_image(rng: np.random.Generator, signal: np.ndarray, noise: float) -> Volume:
    """An MR of 2x2x3 mm [z, y, x] whose noise is Rician."""
    real, imaginary = rng.normal(0, noise, (2, *signal.shape))
    return Volume(np.hypot(signal + real, imaginary).astype(np.float32), Geometry(signal.shape[::-1], (2.0, 2.0, 3.0)))


def ellipse(shape: tuple[int, int, int], half_axes_yx: tuple[float, float], low: int = 0) -> np.ndarray:
    """A cylinder [z, y, x] from slice `low` on, about the middle of every slice."""
    z, y, x = np.indices(shape)
    middle = [(n - 1) / 2 for n in shape[1:]]
    inside = ((y - middle[0]) / half_axes_yx[0]) ** 2 + ((x - middle[1]) / half_axes_yx[1]) ** 2 <= 1
    return inside & (z >= low)


@pytest.mark.parametrize("fluid", [200.0, 400.0, 4000.0])
def test_fluid_far_brighter_than_all_else_is_not_the_body(fluid: float) -> None:
    """A heavily T2-weighted image (MR urography): the bladder alone lay above the threshold, and the patient was called air."""
    rng = np.random.default_rng(3)
    shape = (30, 110, 150)
    body, muscles, gut = ellipse(shape, (40, 62)), ellipse(shape, (28, 48)), ellipse(shape, (8, 12))
    bladder = ellipse(shape, (15, 20), low=20)
    signal = np.select([bladder, gut, muscles, body], [fluid, 85.0, 30.0, 22.0])
    assert dice(body_mask(magnitude_image(rng, signal, 3.0), Task.MRI).array, body) > 0.9


def test_a_limb_in_noise_stays_a_limb() -> None:
    """Little of the image is bright, as above, but what lies around is even noise."""
    rng = np.random.default_rng(4)
    shape = (30, 150, 150)
    limb = ellipse(shape, (15, 16))
    assert limb.mean() < 0.04
    assert dice(body_mask(magnitude_image(rng, np.where(limb, 300.0, 0.0), 12.0), Task.MRI).array, limb) > 0.9


def test_fine_grids_give_the_same_body(cbct: Volume, outline: Volume) -> None:
    fine = Volume(
        cbct.array.repeat(4, 1).repeat(4, 2), replace(cbct.geometry, size_xyz=(240, 192, 10), spacing_xyz=(1.5, 1.5, 6))
    )
    assert dice(body_mask(fine, Task.CBCT).array, outline.array.repeat(4, 1).repeat(4, 2)) > 0.95


@pytest.mark.parametrize("shape", [(1, 48, 60), (10, 1, 60), (2, 2, 2), (1, 1, 1), (3, 48, 7)])
def test_thin_volumes(cbct: Volume, shape: tuple[int, int, int]) -> None:
    """A mask, or a clear refusal of what is tissue alone, which an image in other units might be, too."""
    array = cbct.array[: shape[0], 24 - shape[1] // 2 :, 30 - shape[2] // 2 :][:, : shape[1], : shape[2]]
    volume = Volume(array, Geometry(shape[::-1], (6, 6, 6)), "thin")
    if array.size < 10:
        with pytest.raises(InputError, match="can't be told apart"):
            body_mask(volume, Task.CBCT)
    else:
        assert body_mask(volume, Task.CBCT).array.any()


@pytest.mark.parametrize("task", list(Task))
def test_images_without_a_body_are_refused(task: Task) -> None:
    grid = Geometry((30, 30, 5), (5, 5, 5))
    for value in (-1000, 0) if task is Task.MRI else (-1000,):
        with pytest.raises(InputError, match="body"):
            body_mask(Volume(np.full(grid.shape_zyx, value), grid, "air"), task)


@pytest.mark.parametrize(
    ("name", "labels", "task"),
    [
        ("abdomen_ct/ct.nii.gz", "abdomen_ct/labels.nii.gz", Task.CBCT),
        ("abdomen_mr/mr.nii.gz", "abdomen_mr/labels.nii.gz", Task.MRI),
    ],
)
def test_every_organ_of_a_real_scan_lies_in_the_body(shared_data: Path, name: str, labels: str, task: Task) -> None:
    source, organs = read_volume(shared_data / name), read_volume(shared_data / labels).array > 0
    body = body_mask(source, task).array
    assert (organs & body).sum() > 0.995 * organs.sum()
    assert 0.3 < body.mean() < 0.95
    inside, outside = source.array[body].mean(), source.array[~body].mean()
    assert inside > 4 * outside if task is Task.MRI else outside < -800 < inside


@pytest.mark.parametrize(
    ("task", "inside", "around"),
    [(Task.CBCT, 0, -1000), (Task.CBCT, 40, -1024), (Task.CBCT, 1064, 0), (Task.MRI, 500, 0), (Task.MRI, 1, 0)],
)
@pytest.mark.parametrize("shape", ["disc", "box", "ball", "small"])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_phantom_in_air_of_one_value_is_a_body(
    task: Task, inside: float, around: float, shape: str, noise: float
) -> None:
    """It looks like a field of view that software has filled in around; but what is of one material holds no air to find."""
    z, y, x = np.ogrid[:14, :64, :64]
    phantom = {
        "disc": (y - 31.5) ** 2 + (x - 31.5) ** 2 + 0 * z < 22**2,
        "box": (abs(y - 31) < 18) & (abs(x - 31) < 22) & (z >= 0),
        "ball": (y - 31.5) ** 2 + (x - 31.5) ** 2 + (3 * (z - 7)) ** 2 < 24**2,
        "small": (y - 20) ** 2 + (x - 25) ** 2 + 0 * z < 10**2,
    }[shape]
    water = inside + noise * (inside - around) * np.random.default_rng(0).standard_normal(phantom.shape)
    image = np.where(phantom, water, around).astype(np.float32)
    found = body_mask(Volume(image, Geometry((64, 64, 14), (3, 3, 3))), task).array
    assert 2 * (found & phantom).sum() / (found.sum() + phantom.sum()) > 0.98
