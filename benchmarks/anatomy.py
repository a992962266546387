"""Score an anatomy network on real images with labels, and on simulated ones of other seeds.

    python benchmarks/anatomy.py --data SHARED_DATA --network FILE --cases abdomen_ct_dicom abdomen_mr
    python benchmarks/anatomy.py --data SHARED_DATA --network anatomy-judge --cases abdomen_ct abdomen_mr
    python benchmarks/anatomy.py --data SHARED_DATA --network anatomy --cases hn_ct_openkbp_109     # test data only

    python benchmarks/anatomy.py --look IMAGE…      # region and sides, as predictions and registrations are checked
    python benchmarks/anatomy.py --dense CT…        # how much of what is as dense as cortex is called bone, without labels

A case may only be named for a network that has not seen it in training (its `anatomy.json`).
`--drawn N` adds N drawn bodies of each region as CT and as MR, of seeds that training did not use; organs that only one
real CT has can be scored on these alone, and their rows say so.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from time import process_time

import numpy as np
from scipy import ndimage

from sctlab.anatomy.bodies import make_body, phantom_classes
from sctlab.dicom import read_dicom_series
from sctlab.simulation.anatomy.build import build_phantom, default_grid
from sctlab.simulation.contrast import draw_contrast
from sctlab_model.anatomy.classes import BONES, CLASSES, IGNORE, INDEX, NAMES, to_classes
from sctlab_model.anatomy.judge import look_at
from sctlab_model.anatomy.network import HU_BELOW, SPACING_MM, AnatomyNetwork, read_network
from sctlab_model.anatomy.segmenter import see_anatomy
from sctlab_model.anatomy.shipped import load_network
from sctlab_model.body import body_mask
from sctlab_model.cases import Region, Task
from sctlab_model.io.reading import read_volume
from sctlab_model.volume import Geometry, Volume, resample

# TotalSegmentator's `total_mr` ids → our classes; discs belong to the spine's group only in CT's eyes
OF_TOTAL_MR = {
    1: "spleen", 2: "kidney_right", 3: "kidney_left", 4: "gallbladder", 5: "liver", 6: "stomach", 7: "pancreas",
    10: "lungs", 11: "lungs", 12: "esophagus", 13: "bowel", 14: "bowel", 15: "bowel", 16: "urinary_bladder",
    17: "prostate", 18: "sacrum", 19: "spine", 21: "spinal_cord", 22: "heart", 23: "aorta", 24: "great_vessels",
    25: "great_vessels", 26: "iliac_vessels", 27: "iliac_vessels", 28: "iliac_vessels", 29: "iliac_vessels",
    30: "humeri", 31: "humeri", 32: "shoulder_girdle", 33: "shoulder_girdle", 34: "shoulder_girdle",
    35: "shoulder_girdle", 36: "femora", 37: "femora", 38: "hips", 39: "hips", **dict.fromkeys(range(40, 46), "gluteal_muscles"),
    46: "back_muscles", 47: "back_muscles", 48: "iliopsoas", 49: "iliopsoas", 50: "brain",
}  # fmt: skip
# OpenKBP's ids → our classes. Two organs are parts of what we call one thing: only their share in it can be counted.
OF_OPENKBP = {2: "spinal_cord", 5: "esophagus"}
PARTS_OF_OPENKBP = {"brainstem": (1, "brain"), "mandible": (7, "skull")}
HN_CASE = "hn_ct_openkbp_109"
DRAWN_SEED = 987_000


def real_case(name: str, data: Path) -> tuple[Volume, np.ndarray, Region]:
    """Image, classes on its grid, and the region it shows."""
    folder = data / name
    if name == "abdomen_mr":
        ids = read_volume(folder / "labels.nii.gz").array.astype(int)
        table = np.zeros(256, np.uint8)
        for k, group in OF_TOTAL_MR.items():
            table[k] = INDEX[group]
        table[20] = IGNORE
        return read_volume(folder / "mr.nii.gz"), table[ids], Region.AB
    if name == HN_CASE:
        image, ids = read_volume(folder / "ct.nii.gz"), read_volume(folder / "organs.nii.gz").array.astype(int)
        table = np.zeros(256, np.uint8)
        for k, group in OF_OPENKBP.items():
            table[k] = INDEX[group]
        return image, table[ids], Region.HN
    # The labels of one of them are stored with rows from back to front: an array says nothing without its grid.
    image = read_dicom_series(folder / "series") if (folder / "series").is_dir() else read_volume(folder / "ct.nii.gz")
    labels = resample(read_volume(folder / "labels.nii.gz"), image.geometry, interpolation="nearest", outside=0)
    return image, to_classes(labels.array), Region.AB


def drawn_cases(count: int) -> Iterator[tuple[str, Volume, np.ndarray, Region]]:
    """Drawn bodies that no training saw, as CT and as MR."""
    for region in Region:
        for k in range(count):
            rng = np.random.default_rng((DRAWN_SEED, list(Region).index(region), k))
            grid = default_grid(region, rng, (SPACING_MM,) * 3, None)
            phantom = build_phantom(region, grid, rng)
            body = make_body(phantom, phantom_classes(phantom), rng, "")
            noise = rng.normal(0, 10, body.hu.shape)
            where = Geometry(grid.size_xyz, grid.spacing_xyz)
            yield f"drawn {region} CT", Volume((body.hu + noise).astype(np.float32), where), body.maps[-1], region
            mr = draw_contrast(body.maps[:-1], rng, spacing_xyz=grid.spacing_xyz, region=region, random_share=0)
            yield f"drawn {region} MR", Volume(mr, where), body.maps[-1], region


def dice_by_class(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Dice of every class that the truth has at least 20 voxels of, and of all bones together."""
    known = truth != IGNORE
    found, truth = found[known], truth[known]
    scores = {}
    for k in range(1, len(CLASSES)):
        a, b = found == k, truth == k
        if b.sum() >= 20 and CLASSES[k].ids:
            scores[NAMES[k]] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    a, b = np.isin(found, BONES), np.isin(truth, BONES)
    if b.sum() >= 20:
        scores["bones"] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return scores


def bone_by_intensity(image: Volume, truth: np.ndarray) -> tuple[float, float]:
    """How far a reference's bones follow a CT's.

    Returns:
        Which share of what is above 200 HU within 3 mm of the reference's bones belongs to them, and the Dice of an oracle that
        takes all above 120 HU there, closed and filled slice by slice.
    """
    bones = np.isin(truth, BONES)
    near = ndimage.distance_transform_edt(~bones, sampling=image.geometry.spacing_xyz[::-1]) <= 3
    dense = near & (ndimage.gaussian_filter(image.array.astype(np.float32), 0.7) > 120)
    oracle = np.stack([ndimage.binary_fill_holes(s) for s in ndimage.binary_closing(dense, iterations=2)])
    hard = near & (image.array > 200) & np.isin(truth, (0, *BONES))
    return float(bones[hard].mean()), float(2 * (oracle & bones).sum() / (oracle.sum() + bones.sum()))


def dense_is_bone(ct: Volume, network: AnatomyNetwork) -> tuple[float, float]:
    """What a CT's own values say of the bones that the network sees in it.

    Returns:
        Which share of the body's voxels above 300 HU is called bone (calcium, teeth, metal and contrast medium are among them), and
        which share of what is called bone lies below 0 HU (fatty marrow does).
    """
    found = np.isin(to_classes(see_anatomy(ct, network).labels.array), BONES)
    body = body_mask(ct, Task.CBCT).array
    return float(found[body & (ct.array > 300)].mean()), float((ct.array[found & body] < 0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with the real images.")
    parser.add_argument("--network", default="anatomy", help="anatomy, anatomy-judge, or a file.")
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--drawn", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Folder for pictures.")
    parser.add_argument("--look", type=Path, nargs="*", default=[], help="Images, or DICOM folders of a CT.")
    parser.add_argument("--dense", type=Path, nargs="*", default=[], help="CTs, or DICOM folders of one.")
    options = parser.parse_args()
    network = read_network(options.network) if Path(options.network).is_file() else load_network(options.network)
    for path in options.look:
        image = read_dicom_series(path) if path.is_dir() else read_volume(path)
        across = 2 - int(np.argmax(np.abs(image.geometry.axes[0])))
        mirrored = image.with_array(np.ascontiguousarray(np.flip(image.array, across)))
        (seen, exchanged), (_, other) = look_at(image, network), look_at(mirrored, network)
        shares = ", ".join(f"{r} {seen.share(r):.3f}" for r in Region)
        print(f"{path}: {shares}; mirrored: {exchanged}, its mirror image: {other}", flush=True)
    for path in options.dense:
        ct = read_dicom_series(path) if path.is_dir() else read_volume(path)
        dense, soft = dense_is_bone(ct, network)
        print(
            f"{path}: {dense:.2f} of what lies above 300 HU is called bone, {soft:.2f} of what is called bone lies below 0",
            flush=True,
        )
    if not options.cases and not options.drawn:
        return
    rows: dict[str, list[dict[str, float]]] = {}
    right = slices = 0
    cases = ((name, *real_case(name, options.data)) for name in options.cases)
    for name, image, truth, region in [*cases, *drawn_cases(options.drawn)]:
        started = process_time()
        seen = see_anatomy(image, network)
        seconds = process_time() - started
        rows.setdefault(name, []).append(dice_by_class(to_classes(seen.labels.array), truth))
        right += int((seen.regions.argmax(1) == list(Region).index(region)).sum())
        slices += len(seen.regions)
        print(f"{name}: region {seen.region} (is {region}), {seconds:.1f} processor seconds", flush=True)
        if image.array.min() < HU_BELOW and name != HN_CASE and not name.startswith("drawn"):
            labelled, dice = bone_by_intensity(image, truth)
            print(
                f"  of 200 HU and more at the reference's bones {labelled:.2f} are bone to it; an oracle by HU: Dice {dice:.2f}"
            )
        if name == HN_CASE:
            organs = read_volume(options.data / name / "organs.nii.gz").array
            for part, (k, whole) in PARTS_OF_OPENKBP.items():
                inside = to_classes(seen.labels.array)[organs == k] == INDEX[whole]
                print(f"  of the {part}, {inside.mean():.2f} lie in what is called {whole}")
        if options.out is not None:
            from sctlab.anatomy.seeing import save_picture

            options.out.mkdir(parents=True, exist_ok=True)
            save_picture(image, seen, options.out / f"{name.replace(' ', '_')}_{len(rows[name])}.nii.gz")
    names = [n for n in (*NAMES, "bones") if any(n in r for cases in rows.values() for r in cases)]
    print("\n| structure | " + " | ".join(rows) + " |\n|---|" + "---|" * len(rows))
    for structure in names:
        means = [[r[structure] for r in cases if structure in r] for cases in rows.values()]
        print(
            f"| {structure.replace('_', ' ')} | " + " | ".join(f"{np.mean(m):.2f}" if m else "" for m in means) + " |"
        )
    print(f"\nslices whose region is right: {right} of {slices}")


if __name__ == "__main__":
    main()
