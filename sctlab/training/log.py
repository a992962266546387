"""What a run says while it trains: progress, TensorBoard, and a plain metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from sctlab_model.io.atomic import write_text
from sctlab_model.monitor import Monitor

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Collects losses on the device and writes their means now and then; silent on all but the first process.

    Args:
        folder: Of the stage; gets `metrics.jsonl` and `tensorboard/`.
        title: Of the stage, for the monitor.
        total: Iterations of the stage.
        start: Iterations done; lines of a lost future are dropped from the files.
        monitor: Told of progress and of validations.
        active: False on all but the first process.
    """

    def __init__(self, folder: Path, title: str, total: int, start: int, monitor: Monitor, active: bool) -> None:
        self.folder, self.title, self.total, self.start = folder, title, total, start
        self.monitor, self.active = monitor, active
        self._sums: dict[str, Tensor] = {}
        self._count, self._waited, self._since = 0, 0.0, time.perf_counter()
        self._done, self._tail = start, ""

    def __enter__(self) -> RunLog:
        if not self.active:
            return self
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / METRICS_FILE
        kept = (
            [line for line in path.read_text(encoding="utf-8").splitlines() if _iteration(line) <= self.start]
            if path.is_file()
            else []
        )
        write_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1)
        self.monitor.progress(self.start, self.total, self.title)
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.active:
            self._file.close()
            self._board.close()

    def add(self, terms: dict[str, Tensor], waited: float) -> None:
        """Note the losses of an iteration (kept on the device) and the seconds it waited for data."""
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._count += 1
        self._waited += waited
        if self.active:
            self._done += 1
            self.monitor.progress(self._done, self.total, f"{self.title} {self._tail}")

    def flush(self, iteration: int, rate: float) -> dict[str, float]:
        """Means since the last call, written to the files; this waits for the device."""
        values = {name: float(value) / self._count for name, value in self._sums.items()}
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        values |= {
            "learning_rate": rate,
            "iterations_per_s": self._count / seconds,
            "waiting_share": self._waited / seconds,
        }
        self._sums, self._count, self._waited, self._since = {}, 0, 0.0, now
        if self.active:
            self._write(iteration, "train", values)
            losses = " ".join(
                f"{k} {v:.4f}"
                for k, v in values.items()
                if k not in ("learning_rate", "iterations_per_s", "waiting_share")
            )
            self._tail = f"{values['iterations_per_s']:.2f} it/s {losses}"
        return values

    def validated(self, iteration: int, values: dict[str, float], picture: Path) -> None:
        """Write a validation's means and its picture."""
        self._since = time.perf_counter()  # validation isn't an iteration
        if not self.active:
            return
        self._write(iteration, "validation", values)
        if picture.is_file():
            from matplotlib.image import imread

            self._board.add_image("validation", imread(picture)[..., :3], iteration, dataformats="HWC")
        words = ", ".join(f"{k} {v:.2f}" for k, v in values.items())
        self.monitor.info(f"{self.title}, iteration {iteration}: {words}; {self._tail}")

    def _write(self, iteration: int, kind: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, iteration)
        # A NaN isn't JSON; the line that reports one says null.
        plain: dict[str, Any] = defaultdict(lambda: None)
        plain |= {k: v if v == v and abs(v) != float("inf") else None for k, v in values.items()}
        self._file.write(json.dumps({"iteration": iteration, "kind": kind, **plain}) + "\n")
        self._file.flush()


def _iteration(line: str) -> float:
    try:
        return float(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut when the process was killed
