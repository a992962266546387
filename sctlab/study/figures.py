"""Figures of a study's report, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sctlab.evaluation.figures import STYLE
from sctlab.pictures import CT_WINDOW, DIFFERENCE_WINDOW, plane
from sctlab.study.analysis import Slope
from sctlab.study.displacement import MAP_YX
from sctlab.study.names import label_of
from sctlab.study.scores import PROFILE_STEPS, Profiles
from sctlab_model.preparation import orient
from sctlab_model.volume import Volume

COLUMNS = 4
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#999999")
FACING_NAMES = {0: ("up", "down"), 1: ("back", "front"), 2: ("left", "right")}  # of the patient; axes point to LPS


def dose_figure(slopes: Sequence[Slope]) -> bytes | None:
    """One panel a quantity and part: means at the planted levels with their 95 % intervals, and the fitted line."""
    if not slopes:
        return None
    lines = -(-len(slopes) // COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.7 * COLUMNS, 2.4 * lines), layout="constrained")
        for index, slope in enumerate(slopes):
            axis = figure.add_subplot(lines, COLUMNS, index + 1)
            # bootstrap percentiles need not hold the mean of a skewed few
            errors = [
                np.maximum(np.subtract(slope.means, slope.lows), 0),
                np.maximum(np.subtract(slope.highs, slope.means), 0),
            ]
            axis.errorbar(slope.levels, slope.means, errors, fmt="o", color="#0072B2", capsize=3, lw=1)
            middle = sum(slope.levels) / len(slope.levels), sum(slope.means) / len(slope.means)
            ends = (min(slope.levels), max(slope.levels))
            axis.plot(ends, [middle[1] + slope.slope * (x - middle[0]) for x in ends], color="#D55E00")
            title = f"{label_of(slope.quantity)}\n{slope.part} part" + (f", {slope.family}" if slope.family else "")
            axis.set_title(title, fontsize="small")
            axis.set_xlabel("planted, mm")
        return _png(figure)


def slices_figure(images: Mapping[str, Volume], title: str, mask: np.ndarray, *, minus: Volume | None = None) -> bytes:
    """The middle axial slice of every image, in one window, cut to the body; the patient's right is on the left.

    Args:
        images: By name, on one grid.
        title: Of the figure.
        mask: The body (bool, z y x).
        minus: The difference of every image to this one in the body is drawn below it.
    """
    first = next(iter(images.values()))
    mask = orient(first.with_array(mask)).array
    oriented_minus = None if minus is None else orient(minus)
    box = tuple(slice(max(0, int(i.min()) - 2), int(i.max()) + 3) for i in np.nonzero(mask.any(0)))
    inside = mask[len(mask) // 2][box]
    lines = -(-len(images) // COLUMNS)
    rows = lines * (2 if minus is not None else 1)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.7 * COLUMNS, 2.2 * rows), layout="constrained")
        figure.suptitle(title)
        for index, (name, stored) in enumerate(images.items()):
            volume = orient(stored)
            middle = [n // 2 for n in volume.geometry.size_xyz]
            place = (index // COLUMNS) * COLUMNS * (rows // lines) + index % COLUMNS + 1
            axis = figure.add_subplot(rows, COLUMNS, place)
            cut, aspect = plane(volume, "axial", middle)
            axis.imshow(cut[box], cmap="gray", vmin=CT_WINDOW[0], vmax=CT_WINDOW[1], aspect=aspect)
            axis.set_title(name)
            axis.set_axis_off()
            if oriented_minus is not None and stored is not minus:
                axis = figure.add_subplot(rows, COLUMNS, place + COLUMNS)
                difference = cut.astype(np.float32) - plane(oriented_minus, "axial", middle)[0]
                low, high = DIFFERENCE_WINDOW
                axis.imshow(np.where(inside, difference[box], 0), cmap="RdBu_r", vmin=low, vmax=high, aspect=aspect)
                axis.set_title("minus the truth", fontsize="small")
                axis.set_axis_off()
        return _png(figure)


def profiles_figure(profiles: Mapping[str, Sequence[Profiles]], axis: int, step_mm: float) -> bytes | None:
    """Mean HU across the surfaces of bones, for surfaces that face along an axis and against it.

    Args:
        profiles: Image → one profile pair a case (see `edge_profiles`).
        axis: Of the arrays.
        step_mm: Between two places.
    """
    if not profiles:
        return None
    places = PROFILE_STEPS * step_mm
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        panels = [figure.add_subplot(1, 2, k + 1) for k in (0, 1)]
        for index, (name, cases) in enumerate(profiles.items()):
            means = _mean(np.array(cases, dtype=np.float64))
            for panel, line in zip(panels, means, strict=True):
                panel.plot(places, line, label=name, lw=2.2 if index == 0 else 1.2, **_style(index))
        for panel, facing in zip(panels, FACING_NAMES[axis], strict=True):
            panel.axvline(0, color="0.7", lw=0.8)
            panel.set_title(f"surfaces of bones that face the {facing}")
            panel.set_xlabel("outside of the true bone, mm")
            panel.set_ylabel("mean HU")
        panels[-1].legend(fontsize="small")
        return _png(figure)


def maps_figure(maps: Mapping[str, Sequence[list[list[list[float] | None]]]]) -> bytes | None:
    """Mean displacement over cases and slices in cells of the body's box: arrows in the plane, colour for its length.

    Args:
        maps: Training → one map a case (see `coarse_map`).
    """
    if not maps:
        return None
    lines = -(-len(maps) // COLUMNS)
    means = {name: mean_map(cases) for name, cases in maps.items()}
    longest = max([1.0, *(float(np.nanmax(np.linalg.norm(m[..., :2], axis=-1))) for m in means.values())])
    with rc_context(STYLE):
        figure = Figure(figsize=(2.7 * COLUMNS, 2.3 * lines), layout="constrained")
        image: Any = None
        for index, (name, vectors) in enumerate(means.items()):
            axis = figure.add_subplot(lines, COLUMNS, index + 1)
            image = axis.imshow(np.linalg.norm(vectors[..., :2], axis=-1), cmap="viridis", vmin=0, vmax=longest)
            axis.quiver(vectors[..., 0], vectors[..., 1], color="white", angles="xy", scale_units="xy", scale=longest)
            axis.set_title(name)
            axis.set_axis_off()
        if image is not None:
            figure.colorbar(image, ax=figure.axes, label="mm in the plane", shrink=0.8)
        return _png(figure)


def mean_map(cases: Sequence[list[list[list[float] | None]]]) -> np.ndarray:
    """Mean over cases of their coarse maps, [y, x, 3] in mm; NaN where no case has the cell."""
    empty = [float("nan")] * 3
    return _mean(
        np.array([[[cell or empty for cell in row] for row in case] for case in cases]).reshape(-1, *MAP_YX, 3)
    )


def curves_figure(curves: Mapping[str, Sequence[tuple[int, float]]], label: str) -> bytes | None:
    """A measure over iterations, one line a training: how far from converged each is.

    Args:
        curves: Training → iteration and mean over folds.
        label: Of the measure.
    """
    if not curves:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axis = figure.add_subplot()
        for index, (name, points) in enumerate(curves.items()):
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, label=name, **_style(index))
        axis.set_xlabel("iteration")
        axis.set_ylabel(label)
        axis.legend(fontsize="small")
        return _png(figure)


@dataclass(frozen=True)
class Row:
    """A line of `real_figure`.

    Args:
        name: Of the image.
        source: What the sCTs were made of.
        body: Bool, z y x, on its grid.
        images: HU by name, on the same grid.
    """

    name: str
    source: Volume
    body: np.ndarray
    images: Mapping[str, Volume]


def real_figure(lines: Sequence[Row]) -> bytes | None:
    """The middle axial slice of every source and of what was made of it, cut to the body; the patient's right is on the left."""
    if not lines:
        return None
    columns = 1 + max(len(line.images) for line in lines)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.2 * columns, 1.9 * len(lines)), layout="constrained")
        for index, line in enumerate(lines):
            mask = orient(line.source.with_array(line.body.astype(np.uint8))).array > 0
            box = tuple(slice(max(0, int(i.min()) - 2), int(i.max()) + 3) for i in np.nonzero(mask.any(0)))
            low, high = (float(v) for v in np.percentile(line.source.array[line.body], (0.5, 99.5)))
            images = {line.name: line.source, **line.images}
            for place, (name, stored) in enumerate(images.items()):
                volume = orient(stored)
                axis = figure.add_subplot(len(lines), columns, index * columns + place + 1)
                cut, aspect = plane(volume, "axial", [n // 2 for n in volume.geometry.size_xyz])
                window = CT_WINDOW if place else (low, high)
                axis.imshow(cut[box], cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
                axis.set_title(name, fontsize="small")
                axis.set_axis_off()
        return _png(figure)


def _style(index: int) -> dict[str, Any]:
    """Colour of a line; where the colours begin again it is dashed."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": ("-", "--", ":")[index // len(COLOURS) % 3]}


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    count = np.isfinite(values).sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(values, axis=0) / np.where(count, count, np.nan))


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
