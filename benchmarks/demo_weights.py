"""The demonstration weights' table: every bundle on the same judges, none of which any of them was trained on.

    python benchmarks/demo_weights.py JUDGES [--task mri|cbct] [--bundle first=OLD] [--bundle second=weights/demo-mri]
        [--pair REGISTERED] [--data ../shared/data] [--pictures DIR] > benchmarks/demo_weights.md

Simulated judges are made in JUDGES with today's simulator and kept there. For MR, the real images are asked, too: mean HU
of labelled organs, an MR beside the CT of the same patient (REGISTERED, of `sctlab register pairs`; its tumour left out),
and by how much the sCT of one real MR changes when the image is stored otherwise. Which patient judges and which trains
is said in docs/weights.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import sctlab
from sctlab.evaluation.tissues import tissue_errors
from sctlab.pictures import Layer, save_planes
from sctlab.simulation.cohort import simulate_cohort
from sctlab.simulation.settings import SimulationSettings
from sctlab.transforms.apply import apply_to_labels
from sctlab.transforms.itk_files import read_itk
from sctlab_model.body import body_mask
from sctlab_model.cases import Region, Task, find_cohort
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume, resample

ROOT = Path(__file__).resolve().parent.parent
WINDOW = (-300.0, 500.0)  # HU
BONES = ("spongy bone", "cortical bone")


@dataclass(frozen=True)
class Judge:
    """A source of simulated judges.

    Args:
        name: In the table.
        region, centre, seed, cases: Of `sctlab simulate`.
        ct: Below the data folder; none for painted bodies.
        relative: Its HU are not those of an MR's patient (contrast medium, unknown offset): only ratios say something.
    """

    name: str
    region: Region
    centre: str
    seed: int
    cases: int = 2
    ct: str = ""
    relative: bool = False


JUDGES = (
    Judge("painted abdomen", Region.AB, "T", 9301),
    Judge("painted head and neck", Region.HN, "T", 9303),
    Judge("painted thorax", Region.TH, "T", 9302),
    Judge("abdomen CT with contrast medium", Region.AB, "C", 9304, 2, "abdomen_ct_crlm_1004/ct.nii.gz", relative=True),
    Judge("head CT", Region.HN, "C", 9305, 2, "head_ct_dicom/series"),
    Judge("head-and-neck CT, HU not sure", Region.HN, "O", 9306, 1, "hn_ct_openkbp_109/ct.nii.gz", relative=True),
    Judge("cut thorax CT with contrast medium", Region.TH, "C", 9307, 2, "thorax_ct/ct.nii.gz", relative=True),
)

# Labels of the real abdominal MR (TotalSegmentator's `total_mr`) and what its sCT should hold there (HU)
ORGANS: dict[str, tuple[tuple[int, ...], str]] = {
    "liver": ((5,), "20 to 80"),
    "spleen": ((1,), "20 to 80"),
    "kidneys": ((2, 3), "20 to 80"),
    "muscle": ((46, 47, 48, 49), "20 to 80"),
    "cord": ((21,), "20 to 80"),
    "vertebrae": ((19,), "120 to 300"),
    "discs": ((20,), "50 to 120"),
    "fat": ((), "−120 to −80"),  # outlined by hand, as the simulator's realism is judged
}


class Synthesis:
    """sCTs by all folds of the bundles, kept in a folder: a run that was stopped goes on. What the output gate says of
    them does not matter here.

    Args:
        folder: Of the sCTs.
        task: Of all images.
        bundles: Name → folder.
    """

    def __init__(self, folder: Path, task: Task, bundles: dict[str, Path]) -> None:
        self.folder, self.task, self.bundles = folder, task, bundles

    def __call__(self, image: Volume, name: str, region: Region, mask: Volume | None = None) -> Volume:
        """The sCT of an image by one bundle, HU on the image's grid."""
        bundle = self.bundles[name]
        key = hashlib.sha256((bundle / "bundle.json").read_bytes() + str(image.geometry).encode() + region.encode())
        for part in (image, mask):
            key.update(b"" if part is None else part.array.dtype.str.encode() + part.array.tobytes())
        path = self.folder / f"{key.hexdigest()[:24]}.mha"
        if not path.is_file():
            made = sctlab.synthesise(
                image, task=self.task, region=region, mask=mask, weights=bundle, device="cpu", accept_implausible=True
            )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_volume(made.sct, path)
        return read_volume(path)


def simulated(folder: Path, judge: Judge, task: Task, data: Path) -> list[Path]:
    """The case folders of a judge, simulated unless they are there."""
    settings = SimulationSettings(
        task=task,
        regions=(judge.region,),
        cases=judge.cases,
        centre=judge.centre,
        case={"spacing_xyz": (2, 2, 3), "amplitude_mm": 0, "seed": judge.seed},
        cts=(str(data / judge.ct),) if judge.ct else (),
    )
    return list(simulate_cohort(folder, settings).folders)


def judge_simulated(folder: Path, synthesis: Synthesis, data: Path, pictures: Path | None) -> None:
    """MAE, all-water MAE and signed error by tissue, a row per judge and bundle; means over its cases."""
    task = synthesis.task
    print(f"| {task} of | cases | bundle | MAE | raw CBCT | all water | soft tissue | spongy bone | cortical bone |")
    print("|---|---|---|---|---|---|---|---|---|")
    for judge in JUDGES:
        rows: dict[str, list[list[float]]] = {name: [] for name in synthesis.bundles}
        for place in simulated(folder, judge, task, data):
            case = next(c for c in find_cohort(folder) if c.folder == place)
            source, mask = read_volume(case.source_file), read_mask(case.mask_file)
            truth = read_volume(place / "truth/ct_aligned.mha")
            hu, body = np.clip(truth.array.astype(np.float32), -1024, 3071), mask.array
            layers = [Layer(str(task), source, None if task is Task.MRI else WINDOW), Layer("CT", truth, WINDOW)]
            for name in synthesis.bundles:
                sct = synthesis(source, name, judge.region, mask)
                error = sct.array.astype(np.float32) - hu
                tissues = tissue_errors(sct.array, hu, body)
                raw = np.abs(source.array[body] - hu[body]).mean() if task is Task.CBCT else np.nan
                rows[name].append(
                    [float(np.abs(error[body]).mean()), float(raw), float(np.abs(hu[body]).mean())]
                    + [tissues[t].mean_error_hu if t in tissues else np.nan for t in ("soft tissue", *BONES)]
                )
                layers.append(Layer(f"{name}: {rows[name][-1][0]:.0f} HU", sct, WINDOW))
            if pictures is not None:
                save_planes(layers, pictures / f"{case.id}.png")
        for name, values in rows.items():
            mae, raw, water, *tissue = np.mean(values, axis=0)
            mark = " (relative)" if judge.relative else ""
            cells = [f"{mae:.0f}", "–" if np.isnan(raw) else f"{raw:.0f}", f"{water:.0f}", *map(_signed, tissue)]
            print(f"| {judge.name}{mark} | {len(values)} | {name} | " + " | ".join(cells) + " |", flush=True)


def judge_organs(synthesis: Synthesis, data: Path, pictures: Path | None) -> None:
    """Mean HU of labelled organs of a real abdominal MR."""
    mr = _oriented(data / "abdomen_mr/mr.nii.gz")
    labels = _oriented(data / "abdomen_mr/labels.nii.gz").array
    outline = json.loads((ROOT / "test/sctlab/simulation/rois/abdomen_dixon_fat.json").read_text(encoding="utf-8"))
    images = {"": mr, ", clipped at 0": mr.with_array(np.maximum(mr.array, 0))}  # as scanners store magnitudes
    scts = {name + how: synthesis(i, name, Region.AB) for how, i in images.items() for name in synthesis.bundles}
    print("\n| real abdominal MR, mean HU | wanted | " + " | ".join(scts) + " |")
    print("|---|---|" + "---|" * len(scts))
    for organ, (ids, wanted) in ORGANS.items():
        inside = np.isin(labels, ids)
        for x0, y0, z0, x1, y1, z1 in outline["boxes"][organ] if not ids else ():
            inside[z0:z1, y0:y1, x0:x1] = True
        print(f"| {organ} | {wanted} | " + " | ".join(_signed(s.array[inside].mean()) for s in scts.values()) + " |")
    if pictures is not None:
        layers = [Layer("real MR", mr, None), *(Layer(n, s, WINDOW) for n, s in scts.items())]
        save_planes(layers, pictures / "abdomen_mr.png")


def judge_pair(pair: Path, synthesis: Synthesis, data: Path, pictures: Path | None) -> None:
    """A real MR beside its own registered CT: MAE relative to that of water. Tumour and 5 mm around it are left out."""
    mr, ct = read_volume(pair / "mr.mha"), read_volume(pair / "ct.mha")
    # The registration moved the CT, so the outline of its tumour moves with it.
    gtv = read_volume(data / "pair_mrct_sts_044/gtv_on_ct.nii.gz")
    tumour = apply_to_labels(gtv, read_itk(pair / "transform.h5"), mr.geometry).array > 0
    distance = sitk.SignedMaurerDistanceMap(
        mr.with_array(tumour.astype(np.uint8)).to_sitk(), squaredDistance=False, useImageSpacing=True
    )
    away = sitk.GetArrayFromImage(distance) > 5
    inside = read_mask(pair / "mask.mha").array & read_mask(pair / "fov.mha").array & away & (mr.array > 0)
    hu = np.clip(ct.array.astype(np.float32), -1024, 3071)
    water = float(np.abs(hu[inside]).mean())
    print("\n| real MR and its own CT | MAE | all water | below all water | " + " | ".join(BONES) + " |")
    print("|---|---|---|---|---|---|")
    layers = [Layer("real MR", mr, None), Layer("its CT", ct, WINDOW)]
    for name in synthesis.bundles:
        sct = synthesis(mr, name, Region.AB)
        mae = float(np.abs(sct.array - hu)[inside].mean())
        tissues = tissue_errors(sct.array, hu, inside)
        bones = " | ".join(_signed(tissues[t].mean_error_hu) for t in BONES)
        print(f"| {name} | {mae:.0f} | {water:.0f} | {100 * (1 - mae / water):.0f} % | {bones} |")
        layers.append(Layer(name, sct, WINDOW))
    if pictures is not None:
        save_planes(layers, pictures / "pair.png")


def stored_otherwise(mr: Volume) -> Iterator[tuple[str, Volume]]:
    """The same MR as other software would have stored it."""
    array = mr.array.astype(np.float32)
    top = float(np.percentile(array, 99.9))
    yield "negatives clipped at zero", mr.with_array(np.maximum(array, 0))
    yield "8 bits", mr.with_array(np.rint(np.clip(array / top, 0, 1) * 255).astype(np.uint8))
    yield "times 1e-6", mr.with_array(array * np.float32(1e-6))
    yield "times 1e6", mr.with_array(array * np.float32(1e6))
    rng = np.random.default_rng(0)
    for count, value in ((1, -3000.0), (10, 30 * top)):
        wild = array.copy()
        wild.ravel()[rng.choice(wild.size, count, replace=False)] = value
        yield f"{count} wild voxel{'s' if count > 1 else ''} ({value:.0f})", mr.with_array(wild)
    border = [max(1, n // 12) for n in array.shape[1:]]
    empty = np.zeros_like(array)
    middle = np.s_[:, border[0] : -border[0], border[1] : -border[1]]
    empty[middle] = array[middle]
    yield "borders set to zero", mr.with_array(empty)
    size = mr.geometry.size_xyz
    pad = (10, 10, 0)
    wider = mr.geometry.cropped(tuple(-p for p in pad), tuple(n + 2 * p for n, p in zip(size, pad, strict=True)))
    yield "wider field of view", resample(mr.with_array(array), wider, interpolation="nearest", outside=0.0)


def judge_invariance(name: str, mr: Volume, synthesis: Synthesis) -> None:
    """How much the sCT changes inside the body (of the image as it is) when the MR is stored otherwise."""
    body = body_mask(mr, Task.MRI)
    before = {b: synthesis(mr, b, Region.AB, body).array.astype(np.float32) for b in synthesis.bundles}
    print(f"\n| {name}, change in HU: mean, 99th percentile | " + " | ".join(before) + " |")
    print("|---|" + "---|" * len(before))
    for title, image in stored_otherwise(mr):
        mask = resample(
            body.with_array(body.array.astype(np.uint8)), image.geometry, interpolation="nearest", outside=0
        )
        same = body.array & (image.array != 0 if title.startswith("borders") else True)
        cells = []
        for bundle in before:
            sct = synthesis(image, bundle, Region.AB, mask.with_array(mask.array > 0))
            if sct.array.shape != body.array.shape:
                sct = resample(sct, mr.geometry, interpolation="nearest", outside=-1024)
            change = np.abs(sct.array - before[bundle])[same]
            cells.append(f"{change.mean():.1f}, {np.percentile(change, 99):.0f}")
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def _oriented(path: Path) -> Volume:
    return Volume.from_sitk(sitk.DICOMOrient(read_volume(path).to_sitk(), "LPS"), str(path))


def _signed(value: float) -> str:
    return f"{value:.0f}".replace("-", "−")


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judges", type=Path)
    parser.add_argument("--task", type=Task, default=Task.MRI)
    parser.add_argument("--bundle", action="append", default=[], help="NAME=FOLDER, several times.")
    parser.add_argument("--pair", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--pictures", type=Path, help="Folder for a picture of every case.")
    arguments = parser.parse_args()
    task: Task = arguments.task
    given = [text.partition("=") for text in arguments.bundle] or [("shipped", "=", str(ROOT / f"weights/demo-{task}"))]
    bundles = {name: Path(folder) for name, _, folder in given}
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    synthesis = Synthesis(arguments.judges / "scts", task, bundles)
    judge_simulated(arguments.judges, synthesis, arguments.data, arguments.pictures)
    if task is Task.MRI:
        judge_organs(synthesis, arguments.data, arguments.pictures)
        if arguments.pair is not None:
            judge_pair(arguments.pair, synthesis, arguments.data, arguments.pictures)
        judge_invariance("real abdominal MR", _oriented(arguments.data / "abdomen_mr/mr.nii.gz"), synthesis)


if __name__ == "__main__":
    main()
