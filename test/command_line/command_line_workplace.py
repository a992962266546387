"""Folders for a run of the command line, and what is expected of one that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import process
from sctlab_model.cases import OUTPUT_FOLDER
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume


class Workplace:
    """A Grand Challenge input folder that a test can spoil, and an output folder."""

    def __init__(self, root: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.input, self.output, self.bundle, self.capsys = root / "input", root / "output", bundle, capsys

    def fill(self, source: Volume, mask: Volume | None, folder: str = "cbct", region: object = "Abdomen") -> Workplace:
        write_volume(source.with_array(source.array.astype(np.int16)), self.input / f"images/{folder}/case-1.mha")
        if mask is not None:
            write_volume(mask, self.input / "images/body/mask-1.mha")
        if region is not None:
            (self.input / "region.json").write_text(json.dumps(region))
        return self

    @property
    def source(self) -> Path:
        return next(self.input.glob("images/*/case-1.*"))

    @property
    def result(self) -> Path:
        return self.output / OUTPUT_FOLDER / "case-1.mha"

    def run(self, *options: object, given: object = None) -> tuple[int, str]:
        """Exit code and everything that was printed; `err` and `out` keep the two streams apart."""
        self.capsys.readouterr()
        code = process.main(
            [
                "--input",
                str(given or self.input),
                "--output",
                str(self.output),
                "--weights",
                str(self.bundle),
                "--device",
                "cpu",
                *map(str, options),
            ]
        )
        self.out, self.err = self.capsys.readouterr()
        return code, self.out + self.err

    def files(self) -> list[str]:
        """Every file in the output folder, hidden ones included."""
        return sorted(str(p.relative_to(self.output)) for p in self.output.rglob("*") if p.is_file())

    def refused(self, *words: str, code: int = 2, options: tuple[object, ...] = (), given: object = None) -> None:
        """The run fails with one line that holds `words`, and leaves nothing."""
        found, text = self.run(*options, given=given)
        assert found == code, text
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert self.err.rstrip().splitlines()[-1] == errors[0]
        for word in words:
            assert word in errors[0]
        assert self.files() == []
