"""The ensemble: folds x views x slices to a mean and, on request, a spread, in HU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sctlab_model.backends import Backend
from sctlab_model.framing import run_framed
from sctlab_model.preparation import padded_length, stack_indices, unit_to_hu
from sctlab_model.recipe import Recipe, View
from sctlab_model.window import Window

_FLIPS: dict[View, tuple[int, ...]] = {"identity": (), "flip_x": (-1,), "flip_y": (-2,), "flip_xy": (-2, -1)}
CPU_BATCH = 4  # more gains nothing on a CPU and costs memory
MAX_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What the ensemble says of one case.

    Args:
        hu: Mean over folds and views, float32 HU, axes z, y, x of the canvas; the target range's lower end
            in slices without body and outside of the rectangle around the body.
        spread_hu: Standard deviation over folds and views in HU, or None.
        batch: Samples that ran together at the end.
        network_seconds: Time inside the backends.
    """

    hu: np.ndarray
    spread_hu: np.ndarray | None
    batch: int
    network_seconds: float


def predict_volume(
    source: np.ndarray,
    mask: np.ndarray,
    backends: Sequence[Backend],
    recipe: Recipe,
    *,
    spread: bool = False,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Run every fold on every view of every slice that holds body.

    Sums are float32 (fold outputs summed in fp16 are off by up to 3 HU). A view is flipped, predicted and
    flipped back. Views are batched together with slices; neither changes a result.

    Args:
        source: Normalised canvas, float32, axes z, y, x.
        mask: Body mask on the canvas; slices without body aren't run, and of others the rectangle around the body
            is asked for.
        backends: The folds, all on one device.
        recipe: Views, slices, target range.
        spread: Also return the standard deviation.
        batch: Samples (slices x views) that run together; planned from free memory when left out, and halved
            when memory runs out.
        progress: Called with (slices done, slices in all).
    """
    device = backends[0].device
    wanted = np.flatnonzero(mask.any(axis=(1, 2)))
    neighbours = torch.from_numpy(stack_indices(source.shape[0], recipe.network.slices)[wanted]).to(device)
    hu = np.full(source.shape, recipe.target_range_hu[0], dtype=np.float32)
    deviation = np.zeros(source.shape, dtype=np.float32) if spread else None
    clock = _Clock(device)
    results = _Results(hu, deviation, recipe)
    with torch.inference_mode():
        volume = torch.from_numpy(source).to(device)
        batch = one_shape_batch(batch or plan_batch(backends, volume[neighbours[:1]], recipe), len(recipe.views))
        done = 0
        while done < len(wanted):
            first, last = next_chunk(done, len(wanted), batch // len(recipe.views), one_shape=device.type == "cuda")
            index = wanted[first:last]
            window = body_window(mask[index], recipe)
            try:
                mean, std = _predict_slices(
                    volume[neighbours[first:last]], backends, recipe, batch, spread, clock, window
                )
            except torch.cuda.OutOfMemoryError:
                if batch == 1:
                    raise
                torch.cuda.empty_cache()
                batch = one_shape_batch(batch // 2, len(recipe.views))
                continue
            results.add(index, mean, std)
            done = last
            if progress is not None:
                progress(done, len(wanted))
        results.finish()
    return Prediction(hu, deviation, batch, clock.seconds)


class _Results:
    """Chunks on their way from the device to the case's arrays. On a GPU one is fetched while the next is computed: the
    copy goes into pinned memory and nobody waits for it, and its HU are made when the next chunk is queued.

    Args:
        hu, deviation: What is filled, in HU; None where no spread is wanted.
        recipe: Says which HU the network's -1 and 1 stand for.
    """

    def __init__(self, hu: np.ndarray, deviation: np.ndarray | None, recipe: Recipe) -> None:
        self._hu, self._deviation, self._recipe = hu, deviation, recipe
        self._waiting: tuple[np.ndarray, list[torch.Tensor], torch.cuda.Event | None] | None = None

    def add(self, index: np.ndarray, mean: torch.Tensor, std: torch.Tensor | None) -> None:
        """Begin to fetch the mean (and deviation) [n, Y, X] of some slices, and finish those before."""
        tensors = [mean] if std is None else [mean, std]
        fetched, ready = fetch_later(tensors)
        self.finish()
        self._waiting = index, fetched, ready

    def finish(self) -> None:
        """Wait for what is fetched and fill it in."""
        if self._waiting is None:
            return
        index, fetched, ready = self._waiting
        self._waiting = None
        if ready is not None:
            ready.synchronize()
        self._hu[index] = unit_to_hu(fetched[0].numpy(), self._recipe)
        if self._deviation is not None and len(fetched) > 1:
            low, high = self._recipe.target_range_hu
            self._deviation[index] = fetched[1].numpy() * ((high - low) / 2)


def fetch_later(tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
    """Tensors on the CPU, and the event after which their values are there; None where they are."""
    if tensors[0].device.type != "cuda":
        return list(tensors), None
    fetched = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in tensors]
    ready = torch.cuda.Event()
    ready.record(torch.cuda.current_stream(tensors[0].device))
    return fetched, ready


def _predict_slices(
    stacks: torch.Tensor,
    backends: Sequence[Backend],
    recipe: Recipe,
    batch: int,
    spread: bool,
    clock: _Clock,
    window: Window,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean (and deviation) [n, Y, X] in [-1, 1] for stacks [n, slices, Y, X]."""
    count, views = len(stacks), recipe.views
    flipped = torch.cat([torch.flip(stacks, _FLIPS[view]) if _FLIPS[view] else stacks for view in views])
    first: torch.Tensor | None = None
    for backend in backends:
        with clock:
            outputs = torch.cat([run_framed(part, recipe.canvas, backend, window) for part in flipped.split(batch)])[
                :, 0
            ]
        for position, view in enumerate(views):
            output = outputs[position * count : (position + 1) * count]
            output = torch.flip(output, _FLIPS[view]) if _FLIPS[view] else output
            if first is None:
                first, total, squares = output.clone(), output.clone(), torch.zeros_like(output)
            else:
                total += output
            if spread:
                squares += (output - first) ** 2
    assert first is not None, "a bundle has folds and a recipe views"
    samples = len(backends) * len(views)
    mean = total / samples
    if not spread:
        return mean, None
    # Shifted by the first sample: the plain sum of squares loses 0.5 HU near air.
    return mean, (squares / samples - (mean - first) ** 2).clamp_min(0).sqrt()


def warm_up(backend: Backend, recipe: Recipe) -> None:
    """Run one empty sample of the smallest canvas, so that what libraries prepare at their first call is prepared."""
    size = tuple(padded_length(1, recipe.canvas, axis) for axis in (0, 1))
    backend(torch.zeros(1, recipe.network.slices, *size, device=backend.device))


def body_window(mask: np.ndarray, recipe: Recipe) -> Window:
    """The rectangle around the body of some slices [n, Y, X] in every view of them."""
    plane = mask.any(axis=0)
    return Window.around(np.logical_or.reduce([np.flip(plane, _FLIPS[view]) for view in recipe.views]))


def next_chunk(done: int, total: int, most: int, *, one_shape: bool) -> tuple[int, int]:
    """First and last (excluded) of the slices that run next.

    With `one_shape` all chunks have one length, so that a GPU's libraries tune for it once: as few chunks as can be, the
    last of which may repeat slices of the one before.

    Example:
        >>> [next_chunk(done, 91, 32, one_shape=True) for done in (0, 31, 62)]
        [(0, 31), (31, 62), (60, 91)]
    """
    most = max(1, most)
    if not one_shape:
        return done, min(done + most, total)
    length = math.ceil(total / math.ceil(total / most))
    first = min(done, total - length)
    return first, first + length


def one_shape_batch(most: int, views: int) -> int:
    """At most so many samples, so that those of a chunk are split evenly: whole slices in all their views, or a slice's
    views in equal parts. Otherwise a GPU's libraries would tune for the rest's shape as well.

    Example:
        >>> [one_shape_batch(most, views=3) for most in (32, 5, 3, 2, 1)]
        [30, 3, 3, 1, 1]
    """
    if most >= views:
        return most - most % views
    return max(part for part in range(1, max(1, most) + 1) if views % part == 0)


def plan_batch(backends: Sequence[Backend], sample: torch.Tensor, recipe: Recipe) -> int:
    """Samples that fit: on CUDA from one measured sample, run twice, and the free memory; `CPU_BATCH` on a CPU."""
    device = backends[0].device
    if device.type != "cuda":
        return CPU_BATCH
    if backends[0].batch_limit is not None:
        return backends[0].batch_limit

    def peak() -> int:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run_framed(sample, recipe.canvas, backends[0])
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)

    tuning, running = peak(), peak()
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return samples_that_fit(free, tuning, running, most=MAX_BATCH * len(recipe.views))


def samples_that_fit(free: int, tuning: int, running: int, most: int) -> int:
    """Samples for which memory is left, at least one.

    Args:
        free: Bytes.
        tuning: The peak of a first call with one sample, which also tries algorithms and their workspaces: they are tried
            again for the shape that is chosen, so what they took beyond `running` is set aside.
        running: The peak of a second call.
        most: More gain nothing.
    """
    workspaces = max(0, tuning - running)
    return max(1, min(most, int((0.7 * free - workspaces) // max(1, running))))


class _Clock:
    """Adds up the time spent inside the backends; on CUDA with events, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._device = device.type == "cuda", device
        self._elapsed, self._since = 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def __enter__(self) -> None:
        if self._cuda:
            self._start = torch.cuda.Event(enable_timing=True)
            self._start.record(torch.cuda.current_stream(self._device))
        else:
            self._since = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        if self._cuda:
            end = torch.cuda.Event(enable_timing=True)
            end.record(torch.cuda.current_stream(self._device))
            self._events.append((self._start, end))
        else:
            self._elapsed += time.perf_counter() - self._since

    @property
    def seconds(self) -> float:
        """Total so far."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
            self._elapsed = sum(a.elapsed_time(b) for a, b in self._events) / 1000
        return self._elapsed
