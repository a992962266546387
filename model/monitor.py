"""How long work tells a caller where it is. Workflows never print: they call a `Monitor`, which is silent by default."""

from __future__ import annotations

import sys
import time
import traceback
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

EVERY_S = 20.0  # between two lines of progress without a terminal


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
    them. Without a terminal (a log file, a pipe) the bar becomes a line at the start, every `EVERY_S` seconds, and at the end.

    Args:
        title: Word before the bar.
        quiet: Print nothing (all but the first of several processes).
        debug: Print traces.
    """

    def __init__(self, title: str = "", *, quiet: bool = False, debug: bool = False) -> None:
        self.title, self.quiet, self.debug = title, quiet, debug
        self._bar: Any = None
        self._task: Any = None
        self._log: _Log | None = None

    def progress(self, done: int, total: int, label: str = "") -> None:
        if self.quiet or total <= 0:  # nothing to do is no bar of 0/0
            return
        if self._bar is None and self._log is None:
            self._start(total)
        what = " ".join((self.title, label)).strip()
        if self._log is not None:
            self._log.progress(done, total, what)
        else:
            self._bar.update(self._task, completed=done, total=total, description=what)

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
        self._log = None

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

        console = Console(file=sys.stdout)
        # Rich believes FORCE_COLOR more than the file: a bar would fill the log with control characters.
        if not (console.is_jupyter or (sys.stdout.isatty() and console.is_interactive)):
            self._log = _Log()
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task(self.title, total=total)
        self._bar.start()

    def _print(self, text: str, stream: Any) -> None:
        from rich.console import Console

        # Beside a running bar only its own console keeps the bar whole; warnings still go to stderr.
        console = self._bar.console if self._bar is not None and stream is sys.stdout else Console(file=stream)
        console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Log:
    """Progress as lines of a file that somebody reads while the work goes on."""

    def __init__(self) -> None:
        self._total = self._done = self._first = 0
        self._started = self._said = 0.0

    def progress(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if total != self._total or done < self._done:  # other work begins, or goes on where an earlier run ended
            self._total, self._first, self._started = total, done, now
        elif done == self._done or (done < total and now - self._said < EVERY_S):
            return
        self._done, self._said = done, now
        spent = now - self._started
        each = spent / (done - self._first) if done > self._first else 0.0
        left = f", about {_clock(each * (total - done))} left" if each and done < total else ""
        print(f"{what} {done}/{total} after {_clock(spent)}{left}".lstrip(), flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
