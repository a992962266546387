"""The pictures and the histogram of docs/simulation.md.

    python docs/simulation/make_figures.py COHORT [--reference CT.nii.gz]

`COHORT` is what the commands of the page's section "Pictures" wrote. The reference is a real abdominal CT; only
its histogram goes into the figure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sctlab_model.body import body_mask
from sctlab_model.cases import Task, find_cohort
from sctlab_model.io.reading import read_volume

HERE = Path(__file__).parent
BINS = np.arange(-1024, 1600, 16)


def histogram(path: Path) -> np.ndarray:
    """Share of the body's voxels in every bin, in percent."""
    ct = read_volume(path)
    inside = ct.array[body_mask(ct, Task.CBCT).array]
    return 100 * np.histogram(inside, BINS)[0] / inside.size


def main() -> None:
    """Copy the overviews, draw the histogram."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--reference", type=Path)
    arguments = parser.parse_args()
    for case in find_cohort(arguments.cohort):
        picture = Image.open(case.folder / "overview.png").convert("RGB")
        width = 1100
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
        picture.quantize(128).save(HERE / f"{case.id}.png", optimize=True)
    figure = Figure(figsize=(7, 3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    middle = (BINS[1:] + BINS[:-1]) / 2
    for case in find_cohort(arguments.cohort):
        if case.region == "AB":
            axis.plot(middle, histogram(case.target), lw=1, label=f"simulated {case.id}")
    if arguments.reference:
        axis.plot(middle, histogram(arguments.reference), "k", lw=1.2, label="a real abdomen (3 mm voxels)")
    axis.set(xlabel="HU", ylabel="% of the body", yscale="log", ylim=(1e-3, 30), xlim=(-1024, 1500))
    axis.legend(fontsize=7)
    figure.savefig(HERE / "histogram.png")


if __name__ == "__main__":
    main()
