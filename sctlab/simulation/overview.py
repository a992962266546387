"""The picture of a case: source, CT as it lies, CT aligned (the truth), and what the motion did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sctlab.pictures import CT_WINDOW, DIFFERENCE_WINDOW, Layer, centre_index, save_planes
from sctlab_model.volume import AIR_HU, Volume, resample


def save_overview(files: dict[str, Volume], path: Path, title: str) -> Path:
    """Write `overview.png` for the files of a case (names relative to the case folder)."""
    name = "mr.mha" if "mr.mha" in files else "cbct.mha"
    source, aligned, mask = files[name], files["truth/ct_aligned.mha"], files["mask.mha"]
    ct = resample(files["ct.mha"], source.geometry, outside=AIR_HU)
    difference = aligned.with_array(ct.array.astype(np.float32) - aligned.array)
    inside = source.array[mask.array > 0]
    is_mr = name == "mr.mha"
    window = (0.0, float(np.percentile(inside, 99.5))) if is_mr and inside.size else CT_WINDOW
    layers = [
        Layer(f"{name.split('.')[0].upper()}, mask outlined", source, window, contour=mask, unit="" if is_mr else "HU"),
        Layer("CT of another day", ct, CT_WINDOW, unit="HU"),
        Layer("CT aligned (truth)", aligned, CT_WINDOW, unit="HU"),
        Layer("CT − truth", difference, DIFFERENCE_WINDOW, "RdBu_r", unit="HU"),
        Layer("labels (ids)", files["truth/labels_source.mha"], (0, 118), "nipy_spectral"),
    ]
    return save_planes(layers, path, index_xyz=centre_index(mask, source), title=title)
