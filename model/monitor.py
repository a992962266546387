"""How long work tells a caller where it is. Workflows never print: they call a `Monitor`, which is silent by default."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any, Self


class Monitor:
    """Progress and messages of long work; this base is silent. Subclass it, or use `ConsoleMonitor` in commands."""

    def progress(self, done: int, total: int, label: str = "") -> None:
        """`done` of `total` units are finished; `label` says what is being worked on."""

    def info(self, text: str) -> None:
        """Something worth knowing."""

    def warning(self, text: str) -> None:
        """Something to look at."""

    def trace(self, error: BaseException) -> None:
        """An error that nobody foresaw, which one case had and the others survived."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ConsoleMonitor(Monitor):
    """A progress bar and lines in the terminal: information to stdout, warnings to stderr, where platforms look for
    them. Without a terminal the bar becomes a line every now and then.

    Args:
        title: Word before the bar.
        quiet: Print nothing (all but the first of several processes).
        debug: Print traces.
    """

    def __init__(self, title: str = "", *, quiet: bool = False, debug: bool = False) -> None:
        self.title, self.quiet, self.debug = title, quiet, debug
        self._bar: Any = None
        self._task: Any = None

    def progress(self, done: int, total: int, label: str = "") -> None:
        if self.quiet or total <= 0:  # nothing to do is no bar of 0/0
            return
        if self._bar is None:
            self._start(total)
        self._bar.update(self._task, completed=done, total=total, description=" ".join((self.title, label)).strip())

    def info(self, text: str) -> None:
        if not self.quiet:
            self._print(text, sys.stdout)

    def warning(self, text: str) -> None:
        if not self.quiet:
            self._print(f"warning: {text}", sys.stderr)

    def trace(self, error: BaseException) -> None:
        if self.debug:
            traceback.print_exception(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(file=sys.stdout))
        self._task = self._bar.add_task(self.title, total=total)
        self._bar.start()

    def _print(self, text: str, stream: Any) -> None:
        from rich.console import Console

        # Beside a running bar only its own console keeps the bar whole; warnings still go to stderr.
        console = self._bar.console if self._bar is not None and stream is sys.stdout else Console(file=stream)
        console.print(text, soft_wrap=True, markup=False, highlight=False)
