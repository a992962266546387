"""Ctrl-C and SIGTERM while a stage is trained: never in the middle of a step, whose state would be worth nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sctlab.workflow.signals import Terminated


class Interrupts:
    """Remembers that the user wants to stop while a step is done; raises `error` at once elsewhere:
    KeyboardInterrupt, or its kind for SIGTERM.

    A second signal ends a step, too.

    Args:
        shared: Several processes exchange tensors outside steps as well: only the loop may end them, all alike.
    """

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.wanted = False
        self.error: type[KeyboardInterrupt] = KeyboardInterrupt
        self._in_step = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def step(self) -> Iterator[None]:
        """A block that a first signal doesn't end."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.wanted = self.wanted, True
        self.error = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if again or not (self._in_step or self.shared):
            raise self.error
