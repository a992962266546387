"""Batches as a pure function of the seed and the iteration: any process, any restart draws the same patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sctlab.training.cache import PreparedCase
from sctlab.training.plan import Patch
from sctlab_model.preparation import cut, stack_indices
from sctlab_model.recipe import Canvas

BORDER_UNIT = -1.0  # air, in the network's unit


@dataclass(frozen=True)
class Batch:
    """Samples of one iteration.

    Args:
        source: float32 [N, slices, y, x].
        target: float32 [N, 1, y, x] in [-1, 1].
        mask: bool [N, 1, y, x].
    """

    source: torch.Tensor
    target: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device, channels_last: bool) -> Batch:
        """The batch on a device; asynchronous from pinned memory."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return Batch(
            self.source.to(device, non_blocking=True, memory_format=layout),
            self.target.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Called by the data loader."""
        return Batch(self.source.pin_memory(), self.target.pin_memory(), self.mask.pin_memory())


class PatchDataset(Dataset):
    """Item `i` is this process' share of the batch of iteration `i`.

    A case is drawn evenly, then a body voxel of it evenly; the patch around it is moved into the canvas, and
    padded with air where the canvas is smaller. Slices beyond the ends are reflected. With `slab` > 1 a draw
    gives that many adjacent slices at one place with one flip, for extractors that see in 3D.

    Args:
        cases: Prepared cases.
        patch: Size, batch and flips.
        slices: Slices of the network's input.
        seed: Numbers that identify the run, fold and stage.
        rank: This process.
        world: Number of processes; it divides the draws of a batch.
        canvas: Where padding goes, if the plane is smaller than the patch; shared between both sides by default.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch: Patch,
        slices: int,
        seed: Sequence[int],
        rank: int = 0,
        world: int = 1,
        canvas: Canvas | None = None,
    ) -> None:
        self.canvas = canvas or Canvas()
        draws = patch.batch // patch.slab
        if draws % world:
            raise ValueError(f"{draws} draws a batch on {world} processes")
        self.cases, self.patch, self.slices, self.seed = list(cases), patch, slices, tuple(seed)
        share = draws // world
        self.draws = range(rank * share, (rank + 1) * share)
        self._stacks: dict[int, np.ndarray] = {}

    def __getitem__(self, iteration: int) -> Batch:
        samples = [s for draw in self.draws for s in self._draw(iteration, draw)]
        source, target, mask = (np.stack(arrays) for arrays in zip(*samples, strict=True))
        return Batch(torch.from_numpy(source), torch.from_numpy(target), torch.from_numpy(mask))

    def _draw(self, iteration: int, draw: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        rng = np.random.default_rng([*self.seed, iteration, draw])
        case = self.cases[rng.integers(len(self.cases))]
        z, y, x = case.body_voxel(int(rng.integers(case.voxels[-1])))
        flips = rng.random(2) < (self.patch.flip_y, self.patch.flip_x)
        count = case.mask.shape[0]
        first = min(max(z - self.patch.slab // 2, 0), max(count - self.patch.slab, 0))
        for slice_index in range(first, first + self.patch.slab):
            # A volume with fewer slices than the slab repeats its last one.
            yield self._sample(case, min(slice_index, count - 1), y, x, flips)

    def _sample(
        self, case: PreparedCase, z: int, y: int, x: int, flips: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        depth, *plane = case.mask.shape
        if depth not in self._stacks:
            self._stacks[depth] = stack_indices(depth, self.slices)
        start, size = [], self.patch.size_yx
        for centre, length, available, flipped in zip((y, x), size, plane, flips, strict=True):
            if available > length:
                start.append(min(max(centre - length // 2, 0), available - length))
            elif self.canvas.padding == "centre":
                start.append(-((length - available) // 2))
            else:  # at the end of what the network sees: of the flipped patch, where flips come first
                start.append(available - length if flipped and self.canvas.flip_before_padding else 0)
        box, extent = (0, *start), (1, *size)
        source = np.concatenate(
            [cut(case.source[k : k + 1], box, extent, np.float32(case.outside)) for k in self._stacks[depth][z]]
        )
        target = cut(case.target[z : z + 1], box, extent, np.float32(BORDER_UNIT))
        mask = cut(case.mask[z : z + 1], box, extent, False)
        axes = [axis for axis, flip in zip((1, 2), flips, strict=True) if flip]
        return tuple(np.flip(a, axes) if axes else a for a in (source, target, mask))


def batches(dataset: PatchDataset, start: int, stop: int, *, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Batches of the iterations `start` to `stop`; worker processes cut them ahead of the device."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        # A forked child of a process that used CUDA or threads can hang.
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)
