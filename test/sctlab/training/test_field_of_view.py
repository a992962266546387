"""Patches of scans that end in the body: what they show is what inference prepares of the cut image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sctlab.training.cache import PreparedCase
from sctlab.training.dataset import PatchDataset
from sctlab.training.field_of_view import LEAST_VOXELS, FieldOfView
from sctlab.training.plan import Patch
from sctlab_model.cases import Task
from sctlab_model.preparation import prepare, prepare_target, stack_indices
from sctlab_model.recipe import Canvas, Recipe
from sctlab_model.volume import Geometry, Volume


@pytest.mark.parametrize("edges", ["air", "blank", "mirror"])
def test_a_cut_patch_is_what_inference_prepares_of_the_cut_image(tmp_path: Path, edges: str) -> None:
    """The image is cut, prepared and looked for among the patches: source, target and mask must be the same there."""
    rng = np.random.default_rng(0)
    shape = (8, 64, 64)
    grid = Geometry(shape[::-1], (2.0, 2.0, 3.0))
    body = np.zeros(shape, bool)
    body[:, 4:60, 4:60] = True
    hu = np.where(body, rng.integers(-200, 900, shape), rng.integers(-1010, -990, shape)).astype(np.float32)
    recipe = Recipe(
        task=Task.CBCT,
        spacing_xyz=(2, 2, 3),
        normalisation={"kind": "range", "lower": -1024, "upper": 2000},
        canvas=Canvas(margin=4, minimum_yx=(64, 64), cut_edges=edges),
    )
    prepared = prepare(Volume(hu, grid), Volume(body, grid), recipe)
    case = _stored(tmp_path, prepared.source, prepare_target(Volume(hu, grid), prepared, recipe), prepared.mask)
    dataset = PatchDataset(
        [case],
        Patch(size_yx=(64, 64), batch=40, flip_x=0, flip_y=0, cut_field_of_view=1.0),
        5,
        (0,),
        canvas=recipe.canvas,
    )
    batch = dataset[0]
    cuts = 0
    for k in range(40):
        # the same draws again, to know the box
        draws = np.random.default_rng([0, 0, k])
        draws.integers(1)
        z, y, x = case.body_voxel(int(draws.integers(case.voxels[-1])))
        view_rng = np.random.default_rng([0, 0, k, 3])
        view_rng.random()
        view = FieldOfView.draw(shape, (z, z), y, x, 2, view_rng)
        box = tuple(slice(a, b) for a, b in zip(view.first, view.last, strict=True))
        small = grid.cropped(view.first[::-1], tuple(b - a for a, b in zip(view.first, view.last, strict=True))[::-1])
        seen = prepare(Volume(hu[box], small), Volume(body[box], small), recipe)
        target = prepare_target(Volume(hu[box], small), seen, recipe)
        slices = stack_indices(seen.source.shape[0], 5)[z - view.first[0]]
        np.testing.assert_array_equal(batch.source[k].numpy(), seen.source[slices])
        np.testing.assert_array_equal(batch.target[k, 0].numpy(), target[z - view.first[0]])
        np.testing.assert_array_equal(batch.mask[k, 0].numpy(), seen.mask[z - view.first[0]])
        cuts += seen.mask.sum() < body.sum()
    assert cuts > 30


def test_boxes_keep_the_voxel_and_something_around_it_and_cut_every_side() -> None:
    shape, (y, x) = (20, 64, 96), (30, 10)
    views = [FieldOfView.draw(shape, (6, 9), y, x, 2, np.random.default_rng(k)) for k in range(400)]
    first, last = np.array([v.first for v in views]), np.array([v.last for v in views])
    assert (first[:, 1] <= y - LEAST_VOXELS).all()
    assert (first[:, 2] == 0).all()  # too close to the border to be cut on that side
    assert (last[:, 1:] > (y + LEAST_VOXELS, x + LEAST_VOXELS)).all()
    assert (first >= 0).all()
    assert (last <= shape).all()
    assert set(first[:, 0]) == {0, 4, 5, 6}  # one end, near enough to be seen by the network
    assert set(last[:, 0]) == {20, 10, 11, 12}
    assert not ((first[:, 0] > 0) & (last[:, 0] < 20)).any()
    for cut in (first[:, 1] > 0, last[:, 1] < 64, last[:, 2] < 96, (first[:, 0] > 0) | (last[:, 0] < 20)):
        assert 0.35 < cut.mean() < 0.6


def test_so_many_are_cut_and_the_others_stay_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shape = (6, 64, 64)
    case = _stored(tmp_path, rng.random(shape, np.float32), rng.random(shape, np.float32), np.ones(shape, bool))
    canvas = Canvas(minimum_yx=(64, 64))
    patch = Patch(size_yx=(64, 64), batch=300)
    plain = PatchDataset([case], patch, 3, (0,), canvas=canvas)[0]
    some = PatchDataset([case], patch.changed(cut_field_of_view=0.3), 3, (0,), canvas=canvas)[0]
    same = (plain.source == some.source).flatten(1).all(1) & (plain.mask == some.mask).flatten(1).all(1)
    assert 0.6 < same.float().mean() < 0.8
    assert (some.source[~same] == -1).flatten(1).any(1).float().mean() > 0.8


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="cut_field_of_view"):
        Patch(cut_field_of_view=1.5)


def _stored(folder: Path, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> PreparedCase:
    arrays = {"source": source, "target": target, "mask": mask, "voxels": np.cumsum(mask.sum(axis=2).ravel())}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "case.json").write_text('{"outside": -1.0}')
    return PreparedCase.open("case", folder)
