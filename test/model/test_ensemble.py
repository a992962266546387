"""The ensemble: batching is invisible, views are undone, empty slices are air."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab_model.backends import Backend, load_backend
from sctlab_model.bundle import read_bundle
from sctlab_model.ensemble import next_chunk, predict_volume, samples_that_fit
from sctlab_model.preparation import unit_to_hu
from sctlab_model.recipe import Recipe
from sctlab_model.window import Window

SHAPE = (13, 32, 64)


class Middle:
    """An identity network: the middle slice of every stack."""

    device = torch.device("cpu")
    description = "identity"
    batch_limit = None

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
        self.batches.append(len(stacks))
        return stacks[:, stacks.shape[1] // 2, None].clone()


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray]:
    """Normalised source and mask; two slices hold no body."""
    random = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[1:12, 5:30, 10:50] = True
    return (random.random(SHAPE, np.float32) * 2 - 1), mask


@pytest.fixture(scope="module")
def folds(cbct_bundle: Path) -> list[Backend]:
    bundle = read_bundle(cbct_bundle)
    return [
        load_backend(cbct_bundle, fold, bundle.recipe.network, torch.device("cpu")) for fold in bundle.groups[0].folds
    ]


def test_batching_changes_nothing(
    volume: tuple[np.ndarray, np.ndarray], folds: list[Backend], tiny_recipe: Recipe
) -> None:
    """Batches of 1 to 32, views one by one (1) or together (3 and more): at most 0.5 HU apart."""
    reference = predict_volume(*volume, folds, tiny_recipe, batch=1, spread=True)
    for batch in (3, 7, 32, None):
        found = predict_volume(*volume, folds, tiny_recipe, batch=batch, spread=True)
        assert np.abs(found.hu - reference.hu).max() <= 0.5
        assert np.abs(found.spread_hu - reference.spread_hu).max() <= 0.5
    assert reference.hu[1:12].std() > 5


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 32])
def test_views_are_flipped_back(volume: tuple[np.ndarray, np.ndarray], tiny_recipe: Recipe, batch: int) -> None:
    source, mask = volume
    recipe = tiny_recipe.model_copy(update={"views": ("identity", "flip_x", "flip_y", "flip_xy")})
    backend = Middle()
    found = predict_volume(source, mask, [backend], recipe, batch=batch, spread=True)
    np.testing.assert_allclose(found.hu[1:12], unit_to_hu(source, recipe)[1:12], atol=1e-3)
    np.testing.assert_allclose(found.spread_hu, 0, atol=1e-2)
    assert max(backend.batches) <= batch
    assert sum(backend.batches) == 11 * 4


def test_slices_without_body_are_air_and_not_run(volume: tuple[np.ndarray, np.ndarray], tiny_recipe: Recipe) -> None:
    seen = []
    found = predict_volume(
        *volume, [Middle()], tiny_recipe, batch=6, progress=lambda done, total: seen.append((done, total))
    )
    assert (found.hu[[0, 12]] == -1024).all()
    assert found.spread_hu is None
    assert seen[-1] == (11, 11)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_every_slice_sees_its_neighbours(tiny_recipe: Recipe) -> None:
    class Stack(Middle):
        def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
            return stacks[:, :1] * 0.01 + stacks[:, 1:2] * 0.1 + stacks[:, 2:3] * 0.001

    source = np.broadcast_to(np.arange(1.0, 6, dtype=np.float32)[:, None, None], (5, 32, 32)).copy()
    found = predict_volume(source, np.ones_like(source, bool), [Stack()], tiny_recipe).hu[:, 0, 0]
    before, here, after = np.array([2, 1, 2, 3, 4]), np.arange(1, 6), np.array([2, 3, 4, 5, 4])
    np.testing.assert_allclose(found, unit_to_hu(before * 0.01 + here * 0.1 + after * 0.001, tiny_recipe), atol=0.01)


def test_backends_are_asked_for_the_body_alone(tiny_recipe: Recipe) -> None:
    """In every view, slice by slice; what a backend leaves out is nowhere in the body."""

    class Sparing(Middle):
        def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
            assert window is not None
            areas.append(window.shape[0] * window.shape[1])
            result = torch.full((len(stacks), 1, *stacks.shape[2:]), torch.nan)
            result[window.part] = super().__call__(stacks)[window.part]
            return result

    areas: list[int] = []
    source = np.random.default_rng(0).random((5, 32, 64), np.float32)
    mask = np.zeros(source.shape, bool)
    mask[0, 3:9, 4:20] = mask[1, 30, 63] = mask[3, :, :] = True
    recipe = tiny_recipe.model_copy(update={"views": ("identity", "flip_x", "flip_y", "flip_xy")})
    found = predict_volume(source, mask, [Sparing()], recipe, batch=4).hu
    np.testing.assert_allclose(found[mask], unit_to_hu(source, recipe)[mask], atol=1e-3)
    assert areas == [(32 - 6) * (64 - 8), (32 - 2) * 64, 32 * 64]  # around the body and its mirror images


@pytest.mark.parametrize("total", [1, 2, 31, 32, 33, 64, 91, 100])
@pytest.mark.parametrize("most", [1, 3, 32])
def test_chunks_cover_every_slice_with_one_shape(total: int, most: int) -> None:
    for one_shape in (True, False):
        done, seen, lengths = 0, set(), []
        while done < total:
            first, last = next_chunk(done, total, most, one_shape=one_shape)
            assert done >= first < last <= total
            assert last - first <= most
            seen.update(range(first, last))
            lengths.append(last - first)
            assert last > done
            done = last
        assert seen == set(range(total))
        assert len(lengths) == -(-total // most)
        if one_shape:
            assert len(set(lengths)) == 1


def test_memory_that_runs_out_halves_the_batch(volume: tuple[np.ndarray, np.ndarray], tiny_recipe: Recipe) -> None:
    class Small(Middle):
        def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
            if len(stacks) > 5:
                raise torch.cuda.OutOfMemoryError("full")
            return super().__call__(stacks, window)

    found = predict_volume(*volume, [Small()], tiny_recipe, batch=32)
    assert found.batch <= 5
    np.testing.assert_allclose(found.hu[1:12], unit_to_hu(volume[0], tiny_recipe)[1:12], atol=1e-3)


def test_memory_that_is_too_small_for_one_sample_is_an_error(
    volume: tuple[np.ndarray, np.ndarray], tiny_recipe: Recipe
) -> None:
    class Full(Middle):
        def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict_volume(*volume, [Full()], tiny_recipe, batch=8)


@pytest.mark.parametrize("batch", [2, 3, 5, 8])
def test_every_call_has_one_shape(tiny_recipe: Recipe, batch: int) -> None:
    """A batch that doesn't hold whole slices in all their views, or their views in equal parts, is made smaller."""
    recipe = tiny_recipe.model_copy(update={"views": ("identity", "flip_x", "flip_y")})
    backend, source = Middle(), np.zeros((6, 32, 32), np.float32)
    found = predict_volume(source, np.ones_like(source, bool), [backend], recipe, batch=batch)
    assert len(set(backend.batches)) == 1
    assert found.batch <= batch


def test_a_gpus_result_is_read_after_its_copy_and_beside_the_next_chunk(
    volume: tuple[np.ndarray, np.ndarray], tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    class Watched(Middle):
        def __call__(self, stacks: torch.Tensor, window: Window | None = None) -> torch.Tensor:
            happened.append("computed")
            return super().__call__(stacks, window)

    class Copy:
        """A copy into pinned memory, whose values are there when its event has happened."""

        def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
            self.values = [t.clone() for t in tensors]
            self.fetched = [torch.full_like(t, torch.nan) for t in tensors]

        def synchronize(self) -> None:
            happened.append("fetched")
            for to, value in zip(self.fetched, self.values, strict=True):
                to.copy_(value)

    def later(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Copy]:
        copy = Copy(tensors)
        return copy.fetched, copy

    views = len(tiny_recipe.views)
    before = predict_volume(*volume, [Middle()], tiny_recipe, batch=4 * views, spread=True)
    monkeypatch.setattr("sctlab_model.ensemble.fetch_later", later)
    after = predict_volume(*volume, [Watched()], tiny_recipe, batch=4 * views, spread=True)
    np.testing.assert_array_equal(after.hu, before.hu)
    np.testing.assert_array_equal(after.spread_hu, before.spread_hu)
    chunks = happened.count("computed")
    assert chunks > 2
    assert happened == ["computed", *["computed", "fetched"] * (chunks - 1), "fetched"]


def test_what_tuning_took_is_set_aside() -> None:
    assert samples_that_fit(free=1000, tuning=10, running=10, most=96) == 70
    assert samples_that_fit(free=1000, tuning=310, running=10, most=96) == 40  # 300 of workspaces
    assert samples_that_fit(free=1000, tuning=10, running=10, most=32) == 32
    assert samples_that_fit(free=10, tuning=500, running=100, most=96) == 1
