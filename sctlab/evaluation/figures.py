"""Figures of the report, each as a `data:` address that an offline page can show."""

from __future__ import annotations

import io
import itertools
import tempfile
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sctlab.evaluation.definitions import METRICS
from sctlab.evaluation.images import Images
from sctlab.evaluation.ranking import Ranking, Stability
from sctlab.evaluation.records import CaseRecord
from sctlab.pictures import BONE_WINDOW, CT_WINDOW, DIFFERENCE_WINDOW, Layer, centre_index, save_planes
from sctlab.reporting import data_address

# Okabe and Ito's colours, told apart by all kinds of colour vision
REGION_COLOURS = {"AB": "#0072B2", "HN": "#D55E00", "TH": "#009E73"}
GREY = "#6b7280"
STYLE: Any = {  # matplotlib types the keys as literals
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
    "axes.titleweight": "bold", "axes.edgecolor": "#9ca3af", "xtick.color": "#374151", "ytick.color": "#374151",
    "axes.grid": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "svg.fonttype": "none", "font.family": "sans-serif", "legend.frameon": False,
}  # fmt: skip


def distributions(records: Sequence[CaseRecord], keys: Sequence[str]) -> str | None:
    """A point a case and a box a region, one panel a metric."""
    keys = [k for k in keys if any(r.metrics.get(k) is not None for r in records)]
    if not keys:
        return None
    regions = sorted({r.region for r in records})
    with rc_context(STYLE):
        figure, axes = _panels(len(keys), columns=5, width=2.2, height=2.3)
        for axis, key in zip(axes, keys, strict=True):
            groups = [[v for r in records if r.region == g and (v := r.metrics.get(key)) is not None] for g in regions]
            _boxes(axis, groups, regions, [REGION_COLOURS.get(g, GREY) for g in regions])
            axis.set_title(METRICS[key].label)
        return as_svg(figure)


def organs(records: Sequence[CaseRecord]) -> str | None:
    """Dice and HD95 of every class, worst on top."""
    scores: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for record in records:
        for organ in record.organs:
            scores[organ["name"]].append((organ["dice"], organ["hd95"]))
    if not scores:
        return None
    names = sorted(scores, key=lambda n: np.mean([d for d, _ in scores[n]]), reverse=True)
    with rc_context(STYLE):
        figure = new_figure(10.5, 0.9 + 0.2 * len(names))
        left, right = figure.subplots(1, 2, sharey=True)
        for row, name in enumerate(names):
            dice = [d for d, _ in scores[name]]
            distance = [h for _, h in scores[name] if h is not None]
            for axis, values, colour in ((left, dice, "#0072B2"), (right, distance, "#D55E00")):
                axis.plot(values, [row] * len(values), "o", color=colour, alpha=0.35, markersize=3.5, markeredgewidth=0)
                if values:
                    axis.plot(np.mean(values), row, "|", color="black", markersize=9, markeredgewidth=1.4)
        left.set_yticks(range(len(names)), [n.replace("_", " ") for n in names], fontsize=8)
        left.set_ylim(-0.7, len(names) - 0.3)
        left.set_xlim(-0.02, 1.02)
        left.set_title("Dice")
        right.set_title("HD95 (mm); lost organs have none")
        right.set_xlim(left=0)
        return as_svg(figure)


def tissues(records: Sequence[CaseRecord]) -> str | None:
    """Absolute and signed error of each tissue by region."""
    names = list(dict.fromkeys(t for r in records for t in r.tissues))
    if not names:
        return None
    regions = sorted({r.region for r in records})
    with rc_context(STYLE):
        figure = new_figure(10.5, 2.8)
        panels = zip(
            figure.subplots(1, 3),
            (
                ("mae_hu", "Mean absolute error (HU)", 1),
                ("mean_error_hu", "Mean error, sCT minus CT (HU)", 1),
                ("mae_density", "Electron density error (% of water)", 100),
            ),
            strict=True,
        )
        for axis, (key, title, factor) in panels:
            for index, region in enumerate(regions):
                values = [
                    np.mean(
                        [factor * r.tissues[t][key] for r in records if r.region == region and t in r.tissues]
                        or [np.nan]
                    )
                    for t in names
                ]
                width = 0.8 / len(regions)
                places = np.arange(len(names)) + (index - (len(regions) - 1) / 2) * width
                axis.bar(places, values, width * 0.92, color=REGION_COLOURS.get(region, GREY), label=region)
            axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
            axis.axhline(0, color="#9ca3af", linewidth=0.8)
            axis.set_title(title)
            axis.grid(axis="x", visible=False)
        if len(regions) > 1:
            axis.legend()
        return as_svg(figure)


def depth(records: Sequence[CaseRecord]) -> str | None:
    """Error by depth below the mask's border: the cases in grey, regions' means in colour."""
    if not any(r.depth for r in records):
        return None
    with rc_context(STYLE):
        figure = new_figure(10.5, 2.8)
        for axis, key, title in zip(
            figure.subplots(1, 2),
            ("mae_hu", "mean_error_hu"),
            ("Mean absolute error (HU)", "Mean error, sCT minus CT (HU)"),
            strict=True,
        ):
            shells = sorted({d["from_mm"] or 0.0 for r in records for d in r.depth})
            for record in records:
                axis.plot(
                    [shells.index(d["from_mm"] or 0.0) for d in record.depth],
                    [d[key] for d in record.depth],
                    color="#d1d5db",
                    linewidth=0.7,
                )
            for region in sorted({r.region for r in records}):
                values = [
                    np.mean(
                        [d[key] for r in records if r.region == region for d in r.depth if d["from_mm"] == s]
                        or [np.nan]
                    )
                    for s in shells
                ]
                axis.plot(values, "o-", color=REGION_COLOURS.get(region, GREY), markersize=4, label=region)
            ends = [f"{a:g}-{b:g}" for a, b in itertools.pairwise(shells)] + [f"over {shells[-1]:g}"]
            axis.set_xticks(range(len(shells)), ends)
            axis.set_xlabel("depth below the mask's border (mm)")
            axis.axhline(0, color="#9ca3af", linewidth=0.8)
            axis.set_title(title)
            axis.legend()
        return as_svg(figure)


def slices(record: CaseRecord) -> str | None:
    """Error of every slice of one case along the three axes."""
    if not record.slices:
        return None
    with rc_context(STYLE):
        figure = new_figure(10.5, 2.2)
        panels = figure.subplots(1, 3, sharey=True)
        for axis, name in zip(panels, ("z", "y", "x"), strict=True):
            errors = record.slices[name]
            axis.plot(errors["position_mm"], errors["mae_hu"], color="#0072B2", linewidth=1.2, label="absolute")
            axis.plot(errors["position_mm"], errors["mean_error_hu"], color="#D55E00", linewidth=1.2, label="signed")
            axis.axhline(0, color="#9ca3af", linewidth=0.8)
            axis.set_xlabel(f"{name} (mm)")
            axis.set_title(f"along {name}; offset of slices {record.banding[name]:.1f} HU")
        panels[0].set_ylabel("error (HU)")
        panels[0].legend()
        return as_svg(figure)


def calibration(records: Sequence[CaseRecord]) -> str | None:
    """Reliability diagram: error against spread, a line a case."""
    chosen = [(r.region, r.spread) for r in records if r.spread]
    if not chosen:
        return None
    with rc_context(STYLE):
        figure = new_figure(4.2, 3.6)
        axis = figure.subplots()
        top = 0.0
        for region, found in chosen:
            spread, error = found["spread_hu"], found["error_hu"]
            axis.plot(spread, error, "o-", color=REGION_COLOURS.get(region, GREY), alpha=0.6, markersize=3)
            top = max(top, *spread, *error)
        axis.plot([0, top], [0, top], "--", color=GREY, linewidth=1, label="calibrated")
        axis.set_xlabel("spread of the ensemble, RMS of a bin (HU)")
        axis.set_ylabel("error, RMS of the bin (HU)")
        axis.legend()
        return as_svg(figure)


def bias(records: Sequence[CaseRecord]) -> str | None:
    """MAE against the truth and against the registered reference, a line a case."""
    scored = [(r.id, {k: v or 0.0 for k, v in r.truth.items()}) for r in records if r.truth]
    chosen = sorted(scored, key=lambda entry: entry[1]["bias_hu"])
    if not chosen:
        return None
    with rc_context(STYLE):
        figure = new_figure(10.5, 1.0 + 0.24 * len(chosen))
        axis = figure.subplots()
        for row, (_, truth) in enumerate(chosen):
            aligned, registered = truth["mae_aligned"], truth["mae_registered"]
            axis.plot([aligned, registered], [row, row], color="#d1d5db", linewidth=3, zorder=1)
            axis.plot(aligned, row, "o", color="#009E73", label="aligned truth" if row == 0 else None)
            axis.plot(registered, row, "o", color="#D55E00", label="registered reference" if row == 0 else None)
        axis.set_yticks(range(len(chosen)), [name for name, _ in chosen])
        axis.set_xlabel("MAE (HU), without content that changed between the scans")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return as_svg(figure)


def comparison(names: tuple[str, str], pairs: dict[str, list[tuple[str, float, float]]]) -> str | None:
    """Difference B - A of every case, one panel a metric; `pairs` is metric → [(region, a, b)]."""
    pairs = {k: v for k, v in pairs.items() if v}
    if not pairs:
        return None
    with rc_context(STYLE):
        figure, axes = _panels(len(pairs), columns=4, width=2.7, height=2.5)
        for axis, (key, values) in zip(axes, pairs.items(), strict=True):
            regions = sorted({r for r, _, _ in values})
            groups = [[b - a for r, a, b in values if r == g] for g in regions]
            _boxes(axis, groups, regions, [REGION_COLOURS.get(g, GREY) for g in regions])
            axis.axhline(0, color="black", linewidth=0.9)
            better = METRICS[key].better
            hint = {"higher": "above 0", "lower": "below 0", "zero": "closer to 0 counts"}[better]
            axis.set_title(f"{textwrap.fill(METRICS[key].label, 30)}\n{names[1]} better: {hint}", fontsize=8)
        return as_svg(figure)


def ranking(ranking: Ranking, stability: Stability | None, significant: dict[str, np.ndarray] | None) -> str | None:
    """Places under resampling, and in how many metrics a method beats another significantly; None without cases."""
    if stability is None or significant is None:
        return None
    names, count = [textwrap.shorten(n, 24, placeholder="…") for n in ranking.methods], len(ranking.methods)
    balance = np.sum(list(significant.values()), axis=0)
    with rc_context(STYLE):
        figure = new_figure(11, 1.6 + 0.42 * count)
        left, right = figure.subplots(1, 2)
        rows, places = np.nonzero(stability.shares)
        left.scatter(places + 1, rows, s=420 * stability.shares[rows, places], color="#0072B2", alpha=0.75, linewidth=0)
        left.plot(ranking.places, range(count), "x", color="black")
        left.set_xlim(0.5, count + 0.5)
        left.set_xticks(range(1, count + 1))
        left.set_xlabel("place; area: share of resamplings, cross: place on all cases")
        limit = max(1, int(np.abs(balance).max()))
        right.imshow(balance, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for a, b in zip(*np.nonzero(~np.eye(count, dtype=bool)), strict=True):
            colour = "white" if abs(balance[a, b]) > 0.6 * limit else "black"
            text = f"{balance[a, b]:+d}" if balance[a, b] else "0"
            right.text(b, a, text, ha="center", va="center", fontsize=8, color=colour)
        right.set_xticks(range(count), names, rotation=40, ha="right")
        right.set_title("metrics won minus lost, row against column")
        right.grid(visible=False)
        for axis in (left, right):
            axis.set_yticks(range(count), names)
            axis.set_ylim(count - 0.5, -0.5)
        return as_svg(figure)


def planes(images: Images, *, z: int | None = None) -> str:
    """Input, CT, sCT and difference in three planes, as a PNG."""
    mask = images.reference.with_array(images.mask)
    x, y, middle = centre_index(mask, images.reference)
    difference = images.prediction.array.astype(np.float32) - images.reference.array
    contour = mask if min(mask.array.shape) > 1 else None  # matplotlib draws none in a plane of one row
    on_grid = images.reference.with_array  # the scores compare voxel by voxel, whatever the headers say
    layers = [Layer("input", on_grid(images.source.array))] if images.source is not None else []
    layers += [
        Layer("CT (reference)", images.reference, CT_WINDOW, unit="HU"),
        Layer("sCT", on_grid(images.prediction.array), CT_WINDOW, unit="HU"),
        Layer("CT, bone", images.reference, BONE_WINDOW, unit="HU"),
        Layer("sCT, bone", on_grid(images.prediction.array), BONE_WINDOW, unit="HU"),
        Layer("sCT − CT", on_grid(difference), DIFFERENCE_WINDOW, "RdBu_r", contour=contour, unit="HU"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = save_planes(layers, Path(folder) / "planes.png", index_xyz=(x, y, middle if z is None else z))
        return data_address(path.read_bytes(), "image/png")


def _boxes(axis: Axes, groups: Sequence[Sequence[float]], names: Sequence[str], colours: Sequence[str]) -> None:
    random = np.random.default_rng(0)
    for place, (values, colour) in enumerate(zip(groups, colours, strict=True)):
        if len(values) > 4:
            axis.boxplot(
                [values],
                positions=[place],
                widths=0.5,
                showfliers=False,
                manage_ticks=False,
                medianprops={"color": "black"},
                boxprops={"color": GREY},
                whiskerprops={"color": GREY},
                capprops={"color": GREY},
            )
        jitter = random.uniform(-0.12, 0.12, len(values))
        axis.plot(place + jitter, values, "o", color=colour, alpha=0.65, markersize=4, markeredgewidth=0)
    axis.set_xticks(range(len(names)), [f"{n} ({len(g)})" for n, g in zip(names, groups, strict=True)])
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.grid(axis="x", visible=False)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of `width` x `height` inches, at most `columns` a row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, list(axes[:count])


def as_svg(figure: Figure) -> str:
    """The figure as a `data:` address, with text as text."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return data_address(buffer.getvalue(), "image/svg+xml")


def as_png(figure: Figure, dpi: int = 110) -> str:
    """The figure as a `data:` address, for pictures of voxels."""
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return data_address(buffer.getvalue(), "image/png")
