"""Real MR beside simulated MR of the same family: tissue contrasts, noise, edges, histogram; and a real pair.

    python benchmarks/simulation_realism.py [--draws 200] [--data ../shared/data] > benchmarks/simulation_realism.txt

For each real MR, tissues outlined in `test/sctlab/simulation/rois/*.json` (boxes by hand, or labels that came with the
image) give the signal of every tissue relative to muscle. A protocol of the family is drawn again and again, with the
patient's relaxation times, fat and marrow, and imaged from fraction maps of a patch per tissue; a real ratio should lie
inside the 5th to 95th percentile of what is simulated, and the simulated spread should be no wider than what published
relaxation times give (`PUBLISHED`, independent of the simulator's table). The simulator's protocols and tissues were
chosen with these four images at hand: `simulation_held_out.py` asks one that was not.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sctlab.simulation.acquisition import Acquisition, acquire
from sctlab.simulation.fractions import Channel, sample_tissue_fat
from sctlab.simulation.marrow import sample_marrow_fat
from sctlab.simulation.sequences import Kind, Output, Sequence
from sctlab.simulation.signals import magnetisation, signal, tissue_signals
from sctlab.simulation.tissues import Tissue
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume

ROOT = Path(__file__).resolve().parent.parent
ROIS = ROOT / "test" / "sctlab" / "simulation" / "rois"

# What a region of each name is made of: host tissue, bone (label) whose marrow it is, share of mineral
REGIONS: dict[str, tuple[Tissue, int, float]] = {
    "liver": (Tissue.LIVER, 0, 0),
    "spleen": (Tissue.SPLEEN, 0, 0),
    "kidney": (Tissue.KIDNEY, 0, 0),
    "pancreas": (Tissue.PANCREAS, 0, 0),
    "muscle": (Tissue.MUSCLE, 0, 0),
    "blood": (Tissue.BLOOD, 0, 0),
    "csf": (Tissue.CSF, 0, 0),
    "cord": (Tissue.CORD, 0, 0),
    "disc": (Tissue.DISC, 0, 0),
    "white_matter": (Tissue.WHITE_MATTER, 0, 0),
    "grey_matter": (Tissue.GREY_MATTER, 0, 0),
    "fat": (Tissue.FAT, 0, 0),
    "vertebra": (Tissue.RED_MARROW, 29, 0.12),
    "femur_marrow": (Tissue.RED_MARROW, 75, 0.02),
    "femoral_head": (Tissue.RED_MARROW, 75, 0.20),
    "pelvis_marrow": (Tissue.RED_MARROW, 77, 0.15),
    "cortex": (Tissue.CORTICAL_BONE, 75, 0.95),
}


@dataclass(frozen=True)
class RealImage:
    """A real MR with outlined tissues.

    Args:
        values: Voxels of every tissue.
        image: The MR, axes LPS.
    """

    name: str
    family: str
    values: dict[str, np.ndarray]
    image: Volume


def read_real(path: Path, data: Path) -> RealImage:
    """The image that an outline file names, with its tissues' voxels."""
    outline = json.loads(path.read_text(encoding="utf-8"))
    image = _oriented(data / outline["image"])
    values: dict[str, list[np.ndarray]] = {}
    for tissue, boxes in outline["boxes"].items():
        for x0, y0, z0, x1, y1, z1 in boxes:
            values.setdefault(tissue, []).append(image.array[z0:z1, y0:y1, x0:x1].ravel())
    if "labels" in outline:
        labels = _oriented(data / outline["labels"]).array
        for tissue, ids in outline["label_ids"].items():
            inside = _eroded(np.isin(labels, ids))
            values.setdefault(tissue, []).append(image.array[inside])
    return RealImage(path.stem, outline["family"], {t: np.concatenate(v) for t, v in values.items()}, image)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The mask without its in-plane rim, where that leaves anything."""
    from scipy import ndimage

    inner = ndimage.binary_erosion(mask, np.ones((1, 3, 3), bool))
    return inner if inner.sum() > 20 else mask


def _oriented(path: Path) -> Volume:
    import SimpleITK as sitk

    return Volume.from_sitk(sitk.DICOMOrient(read_volume(path).to_sitk(), "LPS"), str(path))


def draw_protocol(family: str, rng: np.random.Generator) -> Sequence:
    """A protocol of one family, as the simulator draws them."""
    kinds = {"t2_tse": Kind.TSE, "flair": Kind.FLAIR, "t1_tse": Kind.T1_TSE, "dixon_fat": Kind.GRE}
    while True:
        sequence = Sequence.sample_kind(kinds[family], rng)
        if family == "dixon_fat":
            return replace(sequence, output=Output.FAT, fat_left=1.0, agent_mm=0.0)
        if sequence.agent_mm == 0 and (sequence.fat_left < 1) == (family == "flair"):
            return sequence


def patches(tissues: list[str], rng: np.random.Generator) -> np.ndarray:
    """Fraction maps of one patient: a square per tissue, in a row with muscle first, surrounded by muscle."""
    fat_of, marrow = sample_tissue_fat(rng), sample_marrow_fat(rng)
    maps = np.zeros((len(Channel), 3, 32, 32 * len(tissues)), np.uint8)
    maps[Channel.TEXTURE] = 128
    for k, name in enumerate(tissues):
        host, bone, mineral = REGIONS[name]
        at = np.s_[:, :, 32 * k : 32 * (k + 1)]
        fat = marrow[bone] if bone else fat_of[host]
        if name == "disc":  # 3 mm voxels of a disc hold a part of the marrow beside it
            fat = 0.08 * marrow[29] * rng.uniform(0.5, 1.5)
        if host is Tissue.FAT:
            host, fat = Tissue.MUSCLE, rng.uniform(0.88, 0.97)
        maps[Channel.HOST][at] = host
        maps[Channel.FAT][at] = round(255 * float(fat))
        maps[Channel.MINERAL][at] = min(255, round(255 * mineral * float(rng.uniform(0.8, 1.25))))
    return maps


def simulated_ratios(real: RealImage, draws: int) -> dict[str, np.ndarray]:
    """Signal of every tissue relative to muscle, for every draw."""
    tissues = ["muscle", *(t for t in real.values if t != "muscle")]
    ratios: dict[str, list[float]] = {t: [] for t in tissues}
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        maps = patches(tissues, rng)
        sequence = draw_protocol(real.family, rng)
        settings = replace(Acquisition.sample(sequence, rng), ghost=0.0, motion=False, susceptibility=0.0)
        geometry = Geometry(maps.shape[:0:-1], (1.4, 1.4, 5.0))
        water, fat = magnetisation(maps, tissue_signals(sequence, rng))
        # tissues lie all over a body, boxes of one tissue near others: shading is drawn per tissue
        image = acquire(water, fat, np.zeros_like(water), geometry, sequence, replace(settings, bias=0.0), rng)
        level = {t: float(np.median(image[:, 8:-8, 32 * k + 8 : 32 * k + 24])) for k, t in enumerate(tissues)}
        left = settings.bias * (1 - settings.corrected)
        for tissue in tissues:
            shading = np.exp(left * float(np.clip(rng.standard_normal(), -2, 2)))
            ratios[tissue].append(shading * level[tissue] / max(level["muscle"], 1e-9))
    return {t: np.array(v) for t, v in ratios.items() if t != "muscle"}


# Published T1 and T2 in ms at 1.5 and 3 T, mean and standard deviation over subjects, of whole tissues as measured (fat of
# marrow and organs included): B de Bazelaire et al., Radiology 230 (2004) 652; Z Stanisz et al., MRM 54 (2005) 507.
PUBLISHED: dict[str, dict[float, list[tuple[str, float, float, float, float]]]] = {
    "muscle": {
        1.5: [("Z", 1008, 20, 44, 6), ("B", 856, 61, 27, 8)],
        3.0: [("Z", 1412, 13, 50, 4), ("B", 898, 33, 29, 4)],
    },
    "liver": {
        1.5: [("Z", 576, 30, 46, 6), ("B", 586, 39, 46, 6)],
        3.0: [("Z", 812, 64, 42, 3), ("B", 809, 71, 34, 4)],
    },
    "kidney": {
        1.5: [("Z", 690, 30, 55, 3), ("B", 966, 58, 87, 4)],
        3.0: [("Z", 1194, 27, 56, 4), ("B", 1142, 154, 76, 7)],
    },
    "spleen": {1.5: [("B", 1057, 42, 79, 15)], 3.0: [("B", 1328, 31, 61, 9)]},
    "pancreas": {1.5: [("B", 584, 14, 46, 6)], 3.0: [("B", 725, 71, 43, 7)]},
    "vertebra": {1.5: [("B", 549, 52, 49, 8)], 3.0: [("B", 586, 73, 49, 4)]},
    "fat": {1.5: [("B", 343, 37, 58, 4)], 3.0: [("B", 382, 13, 68, 4)]},
    "white_matter": {1.5: [("Z", 884, 50, 72, 4)], 3.0: [("Z", 1084, 45, 69, 3)]},
    "grey_matter": {1.5: [("Z", 1124, 50, 95, 8)], 3.0: [("Z", 1820, 114, 99, 7)]},
    "cord": {1.5: [("Z", 745, 37, 74, 6)], 3.0: [("Z", 993, 47, 78, 2)]},
}
WATER_CONTENT = (0.9, 1.15)  # of soft tissues relative to muscle (ICRU 46: 70 to 85 % of the mass)


def published_range(family: str, tissue: str) -> tuple[float, float] | None:
    """5th and 95th percentile of the ratio to muscle by published relaxation times: means and standard deviations of the
    sources in the signal equation of the family's protocols, nothing of the simulator's tissues in it.

    Magnetisation transfer, J-coupling, flow and shading are not in it. None where there are no values to be had (Dixon's
    fat image, fat-suppressed fat, fluid, cortex, single bones).
    """
    if family == "dixon_fat" or tissue not in PUBLISHED or (family == "flair" and tissue == "fat"):
        return None
    ratios = []
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        sequence = draw_protocol(family, rng)
        levels = []
        for name in (tissue, "muscle"):
            sets = PUBLISHED[name][sequence.field_tesla]
            _, t1, t1_sd, t2, t2_sd = sets[rng.integers(len(sets))]
            z = np.clip(rng.standard_normal(2), -2, 2)
            t2 += z[1] * t2_sd
            levels.append(float(signal(sequence, np.array([1.0, t1 + z[0] * t1_sd, t2, t2]))))
        ratios.append(levels[0] / levels[1] * rng.uniform(*WATER_CONTENT))
    low, high = np.percentile(ratios, (5, 95))
    return float(low), float(high)


def noise_level(image: np.ndarray) -> float:
    """Noise of the tissue relative to the 98th percentile: robust Laplacian in the plane (Immerkaer, 1996)."""
    from scipy import ndimage

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)[None]
    residual = ndimage.convolve(image.astype(np.float32), kernel)
    top = np.percentile(image, 98)
    inside = image > 0.1 * top
    return float(1.4826 * np.median(np.abs(residual[inside])) / 6 / max(top, 1e-9))


def edge_sharpness(image: np.ndarray) -> float:
    """99th percentile of the step between neighbours along x, relative to the image's range: 1 is a step in a voxel."""
    scale = np.percentile(image, 99) - np.percentile(image, 1)
    return float(np.percentile(np.abs(np.diff(image, axis=2)), 99) / max(scale, 1e-9))


def histogram_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of the quantiles of the bodies of two images, each scaled to its 99th percentile."""
    curves = []
    for image in (first, second):
        top = np.percentile(image, 99)
        curves.append(np.percentile(np.clip(image[image > 0.05 * top] / top, 0, 1), np.arange(101)))
    return float(np.mean(np.abs(curves[0] - curves[1])))


@dataclass(frozen=True)
class Patient:
    """What whole images are drawn from."""

    fractions: np.ndarray
    geometry: Geometry


def whole_images(patient: Patient, family: str, draws: int) -> list[np.ndarray]:
    """Images of a patient by protocols of a family."""
    air = patient.fractions[Channel.AIR] * np.float32(1 / 255)
    images = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        sequence = draw_protocol(family, rng)
        settings = replace(Acquisition.sample(sequence, rng), ghost=0.0, motion=False)
        water, fat = magnetisation(patient.fractions, tissue_signals(sequence, rng))
        images.append(acquire(water, fat, air, patient.geometry, sequence, settings, rng))
    return images


def simulated_patient(name: str, real: RealImage) -> Patient:
    """A patient on the real image's lattice: the hip's own CT, painted bodies for the others."""
    from sctlab.simulation.case import simulate
    from sctlab.simulation.settings import CaseSettings
    from sctlab_model.cases import Region, Task

    spacing = tuple(float(max(v, 0.75)) for v in real.image.geometry.spacing_xyz)
    region = Region.HN if name.startswith("head") else Region.AB
    size = (*real.image.geometry.size_xyz[:2], min(real.image.geometry.size_xyz[2], 12))
    settings = CaseSettings(spacing_xyz=spacing, size_xyz=size, amplitude_mm=0, seed=1)
    ct = _oriented(Path(real.image.name).parent / "ct.nii.gz") if name.startswith("hip") else None
    case = simulate(Task.MRI, region, settings, ct=ct)
    return Patient(case.fractions, case.source.geometry)


def compare_whole(real: RealImage, draws: int) -> list[str]:
    """Noise, edges and histogram of a real image beside simulated ones."""
    images = whole_images(simulated_patient(real.name, real), real.family, draws)
    array = real.image.array.astype(np.float32)
    lines = []
    for title, function in (("noise", noise_level), ("edges", edge_sharpness)):
        values = [function(i) for i in images]
        p1, p5, p50, p95, p99 = np.percentile(values, (1, 5, 50, 95, 99))
        value = function(array)
        verdict = "yes" if p5 <= value <= p95 else "1-99 %" if p1 <= value <= p99 else "NO"
        lines.append(f"{title:15s} {value:7.3f} {p5:7.3f} {p50:7.3f} {p95:7.3f}  {verdict}")
    to_real = [histogram_distance(array, i) for i in images]
    between = [histogram_distance(a, b) for a, b in itertools.pairwise(images)]
    lines.append(
        f"histogram distance to the real one: {min(to_real):.3f} at best, {np.median(to_real):.3f} in the median; "
        f"between simulated ones {np.median(between):.3f}, {np.percentile(between, 95):.3f} (95th percentile)"
    )
    return lines


def compare(real: RealImage, draws: int) -> list[tuple[str, float, np.ndarray]]:
    """Tissue, real ratio to muscle and simulated ratios."""
    simulated = simulated_ratios(real, draws)
    muscle = float(np.median(real.values["muscle"]))
    return [(t, float(np.median(real.values[t])) / muscle, simulated[t]) for t in simulated]


def compare_pair(folder: Path, draws: int) -> list[str]:
    """A registered pair (`sctlab register pairs`, CT on the MR's grid): the real MR beside MRs simulated from its own CT,
    tissue by tissue, relative to muscle. Tissues come from the CT, away from their surfaces by two voxels."""
    from scipy import ndimage

    from sctlab.simulation.case import simulate
    from sctlab.simulation.settings import CaseSettings
    from sctlab_model.cases import Region, Task

    ct = _oriented(next(folder.glob("ct.*")))
    real = _oriented(next(folder.glob("mr.*"))).array.astype(np.float32)
    settings = CaseSettings(spacing_xyz=ct.geometry.spacing_xyz, amplitude_mm=0)
    case = simulate(Task.MRI, Region.AB, settings, ct=ct)
    shape = case.fractions.shape[1:]
    maps, real = case.fractions, real[tuple(slice(n) for n in shape)]
    hu = case.ct_aligned.array.astype(np.float32)
    tissues = tissues_of_ct(maps, hu, real > 0)
    images = whole_images(Patient(maps, case.source.geometry), "t1_tse", draws)
    muscle = [float(np.median(i[tissues["muscle"]])) for i in images]
    lines = [f"{'tissue':22s} {'voxels':>7s} {'real':>6s} {'5 %':>6s} {'50 %':>6s} {'95 %':>6s}"]
    for name, where in tissues.items():
        ratio = float(np.median(real[where]) / np.median(real[tissues["muscle"]]))
        values = [float(np.median(i[where])) / m for i, m in zip(images, muscle, strict=True)]
        p5, p50, p95 = np.percentile(values, (5, 50, 95))
        lines.append(f"{name:22s} {int(where.sum()):7d} {ratio:6.2f} {p5:6.2f} {p50:6.2f} {p95:6.2f}")
    body = ndimage.binary_erosion(real > 60, iterations=2)
    both = [float(np.corrcoef(real[body], i[body])[0, 1]) for i in images]
    lines.append(f"correlation of the images inside the body: {np.median(both):.2f} (median), {max(both):.2f} (best)")
    return lines


def tissues_of_ct(maps: np.ndarray, hu: np.ndarray, allowed: np.ndarray) -> dict[str, np.ndarray]:
    """Voxels of muscle, fat, marrow, spongy bone and cortex by a CT, away from their surfaces; those with 30 or more.

    Args:
        maps: Fraction maps of the CT.
        hu: Its HU on the same grid.
        allowed: Where the MR can be asked.
    """
    host, mineral, fat = (maps[c] for c in (Channel.HOST, Channel.MINERAL, Channel.FAT))
    marrow = (host == Tissue.RED_MARROW) & allowed
    plain = (host == Tissue.MUSCLE) & (mineral == 0) & (maps[Channel.AIR] == 0) & allowed
    tissues = {
        "muscle": _inner(plain & (fat < 30) & (hu > 30) & (hu < 80)),
        "fat": _inner(plain & (fat > 215)),
        "marrow, below 100 HU": _inner(marrow & (hu < 100)),
        "spongy, 100-350 HU": _inner(marrow & (hu > 100) & (hu < 350)),
        "cortex, above 900 HU": marrow & (hu > 900),
    }
    return {t: m for t, m in tissues.items() if m.sum() >= 30}


def _inner(mask: np.ndarray) -> np.ndarray:
    """Two voxels from the surface in the plane; one where that leaves too little."""
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(2, 1)[None]
    for iterations in (2, 1):
        inner = ndimage.binary_erosion(mask, cross, iterations=iterations)
        if inner.sum() >= 200:
            return inner
    return mask


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--whole", type=int, default=30, help="Whole images for noise, edges and histogram.")
    parser.add_argument("--pair", type=Path, help="Folder of a registered pair with T1 MR and CT, beside all others.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    arguments = parser.parse_args()
    inside, within, wide, count, known = 0, 0, 0, 0, 0
    for path in sorted(ROIS.glob("*.json")):
        real = read_real(path, arguments.data)
        print(f"\n{real.name} ({real.family}), tissue : muscle")
        print(f"{'':15s} {'real':>7s} {'5 %':>7s} {'50 %':>7s} {'95 %':>7s}  {'inside':7s} by published relaxation")
        for tissue, ratio, simulated in compare(real, arguments.draws):
            p1, p5, p50, p95, p99 = np.percentile(simulated, (1, 5, 50, 95, 99))
            good = p5 <= ratio <= p95
            published = published_range(real.family, tissue)
            inside, within, count = inside + good, within + (p1 <= ratio <= p99), count + 1
            beside = "-"
            if published is not None:
                low, high = published
                known, wide = known + 1, wide + bool(p95 / max(p5, 1e-9) > high / max(low, 1e-9))
                beside = f"{low:.2f} to {high:.2f}"
            verdict = "yes" if good else "1-99 %" if p1 <= ratio <= p99 else "NO"
            print(f"{tissue:15s} {ratio:7.2f} {p5:7.2f} {p50:7.2f} {p95:7.2f}  {verdict:7s} {beside}")
        print("\n".join(compare_whole(real, arguments.whole)))
    if arguments.pair:
        print("\nthe pair: MR simulated from its own CT, tissue : muscle")
        print("\n".join(compare_pair(arguments.pair, arguments.whole)))
    share = 100 * inside / count
    print(
        f"\n{inside} of {count} ratios inside the 5th to 95th percentile ({share:.0f} %), {within} inside the 1st to 99th;"
    )
    print(f"{wide} of {known} simulated ranges are wider than by published relaxation times")


if __name__ == "__main__":
    main()
