"""Batches as a pure function of the seed and the iteration: any process, any restart draws the same patches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sctlab.training.batch import Batch
from sctlab.training.cache import PreparedCase
from sctlab.training.contrast import ContrastDrawer
from sctlab.training.densities import Densities, DensityDrawer
from sctlab.training.field_of_view import FieldOfView
from sctlab.training.plan import Patch
from sctlab_model.cut_edges import continue_mirrored
from sctlab_model.errors import InputError
from sctlab_model.preparation import cut
from sctlab_model.recipe import Canvas

BORDER_UNIT = -1.0  # air, in the network's unit


class PatchDataset(Dataset):
    """Item `i` is this process' share of the batch of iteration `i`.

    A case is drawn evenly, then a body voxel of it evenly; the patch around it is moved into the canvas, and
    padded with air where the canvas is smaller. Slices beyond the ends are reflected. With `slab` > 1 a draw
    gives that many adjacent slices at one place with one flip, for extractors that see in 3D. With `cut_field_of_view`
    some are drawn from a smaller field of view, on the canvas that it would have.

    With `pairing="shuffled"` source and target are drawn apart: the target comes from any place of a case of another
    patient, with flips of its own.

    Args:
        cases: Prepared cases.
        patch: Size, batch and flips.
        slices: Slices of the network's input.
        seed: Numbers that identify the run, fold and stage.
        rank: This process.
        world: Number of processes; it divides the draws of a batch.
        pairing: `paired` or `shuffled`.
        canvas: Where padding goes, if the plane is smaller than the patch; shared between both sides by default.
        contrast: Draws some of the sources anew; None takes them as they are.
        densities: Gives the tissues of some patches other densities, in both images; None leaves them.
        source_type: In which the source leaves the loader, for half of the copying; the rest stays float32.

    Raises:
        InputError: `shuffled` with one patient alone.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        patch: Patch,
        slices: int,
        seed: Sequence[int],
        rank: int = 0,
        world: int = 1,
        pairing: Literal["paired", "shuffled"] = "paired",
        canvas: Canvas | None = None,
        contrast: ContrastDrawer | None = None,
        densities: DensityDrawer | None = None,
        source_type: torch.dtype = torch.float32,
    ) -> None:
        self.canvas, self.source_type = canvas or Canvas(), source_type
        self.contrast, self.densities = contrast, densities
        draws = patch.batch // patch.slab
        if draws % world:
            raise ValueError(f"{draws} draws a batch on {world} processes")
        self.cases, self.patch, self.slices, self.seed = list(cases), patch, slices, tuple(seed)
        share = draws // world
        self.draws = range(rank * share, (rank + 1) * share)
        self.pairing = pairing
        self._others: dict[str, list[PreparedCase]] = {}  # patient → the cases of all others
        if pairing == "shuffled":
            by_patient = defaultdict(list)
            for case in self.cases:
                by_patient[case.patient].append(case)
            if len(by_patient) < 2:
                raise InputError("pairs", found="one patient", expected="two or more, whose images can be shuffled")
            self._others = {p: [c for c in self.cases if c.patient != p] for p in by_patient}

    def __getitem__(self, iteration: int) -> Batch:
        samples = [s for draw in self.draws for s in self._draw(iteration, draw)]
        source, target, mask, *source_mask = (torch.from_numpy(np.stack(a)) for a in zip(*samples, strict=True))
        return Batch(source.to(self.source_type), target, mask, source_mask[0] if source_mask else mask)

    def _draw(self, iteration: int, draw: int) -> Iterator[tuple[np.ndarray, ...]]:
        rng = np.random.default_rng([*self.seed, iteration, draw])
        case = self.cases[rng.integers(len(self.cases))]
        # Streams of their own: the places are the same whatever else is drawn.
        look_rng = np.random.default_rng([*self.seed, iteration, draw, 2])
        samples = self._slab(case, rng, np.random.default_rng([*self.seed, iteration, draw, 3]), look_rng)
        if self.pairing == "paired":
            yield from samples
            return
        rng = np.random.default_rng([*self.seed, iteration, draw, 1])
        others = self._others[case.patient]
        targets = self._slab(
            others[rng.integers(len(others))], rng, np.random.default_rng([*self.seed, iteration, draw, 4])
        )
        for (source, _, source_mask), (_, target, mask) in zip(samples, targets, strict=True):
            yield source, target, mask, source_mask

    def _slab(
        self,
        case: PreparedCase,
        rng: np.random.Generator,
        view_rng: np.random.Generator,
        look_rng: np.random.Generator | None = None,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The adjacent slices around a drawn voxel: source, target and mask of each."""
        z, y, x = case.body_voxel(int(rng.integers(case.voxels[-1])))
        flips = rng.random(2) < (self.patch.flip_y, self.patch.flip_x)
        shape = case.mask.shape
        first = min(max(z - self.patch.slab // 2, 0), max(shape[0] - self.patch.slab, 0))
        # A volume with fewer slices than the slab repeats its last one.
        slices = [min(k, shape[0] - 1) for k in range(first, first + self.patch.slab)]
        view = FieldOfView.whole(shape)
        corner, size = (0, 0), (shape[1], shape[2])
        if view_rng.random() < self.patch.cut_field_of_view:
            view = FieldOfView.draw(shape, (slices[0], slices[-1]), y, x, self.slices // 2, view_rng)
            corner, size = view.canvas(case.mask, self.canvas)
        place = (y - view.first[1] - corner[0], x - view.first[2] - corner[1])
        start = self._start(place, size, flips)
        start = (start[0] + corner[0], start[1] + corner[1])
        drawn, changed = None, None
        if look_rng is not None:
            neighbours = sorted({int(k) for z in slices for k in view.stack(z, self.slices)})
            if self.contrast is not None:
                drawn = self.contrast.draw(case, neighbours, view, start, self.patch.size_yx, look_rng)
            if self.densities is not None:
                changed = self.densities.draw(case, neighbours, view, start, self.patch.size_yx, look_rng)
        for z in slices:
            yield self._sample(case, z, view, start, flips, drawn, changed)

    def _start(self, place: tuple[int, int], size: tuple[int, int], flips: np.ndarray) -> tuple[int, int]:
        """First row and column of the patch around a voxel of a canvas of some size; negative where it is padded."""
        start = []
        for centre, length, available, flipped in zip(place, self.patch.size_yx, size, flips, strict=True):
            if available > length:
                start.append(min(max(centre - length // 2, 0), available - length))
            elif self.canvas.padding == "centre":
                start.append(-((length - available) // 2))
            else:  # at the end of what the network sees: of the flipped patch, where flips come first
                start.append(available - length if flipped and self.canvas.flip_before_padding else 0)
        return start[0], start[1]

    def _sample(
        self,
        case: PreparedCase,
        z: int,
        view: FieldOfView,
        start: tuple[int, int],
        flips: np.ndarray,
        drawn: dict[int, np.ndarray] | None,
        changed: Densities | None,
    ) -> tuple[np.ndarray, ...]:
        box, extent = (0, *start), (1, *self.patch.size_yx)
        stack = view.stack(z, self.slices)
        if drawn is None:
            source = np.concatenate([self._placed(case, int(k), view, start, changed) for k in stack])
        else:
            source = np.stack([drawn[int(k)] for k in stack])
        target = cut(view.plane(case.target[z : z + 1]), box, extent, BORDER_UNIT)
        if changed is not None:
            target = np.clip(target + changed.target[z], -1, 1)
        mask = cut(view.plane(case.mask[z : z + 1]), box, extent, False)
        axes = [axis for axis, flip in zip((1, 2), flips, strict=True) if flip]
        return tuple(np.flip(a, tuple(axes)) if axes else a for a in (source, target, mask))

    def _placed(
        self, case: PreparedCase, k: int, view: FieldOfView, start: tuple[int, int], changed: Densities | None
    ) -> np.ndarray:
        """The case's own source of a slice in the patch, as preparation places it on a canvas; [1, y, x]."""
        box, extent = (0, *start), (1, *self.patch.size_yx)
        plane = view.plane(case.source[k : k + 1])
        placed = cut(plane, box, extent, case.outside)
        if changed is not None:
            placed = np.clip(placed + changed.source[k], -1, 1)
        if self.canvas.cut_edges != "mirror":
            return placed
        mask = cut(view.plane(case.mask[k : k + 1]), box, extent, False)
        return continue_mirrored(placed, mask, start, plane.shape[1:], case.outside)


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
