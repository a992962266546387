"""The pictures of contrasts in docs/simulation.md, and the figures beside them.

    python docs/simulation/make_contrasts.py CT --labels LABELS      # a CT whose licence allows its pictures
    python docs/simulation/make_contrasts.py                         # a painted abdomen

Prints, for every contrast, the signal of marrow, cortex, disc, vessel and fat relative to muscle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sctlab.simulation.acquisition import Acquisition, acquire
from sctlab.simulation.case import simulate
from sctlab.simulation.fractions import Channel
from sctlab.simulation.sequences import Kind, Output, Sequence
from sctlab.simulation.settings import CaseSettings
from sctlab.simulation.signals import magnetisation, tissue_signals
from sctlab.simulation.tissues import Tissue
from sctlab_model.cases import Region, Task

HERE = Path(__file__).resolve().parent
CONTRASTS = {
    "T1 GRE, in phase": Sequence(Kind.GRE, 1.5, 7.0, 4.6, 12.0, output=Output.IN_PHASE),
    "T1 GRE, opposed": Sequence(Kind.GRE, 1.5, 6.0, 2.3, 12.0, output=Output.OPPOSED),
    "Dixon water": Sequence(Kind.GRE, 1.5, 7.0, 4.6, 12.0, output=Output.WATER),
    "Dixon fat": Sequence(Kind.GRE, 1.5, 7.0, 4.6, 12.0, output=Output.FAT),
    "T1 TSE": Sequence(Kind.T1_TSE, 1.5, 600.0, 10.0, 90.0),
    "T2 TSE": Sequence(Kind.TSE, 1.5, 4000.0, 90.0, 90.0),
    "T2 TSE, fat-suppressed": Sequence(Kind.TSE, 1.5, 4000.0, 90.0, 90.0, fat_left=0.08),
    "bSSFP 0.35 T": Sequence(Kind.BSSFP, 0.35, 3.4, 1.7, 60.0),
    "bSSFP 1.5 T": Sequence(Kind.BSSFP, 1.5, 3.4, 1.7, 60.0),
    "T1 GRE, agent, fat-suppressed": Sequence(Kind.GRE, 1.5, 5.0, 2.3, 12.0, fat_left=0.08, agent_mm=1.0),
}
CLEAN = Acquisition(1.5, 0.006, 0.0, 0.0, 0.0, False, 0.2, 1000.0)


def regions(fractions: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Voxels of the tissues that a radiologist looks for."""
    from scipy import ndimage

    host, mineral, fat, air = (fractions[c] for c in (Channel.HOST, Channel.MINERAL, Channel.FAT, Channel.AIR))
    vertebra = np.isin(labels, range(26, 51))
    inner = ndimage.binary_erosion(vertebra, np.ones((1, 3, 3), bool))
    found = {
        "muscle": (host == Tissue.MUSCLE) & (fat < 40) & (mineral == 0) & (air == 0),
        "marrow": inner & (mineral < 70) & (host == Tissue.RED_MARROW),
        "cortex": mineral > 200,
        "disc": host == Tissue.DISC,
        "vessel": (host == Tissue.BLOOD) & np.isin(labels, (52, 63)),
        "fat": (host == Tissue.MUSCLE) & (fat > 235),
    }
    return {name: where for name, where in found.items() if where.sum() > 20}


def main() -> None:
    """Draw the contrasts of one patient and print their figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct", nargs="?")
    parser.add_argument("--labels")
    parser.add_argument("--out", type=Path, default=HERE / "contrasts.png")
    arguments = parser.parse_args()
    settings = CaseSettings(spacing_xyz=(2, 2, 3), size_xyz=(200, 160, 56), amplitude_mm=0, seed=3)
    if arguments.ct:
        settings = settings.model_copy(update={"ct": arguments.ct, "labels": arguments.labels, "size_xyz": None})
    case = simulate(Task.MRI, Region.AB, settings)
    maps, labels = case.fractions, case.labels_source.array
    air = maps[Channel.AIR] * np.float32(1 / 255)
    where = regions(maps, labels)
    column = int(np.median(np.nonzero(np.isin(labels, range(26, 51)))[2]))
    figure, axes = plt.subplots(4, 5, figsize=(17, 12.5))
    names = list(where)
    print("| contrast | " + " | ".join(n for n in names if n != "muscle") + " |")
    for k, (title, sequence) in enumerate(CONTRASTS.items()):
        rng = np.random.default_rng(0)
        water, fat = magnetisation(maps, tissue_signals(sequence))
        image = acquire(water, fat, air, case.source.geometry, sequence, CLEAN, rng)
        level = {n: float(np.median(image[m])) for n, m in where.items()}
        print(f"| {title} | " + " | ".join(f"{level[n] / level['muscle']:.2f}" for n in names if n != "muscle") + " |")
        top = np.percentile(image, 99.5)
        upper, lower = axes[2 * (k // 5), k % 5], axes[2 * (k // 5) + 1, k % 5]
        upper.imshow(image[len(image) // 2], cmap="gray", vmin=0, vmax=top)
        lower.imshow(image[::-1, :, column], cmap="gray", vmin=0, vmax=top, aspect=1.5)
        upper.set_title(title)
    for axis in axes.ravel():
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=60)
    Image.open(arguments.out).convert("RGB").quantize(64).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
