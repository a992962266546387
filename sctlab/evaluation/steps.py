"""Steps of one case: timed, and those beyond the challenge may fail without costing its numbers."""

from __future__ import annotations

import math
import time
from types import TracebackType

from sctlab.evaluation.records import CaseRecord
from sctlab_model.errors import ProductError


class timed:
    """Add the block's duration to `record.seconds[step]`."""

    def __init__(self, record: CaseRecord, step: str) -> None:
        self._record, self._step = record, step

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._record.seconds[self._step] = round(time.perf_counter() - self._start, 3)
        return None


class optional(timed):
    """A timed block whose failure becomes a note: the numbers that are there already stay."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        super().__exit__(kind, error, trace)
        if not isinstance(error, Exception):
            return False  # no error, or an interrupt
        reason = str(error) if isinstance(error, ProductError) else f"{type(error).__name__}: {error}"
        self._record.notes.append(f"{self._step} failed, its numbers are missing: {' '.join(reason.split())}")
        return True


def finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: None says that a number is undefined."""
    return value if value is not None and math.isfinite(value) else None
