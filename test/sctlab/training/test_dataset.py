"""Patches: where they lie, what pads them, and that the iteration alone decides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from sctlab.training.batch import on_device
from sctlab.training.cache import PreparedCase
from sctlab.training.dataset import PatchDataset, batches
from sctlab.training.plan import Patch
from sctlab_model.recipe import Canvas


def make_case(tmp_path: Path, shape: tuple[int, int, int], name: str = "case") -> PreparedCase:
    """Source voxels say where they are: z + y / 100 + x / 10000; the target is its half."""
    z, y, x = np.indices(shape)
    source = (z + y / 100 + x / 10000).astype(np.float32)
    mask = np.zeros(shape, bool)
    mask[:, shape[1] // 4 : -shape[1] // 4, shape[2] // 4 : -shape[2] // 4] = True
    folder = tmp_path / name
    folder.mkdir()
    arrays = {"source": source, "target": source / 2, "mask": mask, "voxels": np.cumsum(mask.sum(axis=2).ravel())}
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    (folder / "case.json").write_text('{"outside": -7.0}')
    return PreparedCase.open(name, folder)


def positions(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, y, x that the voxels of a source say."""
    values = image.double().numpy()
    z = np.floor(values + 1e-6)
    y = np.floor((values - z) * 100 + 1e-3)
    return z, y, np.rint(((values - z) * 100 - y) * 100)


def test_samples_are_adjacent_slices_with_the_middle_as_target(tmp_path: Path) -> None:
    case = make_case(tmp_path, (9, 64, 96))
    dataset = PatchDataset([case], Patch(size_yx=(32, 64), batch=16, flip_x=0, flip_y=0), 5, (0,))
    for iteration in range(5):
        batch = dataset[iteration]
        assert batch.source.shape == (16, 5, 32, 64)
        assert batch.target.shape == batch.mask.shape == (16, 1, 32, 64)
        torch.testing.assert_close(batch.source[:, 2:3] / 2, batch.target)
        z, y, x = positions(batch.source)
        middle = z[:, 2, 0, 0]
        for k in range(5):
            wanted = np.abs(middle + k - 2)
            wanted = np.where(wanted > 8, 16 - wanted, wanted)  # reflected ends
            np.testing.assert_array_equal(z[:, k, 0, 0], wanted)
        assert ((y[:, 0, 1:, 0] - y[:, 0, :-1, 0]) == 1).all()
        assert ((x[:, 0, 0, 1:] - x[:, 0, 0, :-1]) == 1).all()


def test_patch_centres_are_uniform_over_the_body(tmp_path: Path) -> None:
    case = make_case(tmp_path, (4, 128, 128))
    dataset = PatchDataset([case], Patch(size_yx=(32, 32), batch=500, flip_x=0, flip_y=0), 1, (0,))
    _, y, x = positions(dataset[0].source[:, 0, 16, 16])
    inside = np.argwhere(case.mask[0])
    for found, wanted in ((y, inside[:, 0]), (x, inside[:, 1])):
        assert found.min() >= wanted.min()
        assert found.max() <= wanted.max()
        assert found.mean() == pytest.approx(wanted.mean(), abs=3)
        assert found.std() == pytest.approx(wanted.std(), rel=0.1)


def test_small_canvases_are_padded_with_air(tmp_path: Path) -> None:
    case = make_case(tmp_path, (3, 16, 40))
    batch = PatchDataset([case], Patch(size_yx=(32, 64), batch=4, flip_x=0, flip_y=0), 3, (0,))[0]
    inside = batch.source[:, :, 8:24, 12:52]
    assert (inside >= 0).all()
    padding = torch.ones_like(batch.source, dtype=torch.bool)
    padding[:, :, 8:24, 12:52] = False
    assert (batch.source[padding] == -7).all()
    assert (batch.target[padding[:, :1]] == -1).all()
    assert not batch.mask[padding[:, :1]].any()


def test_flips_hit_source_target_and_mask_alike(tmp_path: Path) -> None:
    case = make_case(tmp_path, (3, 32, 32))
    dataset = PatchDataset([case], Patch(size_yx=(32, 32), batch=200), 3, (0,))
    batch = dataset[0]
    torch.testing.assert_close(batch.source[:, 1:2] / 2, batch.target)
    _, y, x = positions(batch.source[:, 1])
    flipped = np.stack([y[:, 0, 0] > y[:, -1, 0], x[:, 0, 0] > x[:, 0, -1]])
    assert 0.4 < flipped.mean(axis=1).min() <= flipped.mean(axis=1).max() < 0.6
    assert 0.15 < (flipped[0] & flipped[1]).mean() < 0.35  # the two are independent


def test_slabs_are_adjacent_slices_at_one_place(tmp_path: Path) -> None:
    case = make_case(tmp_path, (9, 64, 64))
    dataset = PatchDataset([case], Patch(size_yx=(32, 32), batch=12, slab=4), 3, (0,))
    for iteration in range(10):
        z, y, x = positions(dataset[iteration].source[:, 1])
        slab = z[:, 0, 0].reshape(3, 4)
        np.testing.assert_array_equal(np.diff(slab, axis=1), 1)
        assert slab.min() >= 0
        assert slab.max() <= 8
        for plane in (y, x):
            groups = plane.reshape(3, 4, 32, 32)
            assert (groups == groups[:, :1]).all()


def test_the_iteration_alone_decides(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, (5, 64, 64), "a"), make_case(tmp_path, (7, 64, 64), "b")]
    patch = Patch(size_yx=(32, 32), batch=6)
    first, second = (PatchDataset(cases, patch, 3, (3, 1, 0)) for _ in range(2))
    for iteration in (5, 0, 5):
        assert torch.equal(first[iteration].source, second[iteration].source)
    assert not torch.equal(first[0].source, first[1].source)
    assert not torch.equal(first[0].source, PatchDataset(cases, patch, 3, (3, 2, 0))[0].source)
    streamed = [b.source for b in batches(first, 2, 5, workers=0)]
    assert all(torch.equal(s, second[i].source) for i, s in zip(range(2, 5), streamed, strict=True))


def test_processes_share_the_batch_of_one(tmp_path: Path) -> None:
    cases = [make_case(tmp_path, (5, 64, 64))]
    patch = Patch(size_yx=(32, 32), batch=8, slab=2)
    whole = PatchDataset(cases, patch, 3, (0,))[3]
    shares = [PatchDataset(cases, patch, 3, (0,), rank, 2)[3] for rank in range(2)]
    assert torch.equal(torch.cat([s.source for s in shares]), whole.source)


@pytest.mark.heavy
def test_worker_processes_give_the_same_batches(tmp_path: Path) -> None:
    dataset = PatchDataset([make_case(tmp_path, (5, 64, 64))], Patch(size_yx=(32, 32), batch=4), 3, (0,))
    streamed = [b.source for b in batches(dataset, 0, 3, workers=2)]
    assert all(torch.equal(s, dataset[i].source) for i, s in enumerate(streamed))


def test_padding_at_the_end_stays_at_the_end_of_flipped_patches(tmp_path: Path) -> None:
    """As the reference framework trains: the plane is flipped, then padded; whatever is flipped, air is last."""
    case = make_case(tmp_path, (4, 20, 24))
    canvas = Canvas(padding="end", pad_value=-7, flip_before_padding=True)
    batch = PatchDataset([case], Patch(size_yx=(32, 32), batch=64), 1, (0,), canvas=canvas)[0]
    inside = batch.source[:, 0] != -7
    assert inside[:, :20, :24].all()
    assert not inside[:, 20:].any()
    assert not inside[:, :, 24:].any()
    corners = {float(v) for v in (batch.source[:, 0, 0, 0] % 1 * 10_000).round()}
    assert len(corners) == 4  # every flip was drawn
    assert (batch.target[:, 0][~inside] == -1).all()
    assert not batch.mask[:, 0][~inside].any()


def test_half_precision_on_the_way_and_float32_on_the_device(tmp_path: Path) -> None:
    cases, patch = [make_case(tmp_path, (5, 64, 64))], Patch(size_yx=(32, 32), batch=4)
    plain, halved = PatchDataset(cases, patch, 3, (0,)), PatchDataset(cases, patch, 3, (0,), source_type=torch.bfloat16)
    assert plain[2].source.dtype == torch.float32
    assert halved[2].source.dtype == torch.bfloat16
    stream = on_device(batches(halved, 0, 4, workers=0), torch.device("cpu"), channels_last=True)
    for iteration, placed in enumerate(stream):
        expected = plain[iteration]
        assert placed.source.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(placed.source, expected.source.bfloat16().float())
        assert torch.equal(placed.target, expected.target)
        assert torch.equal(placed.mask, expected.mask)
    assert iteration == 3


def test_copies_to_a_gpu_run_beside_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA's streams: a copy has a queue of its own, a step waits for its batch, whose memory is kept."""
    happened: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            happened.append(f"{self.name} wait for {other.name}")

    queues = [Stream("steps")]

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        queues.append(stream)
        yield
        queues.pop()

    class Copied:
        def __init__(self, number: int) -> None:
            self.number = number

        def to(self, device: torch.device, channels_last: bool) -> Copied:
            happened.append(f"{self.number} copied by {queues[-1].name} to {device}")
            return self

        def record_stream(self, stream: Stream) -> None:
            happened.append(f"{self.number} kept for {stream.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: queues[-1])
    for batch in on_device(iter([Copied(0), Copied(1)]), torch.device("cuda", 0), channels_last=True):
        happened.append(f"step {batch.number}")
    assert happened == [
        line
        for k in (0, 1)
        for line in (f"{k} copied by copies to cuda:0", "steps wait for copies", f"{k} kept for steps", f"step {k}")
    ]
