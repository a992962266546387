"""Doses of a case for the report: isodoses on CT and sCT, their difference, dose-volume histograms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sctlab.evaluation.figures import GREY, STYLE, as_png, new_figure
from sctlab.evaluation.images import Images
from sctlab.pictures import CT_WINDOW, centre_index, plane
from sctlab_model.io.reading import read_volume
from sctlab_model.preparation import orient
from sctlab_model.volume import AIR_HU, resample

# percent of the prescription and colour, cold to hot
ISODOSES = {20: "#56B4E9", 50: "#009E73", 80: "#F0E442", 95: "#E69F00", 105: "#D55E00"}
CURVES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # target, then the organs
LIMIT = 10.0  # of the difference, percent of the prescription
BODY_HU, MARGIN = -400, 3  # what the picture is cropped to, and pixels around it


def dose_picture(images: Images, entry: dict[str, Any]) -> str | None:
    """One modality of one case as a `data:` address; None where its doses were not kept.

    Args:
        images: The case's.
        entry: What `score_dose` recorded: plan, histograms, files.
    """
    files = {key: Path(path) for key, path in entry.get("files", {}).items()}
    if not files or not all(path.is_file() for path in files.values()):
        return None
    prescription = entry["plan"]["prescription_gy"]
    on_ct, on_sct, target = (orient(read_volume(files[key])) for key in ("ct", "sct", "target"))
    index = centre_index(target, target)
    ct, sct = (
        resample(v.with_array(v.array.astype(np.float32)), target.geometry, outside=AIR_HU)
        for v in (images.reference, images.prediction)
    )
    with rc_context(STYLE):
        figure = new_figure(12.4, 3.7)
        panels = figure.subplots(1, 4, width_ratios=(1, 1, 1.2, 1.3))
        for axis, image, dose, title in (
            (panels[0], ct, on_ct, "Plan on the CT"),
            (panels[1], sct, on_sct, "The same plan on the sCT"),
        ):
            picture, aspect = plane(image, "axial", index)
            axis.imshow(picture, cmap="gray", vmin=CT_WINDOW[0], vmax=CT_WINDOW[1], aspect=aspect)
            levels = [prescription * percent / 100 for percent in ISODOSES]
            _lines(axis, plane(dose, "axial", index)[0], levels, list(ISODOSES.values()))
            axis.set_title(title)
        difference = 100 * (plane(on_sct, "axial", index)[0] - plane(on_ct, "axial", index)[0]) / prescription
        shown = panels[2].imshow(difference, cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT, aspect=aspect)
        panels[2].set_title("sCT − CT, % of the prescription")
        figure.colorbar(shown, ax=panels[2], shrink=0.8)
        outline = plane(target, "axial", index)[0].astype(float)
        for axis, colour in zip(panels, ("white", "white", "black"), strict=False):
            _lines(axis, outline, [0.5], [colour], "--")
            _around(axis, plane(ct, "axial", index)[0] > BODY_HU)
        _histograms(panels[3], entry)
        keys = [Line2D([], [], color=colour, label=f"{percent} %") for percent, colour in ISODOSES.items()]
        keys.append(Line2D([], [], color=GREY, linestyle="--", label="target"))
        figure.legend(handles=keys, loc="outside lower left", ncols=len(keys), title="isodoses, of the prescription")
        return as_png(figure)


def _lines(axis: Axes, values: np.ndarray, levels: Sequence[float], colours: Sequence[str], style: str = "-") -> None:
    if min(values.shape) > 1 and values.min() < max(levels) and values.max() > min(levels):
        axis.contour(values, levels=levels, colors=list(colours), linewidths=1.1, linestyles=style)


def _around(axis: Axes, body: np.ndarray) -> None:
    """No ticks, and only the body with a margin."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    if body.any():
        rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
        axis.set_xlim(columns[0] - MARGIN, columns[-1] + MARGIN)
        axis.set_ylim(rows[-1] + MARGIN, rows[0] - MARGIN)


def _histograms(axis: Axes, entry: dict[str, Any]) -> None:
    """Solid on the CT, dashed on the sCT."""
    for (name, curve), colour in zip(entry["histograms"].items(), CURVES, strict=False):
        axis.plot(entry["dose_gy"], curve["ct"], color=colour, linewidth=1.3, label=name.replace("_", " "))
        axis.plot(entry["dose_gy"], curve["sct"], color=colour, linewidth=1.3, linestyle="--")
    axis.axvline(entry["plan"]["prescription_gy"], color=GREY, linewidth=0.8)
    axis.set_xlabel("dose (Gy)")
    axis.set_ylabel("volume with at least that dose (%)")
    axis.set_ylim(0, 101)
    axis.set_xlim(0, entry["dose_gy"][-1])
    axis.set_title("CT solid, sCT dashed")
    axis.legend(fontsize=8)
