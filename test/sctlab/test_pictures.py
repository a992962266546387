"""Pictures show the patient the way clinics do, whatever way the voxels of a file run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from sctlab.pictures import PLANES, Layer, save_planes, seen_labels
from sctlab_model.volume import Geometry, Volume

SIZE = (10, 8, 6)


@pytest.fixture
def patient() -> Volume:
    """Bright towards the patient's left, back and head; different along every axis."""
    z, y, x = np.indices(SIZE[::-1], dtype=np.float32)
    return Volume(x * x + 3 * y + 40 * (z > 3), Geometry(SIZE, (2.0, 3.0, 4.0)))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 1, 2), (2,)])
def test_a_flipped_file_gives_the_same_picture(patient: Volume, axes: tuple[int, ...], tmp_path: Path) -> None:
    index = np.array([2, 3, 4])
    direction, corner = np.eye(3), np.zeros(3)
    for axis in axes:
        direction[axis, axis] = -1
        corner[axis] = SIZE[axis] - 1
    grid = Geometry(SIZE, (2.0, 3.0, 4.0), tuple(patient.geometry.to_physical(corner)), tuple(direction.ravel()))
    flipped = Volume(np.flip(patient.array, [2 - axis for axis in axes]), grid)
    there = np.where([axis in axes for axis in range(3)], np.array(SIZE) - 1 - index, index)
    pictures = [
        matplotlib.image.imread(save_planes([Layer("a", volume, unit="HU")], tmp_path / f"{name}.png", index_xyz=at))
        for name, volume, at in (("straight", patient, index.tolist()), ("flipped", flipped, there.tolist()))
    ]
    assert np.array_equal(*pictures)


def test_axes_in_another_order_give_the_same_picture(patient: Volume, tmp_path: Path) -> None:
    turned = Volume(
        patient.array.transpose(1, 2, 0),  # index axes x, y, z run along the patient's z, x, y
        Geometry((6, 10, 8), (4.0, 2.0, 3.0), direction=(0, 1, 0, 0, 0, 1, 1, 0, 0)),
    )
    pictures = [
        matplotlib.image.imread(save_planes([Layer("a", volume)], tmp_path / f"{name}.png", index_xyz=at))
        for name, volume, at in (("straight", patient, (2, 3, 4)), ("turned", turned, (4, 2, 3)))
    ]
    assert np.array_equal(*pictures)


def test_labels_that_are_seen_are_named_in_colours_that_differ(tmp_path: Path) -> None:
    """The figure grows by what it names: labels of the planes, and no others."""
    array = np.zeros(SIZE[::-1], np.uint8)
    array[:, 4:], array[0, 0, 0] = 5, 3  # the last one lies in no plane through (2, 3, 4)
    labels = Volume(array, Geometry(SIZE, (2.0, 3.0, 4.0)))
    names = tuple(f"structure {k}" for k in range(38))
    seen = seen_labels([Layer("labels", labels, names=names)], PLANES, (2, 3, 4))
    assert list(seen) == ["structure 5"]
    every = np.arange(np.prod(SIZE), dtype=np.uint8).reshape(SIZE[::-1]) % 38
    colours = np.array(
        list(seen_labels([Layer("all", labels.with_array(every), names=names)], PLANES, (2, 3, 4)).values())
    )
    apart = np.abs(colours[:, None] - colours).max(-1)[~np.eye(len(colours), dtype=bool)]
    assert len(colours) > 30
    assert apart.min() > 0.3
    picture = matplotlib.image.imread(save_planes([Layer("labels", labels, names=names)], tmp_path / "a.png"))
    plain = matplotlib.image.imread(save_planes([Layer("labels", labels)], tmp_path / "b.png"))
    assert picture.shape[1] > plain.shape[1]
    found = np.abs(picture[..., :3] - seen["structure 5"]).max(-1) < 0.01
    assert found[:, : plain.shape[1]].any()  # in the plane, and
    assert found[:, plain.shape[1] :].any()  # beside its name
