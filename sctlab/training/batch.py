"""What a step of training sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples of one iteration.

    Args:
        source: float32 [N, slices, y, x]; on its way to the device maybe in half precision.
        target: float32 [N, 1, y, x] in [-1, 1]; NaN where nothing is known. Of another patient where an objective
            learns from unpaired images.
        mask: Body of the target, bool [N, 1, y, x].
        source_mask: Body of the source, bool [N, 1, y, x]; the same as `mask` for pairs.
        cache: Values that were derived from the batch once, by whoever derived them.
    """

    source: Tensor
    target: Tensor
    mask: Tensor
    source_mask: Tensor
    cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of_pairs(cls, source: Tensor, target: Tensor, mask: Tensor) -> Batch:
        """A batch of pairs, whose masks are one."""
        return cls(source, target, mask, mask)

    def to(self, device: torch.device, channels_last: bool) -> Batch:
        """The batch on a device, its source in float32; asynchronous from pinned memory."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        # In two steps: in one, PyTorch would convert on the CPU and copy what is twice as large.
        source = self.source.to(device, non_blocking=True, memory_format=layout).float()
        return self._each(lambda t: t.to(device, non_blocking=True), source=source)

    def pin_memory(self) -> Batch:
        """Called by the data loader."""
        return self._each(lambda t: t.pin_memory(), source=self.source.pin_memory())

    def known(self) -> tuple[Batch, Tensor]:
        """The batch with air where its target is unknown, and where it is known (bool [N, 1, y, x]); made once."""
        if "known" not in self.cache:
            known = torch.isfinite(self.target)
            target = torch.nan_to_num(self.target, nan=-1.0)
            self.cache["known"] = replace(self, target=target, mask=self.mask & known, cache={}), known
        return self.cache["known"]

    def first(self, count: int) -> Batch:
        """The first samples alone."""
        return Batch(self.source[:count], self.target[:count], self.mask[:count], self.source_mask[:count])

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until a stream that didn't make the batch is done with it."""
        for tensor in (self.source, self.target, self.mask, self.source_mask):
            tensor.record_stream(stream)

    def _each(self, change: Any, source: Tensor) -> Batch:
        mask = change(self.mask)
        source_mask = mask if self.source_mask is self.mask else change(self.source_mask)
        return Batch(source, change(self.target), mask, source_mask)


def on_device(stream: Iterator[Batch], device: torch.device, *, channels_last: bool) -> Iterator[Batch]:
    """The batches on a device. To a GPU they are copied beside the steps before: a step's kernels are queued and not waited
    for, and the copy has a queue of its own."""
    if device.type != "cuda":
        for batch in stream:
            yield batch.to(device, channels_last)
        return
    copies = torch.cuda.Stream(device)
    for batch in stream:
        with torch.cuda.stream(copies):
            placed = batch.to(device, channels_last)
        steps = torch.cuda.current_stream(device)
        steps.wait_stream(copies)
        placed.record_stream(steps)
        yield placed
