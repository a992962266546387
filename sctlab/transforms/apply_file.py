"""`sctlab register apply`: a transform file onto an image, labels or points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sctlab.transforms.apply import apply_to_image, field_of_view
from sctlab.transforms.data import Transform
from sctlab.transforms.files import TransformFile, read_transform
from sctlab.transforms.invert import invert, invert_points
from sctlab_model.errors import InputError
from sctlab_model.io.atomic import write_text
from sctlab_model.io.paths import not_a_file, refuse_replacing
from sctlab_model.io.reading import read_volume
from sctlab_model.io.text import read_text
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import AIR_HU, Geometry, Volume

HEADER_TOLERANCE_MM = 0.01  # published grid headers are rounded to float32
FOUND_MM = 0.1  # a point's inverse that is off by more counts as not found


def apply_file(
    transform: Path,
    image: Path,
    out: Path,
    *,
    like: Path | None = None,
    interpolation: str = "safe",
    outside: float | None = None,
    inverse: bool = False,
) -> Iterator[str]:
    """Apply a transform file and write the result; yields lines about what was done.

    Args:
        transform: See `read_transform`.
        image: Moving image, or a `.csv` of points (x, y, z in mm, LPS; a header line is allowed).
        out: Result; the format follows the suffix.
        like: Image whose grid the result gets; points need none. A transform file's own grid that agrees with it
            within 0.01 mm (they carry float32 rounding) is taken to be that grid.
        interpolation: See `apply_to_image`.
        outside: Value without data; when left out see `_outside_value`.
        inverse: Apply the inverse (`image` then lies in the fixed space and the result in the moving one).

    Raises:
        InputError: What is missing or malformed; nothing is written then.
    """
    refuse_replacing(out, transform, image, like)
    found = read_transform(transform)
    if image.suffix == ".csv":
        yield from _apply_to_points(found.transform, image, out, inverse)
        return
    volume = read_volume(image)
    grid, note = _grid(found, transform, like, inverse)
    if note:
        yield note
    mapping = found.transform
    if inverse:
        mapping, error = invert(found.transform, grid)
        yield (
            f"inverse: error {error.mean_mm:.4f} mm on average, {error.p95_mm:.4f} mm at the 95th percentile; "
            f"none found for {error.missing:.1%} of the points"
        )
    if outside is None:
        outside = _outside_value(volume, 0.0 if inverse else found.default_value, interpolation)
    covered = field_of_view(volume.geometry, mapping, grid).array.mean()
    if covered == 0:
        raise InputError(
            image,
            found="no voxel of the result lies inside this image",
            expected="the moving image of this transform",
            advice="check that image and transform belong together",
        )
    result = apply_to_image(volume, mapping, grid, interpolation=interpolation, outside=outside)
    write_volume(Volume(result.array, grid), out)
    yield f"{out}: {covered:.0%} inside the image, {outside:g} elsewhere"


def _outside_value(volume: Volume, stated: float, interpolation: str) -> float:
    """The value without data: what the file states, else air for an image in HU and 0 for another one.

    Args:
        volume: The image that is resampled.
        stated: The transform file's own value; 0 is what a file says that says nothing. It was made for the moving
            image, so an inverse has none.
        interpolation: By nearest neighbour an image that isn't in HU holds labels, which get 0.
    """
    in_hu = float(volume.array.min()) < -300
    if interpolation == "nearest" and not in_hu:
        return 0.0
    return stated or (float(AIR_HU) if in_hu else 0.0)


def _grid(found: TransformFile, transform: Path, like: Path | None, inverse: bool) -> tuple[Geometry, str]:
    """The result's grid, and a line if the file's own one was set aside."""
    if like is not None:
        grid = read_volume(like).geometry
        if found.grid is not None and not inverse and not grid.same_grid(found.grid, HEADER_TOLERANCE_MM):
            return grid, f"the grid of {like.name} is taken; {transform.name} states another one"
        return grid, ""
    if found.grid is None or inverse:
        why = "an inverse goes to the moving image's grid" if inverse else "no grid in the file"
        raise InputError(
            transform, found=why, expected="--like IMAGE", advice="name an image whose grid the result gets"
        )
    return found.grid, ""


def _apply_to_points(transform: Transform, path: Path, out: Path, inverse: bool) -> Iterator[str]:
    points = _read_points(path)
    if inverse:
        moved, error = invert_points(transform, points)
        found = error < FOUND_MM
        moved[~found] = np.nan  # a reader stumbles over it; a wrong place would go unseen
        worst = f"error at most {error[found].max():.4f} mm; " if found.any() else ""
        yield f"inverse: {worst}none found for {np.count_nonzero(~found)} of {len(points)} points"
    else:
        moved = transform(points)
    write_text(out, "x,y,z\n" + "".join(",".join(f"{v:.6f}" for v in p) + "\n" for p in moved))
    shift = np.linalg.norm(moved - points, axis=1)
    shift = shift[np.isfinite(shift)]
    if len(shift):
        yield f"{out}: {len(shift)} points moved by {shift.mean():.2f} mm on average, at most {shift.max():.2f} mm"


def _read_points(path: Path) -> np.ndarray:
    """Points [n, 3] of a CSV file."""
    if not path.is_file():
        raise InputError(path, found=not_a_file(path), expected="points, x,y,z a line")
    points = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        words = [w for w in line.replace(";", ",").split(",") if w.strip()]
        if not words:
            continue
        try:
            values = [float(w) for w in words]
        except ValueError:
            if number == 1:
                continue  # a header
            values = []
        if len(values) != 3 or not np.isfinite(values).all():
            raise InputError(path, found=f"line {number} is '{line[:40]}'", expected="three finite numbers x,y,z in mm")
        points.append(values)
    if not points:
        raise InputError(path, found="no points", expected="three numbers x,y,z a line")
    return np.array(points)
