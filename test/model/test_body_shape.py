"""Bodies of several parts, on boards, and with lungs that the image's border cuts open."""

from __future__ import annotations

import numpy as np
import pytest

from sctlab_model.body import body_mask
from sctlab_model.cases import Task
from sctlab_model.overlap import dice
from sctlab_model.volume import Geometry, Volume

# Soft tissue and air by task
LEVELS = {Task.CBCT: (30.0, -1000.0), Task.MRI: (400.0, 8.0)}


def scan(array: np.ndarray) -> Volume:
    return Volume(np.ascontiguousarray(array, dtype=np.float32), Geometry(array.shape[::-1], (3, 3, 4)), "scan")


def discs(*circles: tuple[float, float, float], shape: tuple[int, int, int] = (10, 90, 170)) -> np.ndarray:
    """bool [z, y, x] of circles (x, y, radius in voxels)."""
    y, x = np.indices(shape[1:])
    plane = np.zeros(shape[1:], bool)
    for cx, cy, radius in circles:
        plane |= np.hypot(x - cx, y - cy) < radius
    return np.repeat(plane[None], shape[0], 0)


def imaged(body: np.ndarray, task: Task) -> np.ndarray:
    tissue, air = LEVELS[task]
    noise = np.random.default_rng(0).standard_normal(body.shape)
    image = np.where(body, tissue + 0.1 * (tissue - air) * noise, air + 0.01 * (tissue - air) * noise)
    return np.abs(image) if task is Task.MRI else image


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("circles", [((45, 45, 28), (115, 45, 28)), ((85, 45, 34), (30, 45, 12), (140, 45, 12))])
def test_legs_and_arms_apart(task: Task, circles: tuple[tuple[float, float, float], ...]) -> None:
    """Only the largest of the parts was the body, and nothing said so."""
    body = discs(*circles)
    assert dice(body_mask(scan(imaged(body, task)), task).array, body) > 0.98


def test_what_a_patient_lies_beside_is_no_arm() -> None:
    """A block of foam, and a rod of plastic."""
    body = discs((85, 45, 34))
    image = imaged(body, Task.CBCT)
    image[discs((30, 45, 12))] = -650
    image[discs((140, 45, 4))] = 100
    assert dice(body_mask(scan(image), Task.CBCT).array, body) > 0.98


@pytest.mark.parametrize("gap", [0, 1])
def test_a_board_that_touches_the_back(gap: int) -> None:
    body = discs((85, 45, 34))
    image = imaged(body, Task.CBCT)
    board = np.zeros(body.shape, bool)
    board[:, 79 + gap : 83 + gap, 8:-8] = True
    image[board & ~body] = -50
    found = body_mask(scan(image), Task.CBCT)
    assert dice(found.array, body) > 0.97
    assert any("board" in n for n in found.notes) is (gap == 0)  # one that is apart is no part of the body anyhow
    assert not body_mask(scan(imaged(body, Task.CBCT)), Task.CBCT).notes


def test_lungs_that_the_border_of_an_mr_cuts() -> None:
    """As dark as air: told by ribs on three sides of them, and said to be doubtful."""
    y, x = np.indices((90, 150))
    body = np.repeat((((x - 75) / 68) ** 2 + ((y - 45) / 38) ** 2 < 1)[None], 10, 0)
    lungs = np.repeat((np.hypot((x - 43) / 22, (y - 45) / 24) < 1)[None], 10, 0)
    lungs |= lungs[:, :, ::-1]
    image = imaged(body & ~lungs, Task.MRI)
    whole = body_mask(scan(image), Task.MRI)
    assert dice(whole.array, body) > 0.98
    assert not whole.notes
    cut = body_mask(scan(image[:, :, 30:120]), Task.MRI)
    assert dice(cut.array, body[:, :, 30:120]) > 0.98
    assert "look at the computed body mask" in cut.notes[0]


def test_soft_tissue_and_bone_alone_are_no_offset() -> None:
    """A small field of view in a limb, filled up around: its bone was taken for tissue and its muscle for air."""
    inside = discs((45, 45, 40), shape=(8, 90, 90))
    rng = np.random.default_rng(0)
    image = np.where(discs((50, 50, 14), shape=(8, 90, 90)), rng.uniform(300, 1500, inside.shape), 40.0)
    image += 30 * rng.standard_normal(inside.shape)
    found = body_mask(scan(np.where(inside, image, -1024)), Task.CBCT)
    assert dice(found.array, inside) > 0.98
