"""Wrong headers and wrong patients through the single-pair command: what it delivers, and whether its verdict is the truth's.

    sctlab simulate PATIENTS --task mri --regions HN --cases 2 --spacing 4,4,4 --seed 6131 --centre L
    sctlab simulate PATIENTS --task mri --regions AB --cases 3 --spacing 4,4,4 --seed 6101 --centre K
    python benchmarks/verdict_single.py PATIENTS --data ../shared/data --cts trunk --out benchmarks/verdict_single.csv

`sctlab register OUT --fixed … --moving …` runs on each moving image that was mirrored, turned by 90°, moved by 40 mm, given feet first,
given with its slices in reverse order, and on another patient's. A registration may put right what moved (the error over the body
says so) and never what was mirrored. Beside the pairs with a known truth, a real MR and CT of one hip.
Kept are the rows of a folder with `1ABK002` and `1HNL001` alone, of `trunk/mr` and the first two of the hip.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from verdict_planting import flipped, patient, real, simulated

from sctlab.cli import main as main_command
from sctlab.registration.pairs import Pair
from sctlab.registration.pairs import make_pair as pair_of_images
from sctlab.transforms.data import AffineTransform, Transform, compose
from sctlab.transforms.field import displacement_field
from sctlab.transforms.itk_files import read_itk
from sctlab_model.cases import Region, Task, read_json
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume

SEED = 88
CTS = ("trunk", "upper-body", "head")
HIP = "pair_mrct_sts_044"
FIELDS = (
    "pair",
    "moving",
    "method",
    "right",
    "exit",
    "verdict",
    "on_disk",
    "error_mm",
    "predicted_mm",
    "probability",
    "reasons",
)


def movings(pair: Pair, other: Pair | None) -> Iterator[tuple[str, Volume, Transform | None]]:
    """What is planted, the image, and where it moved every point of the original one; None where no motion does that."""
    image, grid = pair.moving, pair.moving.geometry
    centre = tuple(grid.centre_xyz)
    yield "as it is", image, AffineTransform(np.eye(3))
    yield "mirrored", flipped(pair, 2).moving, None
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    about = replace(grid, direction=tuple((turn @ grid.axes).ravel()))
    origin = np.array(centre) + turn @ (np.array(grid.origin_xyz) - centre)
    yield (
        "turned by 90°",
        Volume(image.array, replace(about, origin_xyz=tuple(origin))),
        AffineTransform(turn, centre_xyz=centre),
    )
    shift = (28.0, 24.0, -15.0)
    moved = replace(grid, origin_xyz=tuple(np.array(grid.origin_xyz) + shift))
    yield "moved by 40 mm", Volume(image.array, moved), AffineTransform(np.eye(3), shift)
    feet = grid.axes @ np.diag([-1.0, 1.0, -1.0]) @ grid.axes.T
    yield "feet first", flipped(flipped(pair, 0), 2).moving, AffineTransform(feet, centre_xyz=centre)
    yield "slices reversed", flipped(pair, 0).moving, None
    if other is not None:
        place = np.array(other.moving.geometry.origin_xyz) + centre - np.array(other.moving.geometry.centre_xyz)
        yield (
            "another patient",
            Volume(other.moving.array, replace(other.moving.geometry, origin_xyz=tuple(place))),
            None,
        )


def pairs(options: argparse.Namespace) -> Iterator[tuple[Pair, Transform | None, Pair | None]]:
    """Every pair, its truth where it has one, and another patient."""
    cases: list[tuple[Pair, Transform | None]] = [(p, t) for p, t, _ in simulated(options.cohort)]
    cases += [(p, t) for p, t, _ in real(options.data, options.cts.split(","), SEED)]
    hip = [read_volume(options.data / HIP / name) for name in ("mr_t1.nii.gz", "ct.nii.gz")]
    cases.insert(0, (pair_of_images(*hip, task=Task.MRI, region=Region.AB, case_id=HIP), None))
    for number, (pair, truth) in enumerate(cases):
        rest = [p for p, _ in cases[number:] + cases[:number] if patient(p.id) != patient(pair.id)]
        alike = [p for p in rest if p.region == pair.region]
        yield pair, truth, (alike or rest)[0]


def registered(pair: Pair, moving: Volume, method: str, truth: Transform | None) -> dict[str, object]:
    """Run the command; what it says, writes and how far it is off."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.mha" for name in ("fixed", "moving", "mask")}
        write_volume(pair.fixed, files["fixed"])
        write_volume(moving, files["moving"])
        write_volume(pair.fixed_mask.with_array((pair.fixed_mask.array > 0).astype(np.uint8)), files["mask"])
        out = Path(folder) / "out"
        arguments = [
            "register",
            out,
            "--fixed",
            files["fixed"],
            "--moving",
            files["moving"],
            "--fixed-mask",
            files["mask"],
        ]
        arguments += ["--task", pair.task, "--region", pair.region, "--method", method, "--device", "cpu"]
        try:
            main_command([str(a) for a in arguments])
        except SystemExit as ended:
            found: dict[str, object] = {"exit": int(ended.code or 0)}
        if (out / "quality.json").is_file():
            quality = read_json(out / "quality.json")
            found |= {
                "verdict": quality["verdict"],
                "predicted_mm": quality["judgement"]["error_mm"],
                "probability": quality["judgement"]["failure_probability"],
                "reasons": "; ".join(quality["reasons"]),
                "on_disk": " ".join(sorted(p.name for p in out.iterdir())),
            }
            if truth is not None:
                grid = pair.fixed.geometry
                fields = [displacement_field(t, grid).vectors for t in (read_itk(out / "transform.h5"), truth)]
                error = np.sqrt(((fields[0] - fields[1]) ** 2).sum(0))
                found["error_mm"] = round(float(error[pair.fixed_mask.array > 0].mean()), 2)
        return found


def main() -> None:
    """Write a row for every moving image of every pair; rows that are there are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cts", default=",".join(CTS))
    parser.add_argument("--method", default="rigid")
    parser.add_argument("--pairs", default="", help="only those whose name begins so (with commas)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    new = not options.out.is_file()
    done = (
        set()
        if new
        else {(r["pair"], r["moving"], r["method"]) for r in csv.DictReader(options.out.open(encoding="utf-8"))}
    )
    with options.out.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            table.writeheader()
        for pair, truth, other in pairs(options):
            if not pair.id.startswith(tuple(options.pairs.split(","))):
                continue
            for what, moving, motion in movings(pair, other):
                if (pair.id, what, options.method) in done:
                    continue
                aim = compose(truth, motion) if truth is not None and motion is not None else None
                row = {"pair": pair.id, "moving": what, "method": options.method, "right": motion is not None}
                row |= registered(pair, moving, options.method, aim)
                table.writerow(row)
                file.flush()
                print(*(row.get(k) for k in FIELDS if k not in ("on_disk",)), flush=True)


if __name__ == "__main__":
    main()
