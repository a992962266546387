"""Padding after flipping, and tiles above the fixed size."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from sctlab_model.framing import axis_tiles, run_framed
from sctlab_model.recipe import Canvas
from sctlab_model.window import Window

TILES = Canvas(
    crop="none",
    multiple=8,
    minimum_yx=(8, 8),
    fixed_yx=(32, 32),
    padding="end",
    pad_value=-1,
    flip_before_padding=True,
    larger="tiles",
)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 50, 63, 64, 65, 97, 100])
def test_tiles_cover_a_line_once(length: int) -> None:
    """Every voxel counts once; no tile starts behind the end; as few as cover it."""
    tiles = axis_tiles(length, TILES, 0)
    assert len(tiles) == -(-length // 32)
    at = 0
    for start, size, kept in tiles:
        assert (start, size) == (at, 32)
        assert 0 < kept <= 32
        at += kept
    assert at == length


@pytest.mark.parametrize("shape", [(20, 32), (32, 32), (40, 77), (70, 20)])
def test_an_identity_comes_back(shape: tuple[int, int]) -> None:
    stacks = torch.rand(2, 3, *shape)
    seen: list[torch.Tensor] = []

    def middle(frame: torch.Tensor, window: Window) -> torch.Tensor:
        seen.append(frame)
        return frame[:, 1:2].clone()

    assert torch.equal(run_framed(stacks, TILES, middle), stacks[:, 1:2])
    assert {tuple(f.shape[-2:]) for f in seen} == {(32, 32)}
    first = seen[0]
    assert torch.equal(first[..., : shape[0], : shape[1]], stacks[..., :32, :32])
    assert (first[..., shape[0] :, :] == -1).all()
    assert (first[..., shape[1] :] == -1).all()


def test_where_tiles_overlap_the_later_one_counts() -> None:
    """A network that answers with the number of its call."""
    calls = iter(range(4))

    def number(frame: torch.Tensor, window: Window) -> torch.Tensor:
        return torch.full((1, 1, 32, 32), float(next(calls)))

    found = run_framed(torch.zeros(1, 1, 40, 50), TILES, number)[0, 0]
    # starts 0 and 8 in y (32 - 24), 0 and 18 in x
    assert found[:8, :18].eq(0).all()
    assert found[:8, 18:].eq(1).all()
    assert found[8:, :18].eq(2).all()
    assert found[8:, 18:].eq(3).all()


@pytest.mark.parametrize("padding", ["centre", "end"])
@pytest.mark.parametrize("window", [Window(0, 70, 0, 45), Window(40, 41, 3, 9), Window(2, 12, 34, 44)])
def test_every_tile_is_asked_for_its_part_of_a_window(padding: str, window: Window) -> None:
    """A network that answers nothing outside of what it is asked for; a tile without a part of it isn't run."""
    canvas = TILES.model_copy(update={"padding": padding})
    stacks, asked = torch.rand(1, 1, 70, 45), []

    def answer(frame: torch.Tensor, part: Window) -> torch.Tensor:
        asked.append(part)
        result = torch.full_like(frame, torch.nan)
        result[part.part] = frame[part.part]
        return result

    found = run_framed(stacks, canvas, answer, window)
    assert torch.equal(found[window.part], stacks[window.part])
    area = window.shape[0] * window.shape[1]
    overlaps = 2 * 32 * 45 + 2 * 32 * 70  # tiles that overlap answer twice
    assert area <= sum(w.shape[0] * w.shape[1] for w in asked) <= area + overlaps
    assert len(asked) == len({tuple(vars(w).values()) for w in asked}) or window.shape == (70, 45)
    if window.shape != (70, 45):
        assert len(asked) < 6


def test_centred_frames_and_whole_planes() -> None:
    canvas = TILES.model_copy(update={"padding": "centre", "larger": "whole"})
    stacks = torch.rand(1, 1, 20, 41)
    frames: list[torch.Tensor] = []

    def keep(frame: torch.Tensor, window: Window) -> torch.Tensor:
        frames.append(frame)
        return frame

    assert torch.equal(run_framed(stacks, canvas, keep), stacks)
    assert tuple(frames[0].shape[-2:]) == (32, 48)
    assert torch.equal(frames[0][..., 6:26, 3:44], stacks)


def test_impossible_choices_are_refused() -> None:
    for wrong in (
        {"flip_before_padding": True},
        {"larger": "tiles", "fixed_yx": (64, 64)},
        {"larger": "tiles", "flip_before_padding": True, "pad_value": -1},
        {"larger": "tiles", "flip_before_padding": True, "pad_value": -1, "fixed_yx": (60, 64)},
    ):
        with pytest.raises(ValidationError):
            Canvas(**wrong)
