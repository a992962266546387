"""Figures of a study's report, as `data:` addresses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sctlab.evaluation.figures import STYLE
from sctlab.pictures import CT_WINDOW, plane
from sctlab.reporting import data_address
from sctlab.study.analysis import Slope
from sctlab_model.volume import Volume

COLUMNS = 4


def dose_figure(slopes: Sequence[Slope]) -> str | None:
    """One panel a quantity and part: means at the planted levels and the fitted line."""
    if not slopes:
        return None
    lines = -(-len(slopes) // COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.7 * COLUMNS, 2.4 * lines), layout="constrained")
        for index, slope in enumerate(slopes):
            axis = figure.add_subplot(lines, COLUMNS, index + 1)
            axis.plot(slope.levels, slope.means, "o", color="#0072B2")
            middle = sum(slope.levels) / len(slope.levels), sum(slope.means) / len(slope.means)
            ends = (min(slope.levels), max(slope.levels))
            axis.plot(ends, [middle[1] + slope.slope * (x - middle[0]) for x in ends], color="#D55E00")
            axis.set_title(f"{slope.quantity}, {slope.part}")
            axis.set_xlabel("planted, mm")
        return _png(figure)


def slices_figure(images: Mapping[str, Volume], title: str) -> str:
    """The middle axial slice of every image, in one window."""
    lines = -(-len(images) // COLUMNS)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.7 * COLUMNS, 2.4 * lines), layout="constrained")
        figure.suptitle(title)
        for index, (name, volume) in enumerate(images.items()):
            axis = figure.add_subplot(lines, COLUMNS, index + 1)
            size = volume.geometry.size_xyz
            cut, aspect = plane(volume, "axial", [n // 2 for n in size])
            axis.imshow(cut, cmap="gray", vmin=CT_WINDOW[0], vmax=CT_WINDOW[1], aspect=aspect)
            axis.set_title(name)
            axis.set_axis_off()
        return _png(figure)


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return data_address(stream.getvalue(), "image/png")
