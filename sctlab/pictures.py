"""Pictures of volumes: the three planes through a point, in physical proportion, in one place for all parts.

They are shown as clinics do: the patient's right on the left of axial and coronal planes, front to the left of sagittal
ones, head up; whatever way the voxels of the file run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sctlab_model.io.atomic import atomic_path
from sctlab_model.preparation import orient, oriented_geometry
from sctlab_model.volume import Geometry, Volume, triple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CT_WINDOW = (-200.0, 300.0)  # soft tissue, HU
BONE_WINDOW = (-500.0, 1500.0)  # HU
WIDE_WINDOW = (-1000.0, 1000.0)  # lung to bone, HU
DIFFERENCE_WINDOW = (-300.0, 300.0)  # HU
GRID_LINE_MM = 10.0
LEGEND_INCH, LEGEND_LINE_INCH = 1.4, 0.17  # width of a column of names, height of a line
PLANES = ("axial", "coronal", "sagittal")
SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}  # the patient's, left and right in a plane


@dataclass(frozen=True)
class Layer:
    """One column of a figure.

    Args:
        title: Column title.
        volume: Scalar image (array z, y, x).
        window: Display limits; None takes the 1st to 99th percentile.
        colormap: A matplotlib colour map.
        contour: Mask or label volume on the same grid, drawn as a line.
        coordinates: Where each voxel's x, y and z go (three volumes, mm), drawn as a deformed grid of lines.
        unit: Of the values, behind the limits in the title.
        names: Of the values 0, 1, … of a label volume: each gets a colour of its own (0 is black), and those that the planes
            show stand beside the figure.
    """

    title: str
    volume: Volume
    window: tuple[float, float] | None = None
    colormap: str = "gray"
    contour: Volume | None = None
    coordinates: tuple[Volume, Volume, Volume] | None = None
    unit: str = ""
    names: tuple[str, ...] = ()


def plane(volume: Volume, name: str, index_xyz: Sequence[int]) -> tuple[np.ndarray, float]:
    """A 2D cut for display (rows top to bottom; head up) and its pixel aspect (height / width).

    Works on index axes: orient the volume to LPS first if its axes are flipped or permuted.
    """
    x, y, z = index_xyz
    sx, sy, sz = volume.geometry.spacing_xyz
    if name == "axial":
        return volume.array[z], sy / sx
    if name == "coronal":
        return volume.array[::-1, y], sz / sx
    return volume.array[::-1, :, x], sz / sy


def centre_index(mask: Volume | None, volume: Volume) -> tuple[int, int, int]:
    """Index (x, y, z) of the mask's centre of mass, or the middle of the volume."""
    if mask is not None and mask.array.any():
        z, y, x = (round(float(axis.mean())) for axis in np.nonzero(mask.array))
        return x, y, z
    nx, ny, nz = volume.geometry.size_xyz
    return nx // 2, ny // 2, nz // 2


def _upright_index(index_xyz: Sequence[int], grid: Geometry) -> tuple[int, int, int]:
    """An index of `grid` as one of its oriented grid."""
    index = oriented_geometry(grid).to_index(grid.to_physical(np.array(index_xyz)))
    return triple(int(i) for i in np.rint(index))


def _upright(layer: Layer, grid: Geometry) -> Layer:
    """The layer with its axes along L, P, S. `grid` is that of the figure: headers of one grid may differ by a little."""

    def turned(volume: Volume) -> Volume:
        return orient(replace(volume, geometry=grid))

    return replace(
        layer,
        volume=turned(layer.volume),
        contour=None if layer.contour is None else turned(layer.contour),
        coordinates=None if layer.coordinates is None else triple(map(turned, layer.coordinates)),
    )


def _write(axis: Axes, x: float, y: float, text: str, **alignment: Any) -> None:
    """A word on a picture, at a fraction of its width and height."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=1.5, foreground="black")]
    axis.text(x, y, text, transform=axis.transAxes, fontsize=7, color="cyan", path_effects=outline, **alignment)


def _label_colours(count: int) -> Any:
    """A colour map of `count` labels, 0 black: each is the one of 4x4x4 colours that is farthest from all before it."""
    from matplotlib.colors import ListedColormap

    known = np.stack(np.meshgrid(*[np.linspace(0, 1, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    colours = [np.zeros(3)]
    nearest = np.full(len(known), np.inf)
    while len(colours) < count:
        # The eye tells greens apart best, then reds.
        nearest = np.minimum(nearest, ((known - colours[-1]) ** 2 * (2, 4, 3)).sum(1))
        colours.append(known[nearest.argmax()])
    return ListedColormap(colours)


def seen_labels(layers: Sequence[Layer], planes: Sequence[str], index_xyz: Sequence[int]) -> dict[str, Any]:
    """Name and colour of every label that a plane shows."""
    seen: dict[str, Any] = {}
    for layer in layers:
        if layer.names:
            cuts = [plane(layer.volume, name, index_xyz)[0].ravel() for name in planes]
            colours = _label_colours(len(layer.names)).colors
            found = [int(k) for k in np.unique(np.concatenate(cuts)) if k]
            seen |= {layer.names[k]: colours[k] for k in found}
    return seen


def save_planes(
    layers: Sequence[Layer],
    path: str | Path,
    *,
    index_xyz: Sequence[int] | None = None,
    planes: Sequence[str] = PLANES,
    title: str = "",
    height_inch: float = 2.4,
) -> Path:
    """Write a PNG with a column a layer and a row a plane, all at one point.

    All volumes lie on the grid of the first, of any orientation, and `index_xyz` is an index of it. Colour bars are left
    out: the window stands in the title. The first column names the planes and the patient's sides.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    grid = layers[0].volume.geometry
    index_xyz = _upright_index(index_xyz or centre_index(None, layers[0].volume), grid)
    layers = [_upright(layer, grid) for layer in layers]
    ratios = []
    for name in planes:
        cut, aspect = plane(layers[0].volume, name, index_xyz)
        ratios.append(cut.shape[0] * aspect / cut.shape[1])
    width = 2.8
    heights = [max(0.6, width * r) for r in ratios]
    seen = seen_labels(layers, planes, index_xyz)
    legend_columns = -(-len(seen) // max(1, int(sum(heights) / LEGEND_LINE_INCH)))
    size = width * len(layers) + LEGEND_INCH * legend_columns, sum(heights) + 0.5
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(planes), len(layers), squeeze=False, height_ratios=heights)
    for column, layer in enumerate(layers):
        window = layer.window or tuple(np.percentile(layer.volume.array, (1, 99)))
        colours: Any = layer.colormap
        if layer.names:
            window, colours = (0, len(layer.names) - 1), _label_colours(len(layer.names))
        for row, name in enumerate(planes):
            axis = axes[row, column]
            cut, aspect = plane(layer.volume, name, index_xyz)
            axis.imshow(cut, cmap=colours, vmin=window[0], vmax=window[1], aspect=aspect, interpolation="nearest")
            if layer.contour is not None:
                line = plane(layer.contour, name, index_xyz)[0]
                if line.any() and not line.all():
                    axis.contour(line > 0, levels=[0.5], colors="tab:orange", linewidths=1.0)
            if layer.coordinates is not None:
                for component in {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[name]:
                    along = plane(layer.coordinates[component], name, index_xyz)[0]
                    levels = np.arange(np.floor(along.min()), along.max(), GRID_LINE_MM)
                    axis.contour(along, levels=levels, colors="black", linewidths=0.4, linestyles="solid")
            axis.set_axis_off()
            if row == 0:
                limits = "" if layer.names else f"[{window[0]:.0f}, {window[1]:.0f}] {layer.unit}".rstrip()
                axis.set_title(f"{layer.title}\n{limits}", fontsize=8)
            if column == 0:
                left, right = SIDES[name]
                _write(axis, 0.01, 0.98, name, ha="left", va="top")
                _write(axis, 0.01, 0.5, left, ha="left", va="center")
                _write(axis, 0.99, 0.5, right, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize=9)
    if seen:
        from matplotlib.patches import Patch

        keys = [Patch(facecolor=colour, edgecolor="gray", linewidth=0.3, label=name) for name, colour in seen.items()]
        figure.legend(handles=keys, loc="outside right upper", ncols=legend_columns, fontsize=7, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
