"""Reading elastix TransformParameters text files, guarded, with chains of initial transforms.

Format: the elastix manual (https://elastix.dev), chapter "transformix"; a file is lines `(Key value …)`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sctlab.transforms.data import (
    AffineTransform,
    BSplineTransform,
    EulerTransform,
    Sum,
    Transform,
    compose,
)
from sctlab.transforms.files import TransformFile
from sctlab_model.errors import InputError
from sctlab_model.io.grids import check_direction
from sctlab_model.io.paths import inside, not_a_file
from sctlab_model.io.text import read_text
from sctlab_model.limits import check_memory
from sctlab_model.volume import Geometry, triple

MAX_FILE_BYTES = 1 << 30
MAX_CHAIN = 16
NO_INITIAL = "NoInitialTransform"
KINDS = ("EulerTransform", "AffineTransform", "TranslationTransform", "BSplineTransform", "RecursiveBSplineTransform")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_LINE = re.compile(r'\(\s*([A-Za-z_][\w-]*)((?:\s+(?:"[^"]*"|[^\s"()]+))*)\s*\)\s*(//.*)?')
_WORD = re.compile(r'"([^"]*)"|([^\s"()]+)')


def read_elastix(path: str | Path) -> TransformFile:
    """Read a TransformParameters file and the chain of initial transforms that it names.

    An initial transform is looked for by its bare file name in the folder of the file that names it, and nowhere else:
    published files carry paths of the machine that made them, and a file from a stranger could name any other one.

    Raises:
        InputError: A cut or malformed file, an unknown transform, wrong parameter counts, a missing initial
            transform, a chain that names itself.
    """
    return _read_chain(Path(path), ())


def _read_chain(path: Path, above: tuple[Path, ...]) -> TransformFile:
    resolved = path.resolve()
    if resolved in above or len(above) >= MAX_CHAIN:
        names = " → ".join(p.name for p in (*above, resolved))
        raise InputError(path, found=f"a chain of initial transforms that doesn't end ({names})", expected=NO_INITIAL)
    values = _read_values(path)
    file = _File(path, values)
    current = _read_transform(file)
    initial_name = file.text(
        "InitialTransformParameterFileName", file.text("InitialTransformParametersFileName", NO_INITIAL)
    )
    transform: Transform = current
    if initial_name != NO_INITIAL:
        initial = _read_chain(_find_initial(file, initial_name), (*above, resolved)).transform
        how = file.text("HowToCombineTransforms", "Compose")
        if how not in ("Compose", "Add"):
            raise file.refuse(f"HowToCombineTransforms {how[:40]}", "Compose or Add")
        transform = compose(initial, current) if how == "Compose" else Sum(initial, current)
    order = file.text("FinalBSplineInterpolationOrder", "3")
    if order not in ("0", "1", "2", "3"):
        raise file.refuse(f"FinalBSplineInterpolationOrder {order[:20]}", "0 to 3")
    default = file.numbers("DefaultPixelValue", 1)[0] if "DefaultPixelValue" in values else 0.0
    return TransformFile(transform, _read_grid(file), default, int(order))


@dataclass(frozen=True)
class _File:
    path: Path
    values: dict[str, list[str]]

    def refuse(self, found: str, expected: str) -> InputError:
        return InputError(
            self.path, found=found, expected=expected, advice="the transform file is damaged or of another type"
        )

    def text(self, key: str, default: str) -> str:
        words = self.values.get(key)
        return words[0] if words else default

    def numbers(self, key: str, count: int) -> list[float]:
        words = self.values.get(key)
        if words is None:
            raise self.refuse(f"no {key}", "a TransformParameters file")
        if len(words) != count:
            raise self.refuse(f"{len(words)} values of {key}", f"{count}")
        bad = next((w for w in words if not _NUMBER.fullmatch(w)), None)
        numbers = [] if bad else [float(w) for w in words]
        if bad or not all(map(math.isfinite, numbers)):
            raise self.refuse(f"{key} with the value {(bad or 'inf')[:30]}", "finite numbers")
        return numbers

    def integers(self, key: str, count: int) -> list[int]:
        numbers = self.numbers(key, count)
        if any(n != int(n) for n in numbers):
            raise self.refuse(f"{key} {numbers}", "whole numbers")
        return [int(n) for n in numbers]


def _read_values(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="an elastix TransformParameters file")
    # A number takes two bytes and more in the file, and becomes an object before it becomes a float64.
    check_memory(path, 30 * path.stat().st_size, "a transform file of this size")
    text = read_text(path, max_bytes=MAX_FILE_BYTES)
    values: dict[str, list[str]] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("//"):
            continue
        key, words = _parse_line(line, path, number)
        if key in values:
            raise InputError(
                path,
                found=f"{key} stands twice (line {number})",
                expected="each key once",
                advice="the file is damaged",
            )
        values[key] = words
    if "Transform" not in values:
        raise InputError(
            path,
            found="no (Transform …) line",
            expected="an elastix TransformParameters file",
            advice="the file is cut or of another type",
        )
    return values


def _parse_line(line: str, path: Path, number: int) -> tuple[str, list[str]]:
    # The line of B-spline parameters has up to millions of numbers: a plain split is fast, the pattern is for the rest.
    if line.startswith("(TransformParameters ") and line.endswith(")"):
        return "TransformParameters", line[1:-1].split()[1:]
    match = _LINE.fullmatch(line) if len(line) < 10_000 else None
    if match is None:
        raise InputError(
            path,
            found=f"line {number} is '{line[:40]}…'" if len(line) > 40 else f"line {number} is '{line}'",
            expected="(Key value …)",
            advice="the transform file is cut or of another type",
        )
    return match[1], [quoted if plain == "" else plain for quoted, plain in _WORD.findall(match[2])]


def _find_initial(file: _File, name: str) -> Path:
    bare = re.split(r"[/\\]", name)[-1]
    if bare not in ("", ".", "..") and bare.isprintable():
        candidate = file.path.with_name(bare)
        if candidate.is_file() and inside(file.path.parent, candidate):
            return candidate
    raise InputError(
        file.path,
        found=f"its initial transform {bare[:60]} is not there",
        expected="the whole chain in one folder",
        advice="copy the missing file beside it",
    )


def _read_transform(file: _File) -> Transform:
    kind = file.text("Transform", "")
    if kind not in KINDS:
        raise file.refuse(f"Transform {kind[:60]}", " or ".join(KINDS))
    if file.text("UseBinaryFormatForTransformationParameters", "false") == "true":
        raise InputError(
            file.path,
            found="parameters in a binary file",
            expected="parameters as text",
            advice="write it with UseBinaryFormatForTransformationParameters false",
        )
    for key in ("FixedImageDimension", "MovingImageDimension"):
        if file.text(key, "3") != "3":
            raise file.refuse(f"{key} {file.text(key, '')[:20]}", "3")
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        return _read_bspline(file, recursive=kind.startswith("Recursive"))
    count = {"EulerTransform": 6, "AffineTransform": 12, "TranslationTransform": 3}[kind]
    parameters = _parameters(file, count)
    if kind == "TranslationTransform":
        return AffineTransform(np.eye(3), triple(parameters))
    centre = triple(file.numbers("CenterOfRotationPoint", 3))
    if kind == "AffineTransform":
        return AffineTransform(parameters[:9].reshape(3, 3), triple(parameters[9:]), centre)
    zyx = file.text("ComputeZYX", "false") == "true"
    return EulerTransform(triple(parameters[:3]), triple(parameters[3:]), centre, zyx)


def _parameters(file: _File, count: int) -> np.ndarray:
    stated = file.integers("NumberOfParameters", 1)[0]
    words = file.values.get("TransformParameters")
    if stated != count or words is None or len(words) != count:
        found = "no TransformParameters" if words is None else f"{len(words)} TransformParameters"
        raise file.refuse(f"{found} (NumberOfParameters {stated})", f"{count}")
    try:
        parameters = np.array(words, dtype=np.float64)
    except ValueError as error:
        raise file.refuse("TransformParameters that aren't numbers", "numbers") from error
    if not np.isfinite(parameters).all():
        raise file.refuse("TransformParameters with NaN or infinite values", "finite values")
    return parameters


def _read_bspline(file: _File, recursive: bool) -> BSplineTransform:
    size = file.integers("GridSize", 3)
    if min(size) < 1 or math.prod(size) > 1 << 27:
        raise file.refuse(f"GridSize {size}", "1 to 134217728 control points")
    order = file.integers("BSplineTransformSplineOrder", 1)[0] if "BSplineTransformSplineOrder" in file.values else 3
    if file.text("UseCyclicTransform", "false") == "true":
        raise file.refuse("UseCyclicTransform true", "false")
    grid = _geometry(file, "Grid", size)
    if order not in (1, 2, 3) or min(size) < order + 1:
        raise file.refuse(
            f"spline order {order} on GridSize {size}", "order 1 to 3, with more control points than that"
        )
    parameters = _parameters(file, 3 * math.prod(size))
    return BSplineTransform(grid, parameters.reshape(3, *size[::-1]), order, recursive)


def _read_grid(file: _File) -> Geometry | None:
    if "Size" not in file.values:
        return None
    size = file.integers("Size", 3)
    if min(size) < 1:
        raise file.refuse(f"Size {size}", "three positive sizes")
    return _geometry(file, "", size)


def _geometry(file: _File, prefix: str, size: list[int]) -> Geometry:
    """A grid from `<prefix>Spacing`, `Origin`, `Direction`, `Index`.

    Published headers are rounded to float32: the direction is then orthonormal to about 1e-7 only and is
    taken as it stands, because elastix used the same numbers. elastix lists the direction column by column.
    """
    spacing = file.numbers(f"{prefix}Spacing", 3)
    if min(spacing) <= 0:
        raise file.refuse(f"{prefix}Spacing {spacing}", "three positive numbers (mm)")
    origin = file.numbers(f"{prefix}Origin", 3)
    rows = np.eye(3)
    if f"{prefix}Direction" in file.values and file.text("UseDirectionCosines", "true") == "true":
        rows = np.array(file.numbers(f"{prefix}Direction", 9)).reshape(3, 3).T
    check_direction(rows, str(file.path))
    grid = Geometry(triple(size), triple(spacing), triple(origin), tuple(rows.ravel()))
    if f"{prefix}Index" in file.values:
        index = file.integers(f"{prefix}Index", 3)
        grid = grid.cropped(triple(index), grid.size_xyz)
    return grid
