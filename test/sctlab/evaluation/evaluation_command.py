"""Running `sctlab evaluate` on a small cohort."""

from __future__ import annotations

import json
from pathlib import Path

from sctlab.cli import app, run
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume

IDS = ("1ABA001", "1ABA002", "1HNA001")


def evaluate(root: Path, *more: str, predictions: str = "predictions", out: str = "out", report: bool = False) -> int:
    arguments = ["evaluate", str(root / predictions), "--cohort", str(root / "cohort"), "--out", str(root / out), *more]
    arguments += [] if report else ["--no-report"]  # drawing takes most of the time
    # The anatomy network, which `auto` takes, has tests of its own.
    arguments += [] if "--segmenter" in more else ["--segmenter", "none"]
    return run(lambda: app.main(arguments, prog_name="sctlab", standalone_mode=False), debug=True)


def details_of(root: Path, out: str = "out") -> dict:
    return json.loads((root / out / "details.json").read_text())


def alter(path: Path, change) -> None:
    volume = read_volume(path)
    write_volume(volume.with_array(change(volume.array)), path)


def other_shape(path: Path) -> None:
    volume = read_volume(path)
    grid = volume.geometry.cropped((0, 0, 0), (44, 40, 23))
    write_volume(type(volume)(volume.array[:23], grid), path)
