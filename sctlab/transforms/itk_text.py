"""ITK's text transform files (`.tfm`), parsed here: a NaN in one corrupts memory in ITK's reader.

The format: `#Insight Transform File V1.0`, then `Transform: <type>_double_3_3`, `Parameters: …`, `FixedParameters: …`,
repeated, each announced by a comment `#Transform <n>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sctlab.transforms.itk_steps import MAX_STEPS, ItkStep
from sctlab_model.errors import InputError
from sctlab_model.io.text import read_text
from sctlab_model.limits import check_memory

MAX_FILE_BYTES = 1 << 30
_FIRST_LINE = "#Insight Transform File"


def read_text_steps(path: Path) -> list[ItkStep]:
    """The steps of a file.

    Raises:
        InputError: Missing, cut, or lines of another kind.
        ResourceError: More numbers than there is memory.
    """
    if path.is_file():  # a number takes two bytes and more, and becomes an object before it becomes a float64
        check_memory(path, 30 * path.stat().st_size, "a transform file of this size")
    text = read_text(path, max_bytes=MAX_FILE_BYTES)
    if not text.startswith(_FIRST_LINE):
        raise InputError(path, found=f"no '{_FIRST_LINE}' line", expected="an ITK text transform (.tfm)")
    if not text.endswith("\n"):
        raise _cut(path, f"it ends with '{text.rpartition(chr(10))[2][:30]}'", "a complete last line")
    names: list[str] = []
    numbers: list[dict[str, np.ndarray]] = []
    announced = False
    for line in text.split("\n")[1:]:
        key, _, rest = line.partition(":")
        if key == "Transform":
            names.append(rest.strip())
            numbers.append({})
            announced = False
        elif key in ("Parameters", "FixedParameters") and numbers:
            if key in numbers[-1]:
                raise InputError(path, found=f"{key} twice", expected="each once", advice="the file is damaged")
            try:
                numbers[-1][key] = np.array(rest.split(), dtype=np.float64)
            except ValueError as error:
                raise InputError(
                    path, found=f"{key} that aren't numbers", expected="numbers", advice="the file is damaged"
                ) from error
        elif line.startswith("#"):
            announced = announced or line.startswith("#Transform")
        elif line.strip():
            raise _cut(path, f"a line '{line[:30].strip()}'", "Transform, Parameters or FixedParameters")
    if announced or not names or len(names) > MAX_STEPS + 1:
        raise _cut(path, "an announced transform that doesn't come", "an ITK text transform")
    none = np.zeros(0)
    return [
        ItkStep(name, values.get("Parameters", none), values.get("FixedParameters", none))
        for name, values in zip(names, numbers, strict=True)
    ]


def write_text_steps(path: Path, steps: Sequence[ItkStep]) -> None:
    """Write steps, see `to_steps`; numbers read back as the same float64."""
    lines = [f"{_FIRST_LINE} V1.0"]
    for n, step in enumerate(steps):
        lines += [f"#Transform {n}", f"Transform: {step.name}"]
        if n > 0 or len(steps) == 1:
            lines += [f"Parameters: {_text(step.parameters)}", f"FixedParameters: {_text(step.fixed)}"]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def _text(values: np.ndarray) -> str:
    return " ".join(repr(v).removesuffix(".0") for v in values.tolist())


def _cut(path: Path, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, advice="the transform file is cut or of another type")
