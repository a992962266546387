"""Right and wrong registrations of odd pairs: symmetric phantoms, coarse voxels, thin slabs, small overlaps; what the judge says.

    sctlab simulate COHORT --task mri --cases 1 --spacing 4,4,4 --seed 771
    python benchmarks/verdict_odd.py COHORT --out benchmarks/verdict_odd.csv

A right one is the truth with a smooth error of about a millimetre, a shifted one 30 mm off; mirrored is the moving image.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from exclusion import residual
from scipy.ndimage import binary_fill_holes, gaussian_filter
from verdict_planting import flipped, simulated, slices

from sctlab.registration.judge.verdict import judge_registration
from sctlab.registration.judge.view import Looker
from sctlab.registration.pairs import Pair, make_pair
from sctlab.registration.records import QualityRecord
from sctlab.transforms.data import AffineTransform, Transform, compose
from sctlab_model.cases import Region, Task
from sctlab_model.resampling import anti_aliased
from sctlab_model.volume import AIR_HU, Geometry, Volume, resample

OPTIMISED = frozenset({"mutual information", "mind"})
HU = np.array([AIR_HU, 20, -90, 60, 90, 600], dtype=np.float32)
MR = np.array([0, 180, 260, 90, 320, 15], dtype=np.float32)
SHIFT = AffineTransform(np.eye(3), (22.0, 20.0, 0.0))
Made = tuple[str, str, Pair, Transform]  # the pair's name, right or what is wrong, the images, the solution


def phantoms() -> Iterator[Made]:
    """Bodies that are their own mirror image, and one that isn't; MR and CBCT."""
    grid = Geometry((64, 56, 40), (4.0, 4.0, 4.0))
    z, y, x = np.meshgrid(*[4.0 * (np.arange(n) - (n - 1) / 2) for n in grid.shape_zyx], indexing="ij")

    def rod(at: tuple[float, float], radius: float) -> np.ndarray:
        return (x - at[0]) ** 2 + (y - at[1]) ** 2 < radius**2

    water = ((x**2 + y**2) < 80**2) & (abs(z) < 64)
    long_body = (x / 70) ** 2 + (y / 60) ** 2 < 1
    body = (x / 105) ** 2 + (y / 80) ** 2 + (z / 72) ** 4 < 1
    rods, leg, symmetric = water.astype(np.uint8), long_body.astype(np.uint8), body.astype(np.uint8)
    for angle in np.arange(8) * np.pi / 4:
        rods[rod((50 * np.cos(angle), 50 * np.sin(angle)), 10) & (abs(z) < 60)] = 5
    leg[rod((0, 5), 16)] = 5
    rng = np.random.default_rng(8)
    for label in (2, 3, 4, 5, 2, 3, 4, 5, 2, 3):
        middle, radii = rng.uniform((10, -45, -45), (70, 45, 45)), rng.uniform(8, 24, 3)
        distance = sum(((a - m) / r) ** 2 for a, m, r in zip((abs(x), y, z), middle, radii, strict=True))
        symmetric[(distance < 1) & body] = label
    lopsided = symmetric.copy()
    lopsided[(x > 0) & (symmetric > 1)] = 1
    ball = ((x / 90) ** 2 + (y / 90) ** 2 + (z / 70) ** 2 < 1).astype(np.uint8)
    for name, labels in {
        "water cylinder": water.astype(np.uint8),
        "eight rods in water": rods,
        "ball of water": ball,
        "leg with a bone": leg,
        "symmetric body": symmetric,
        "lopsided body": lopsided,
    }.items():
        for task in Task:
            rng = np.random.default_rng(zlib.crc32(f"{name} {task}".encode()))
            ct = HU[labels]
            if task is Task.CBCT:
                source = np.clip(ct + rng.normal(0, 25, ct.shape), AIR_HU, 3000)
            else:
                source = np.clip(gaussian_filter(MR[labels], 0.4) + rng.normal(0, 8, ct.shape), 0, None)
            images = (Volume(a.astype(np.float32), grid) for a in (source, ct))
            mask = Volume(binary_fill_holes(labels > 0), grid)
            pair = make_pair(*images, task=task, region=Region.AB, case_id=name, mask=mask)
            right = residual(grid.resized((6.0, 6.0, 6.0)), 1.0, 45.0, rng)
            yield f"{name}, {task}", "right", pair, right
            yield f"{name}, {task}", "shifted", pair, compose(SHIFT, right)


def coarse(pair: Pair, spacing_mm: float) -> Pair:
    """Both images on voxels of another size."""

    def resized(volume: Volume, outside: float) -> Volume:
        smooth = anti_aliased(volume.with_array(volume.array.astype(np.float32)), spacing_mm)
        grid = volume.geometry.resized((spacing_mm,) * 3)
        return resample(smooth, grid, interpolation="linear", outside=outside)

    mask = pair.fixed_mask.with_array(pair.fixed_mask.array.astype(np.uint8))
    mask = resample(mask, pair.fixed.geometry.resized((spacing_mm,) * 3), interpolation="nearest")
    return make_pair(
        resized(pair.fixed, float(pair.fixed.array.min())),
        resized(pair.moving, AIR_HU),
        task=pair.task,
        region=pair.region,
        case_id=pair.id,
        mask=mask.with_array(mask.array > 0),
    )


def of_patients(cohort: Path) -> Iterator[Made]:
    """Coarse, thin and cut pairs of simulated patients."""
    for pair, truth, _ in simulated(cohort):
        rng = np.random.default_rng(zlib.crc32(pair.id.encode()))
        right = compose(residual(pair.fixed.geometry.resized((6.0, 6.0, 6.0)), 1.0, 45.0, rng), truth)
        name = f"{pair.region} {pair.task}"
        yield f"{name}, 4 mm", "right", pair, right
        for size_mm in (6.0, 8.0):
            other = coarse(pair, size_mm)
            yield f"{name}, {size_mm:g} mm", "right", other, right
            yield f"{name}, {size_mm:g} mm", "mirrored", flipped(other, 2), right
            yield f"{name}, {size_mm:g} mm", "shifted", other, compose(SHIFT, right)
        middle = pair.fixed.array.shape[0] // 2
        for count in (4, 10):
            images = (slices(v, middle - count // 2, count) for v in (pair.fixed, pair.fixed_mask))
            fixed, mask = images
            thin = make_pair(fixed, pair.moving, task=pair.task, region=pair.region, case_id=pair.id, mask=mask)
            yield f"{name}, {count} slices", "right", thin, right
            yield f"{name}, {count} slices", "shifted", thin, compose(SHIFT, right)
        part = replace(pair, moving=slices(pair.moving, 0, round(0.55 * len(pair.moving.array))), moving_labels=None)
        yield f"{name}, half the CT", "right", part, right


def judged(pair: Pair, transform: Transform) -> dict[str, object]:
    """What the judge says; of the quality's measures it asks for the field of view alone here."""
    view = Looker(pair).look(transform)
    zero = {k: 0.0 for k in ("mean", "median", "p95", "max")}
    state = {"nmi": 1.0, "feature_distance": 0.0, "edges": 0.0}
    jacobian = {"minimum": 1.0, "p1": 1.0, "p99": 1.0, "maximum": 1.0, "log_std": 0.0, "folds": 0.0}
    share = float(view.data[view.mask].mean())
    quality = QualityRecord.model_validate(
        {
            "similarity": {"before": state, "after": state},
            "overlap": {"field_of_view": share, "before": {}, "after": {}},
            "field": {"displacement_mm": zero, "deformation_mm": zero, "jacobian": jacobian},
        }
    )
    said, _ = judge_registration(pair, transform, quality, OPTIMISED)
    return {
        "verdict": str(said.verdict),
        "failure_probability": round(said.failure_probability, 3),
        "predicted_mm": said.error_mm,
        "reasons": "; ".join(said.reasons),
    }


def main() -> None:
    """Write what the judge says of every pair; counts go to the screen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("pair", "registration", "verdict", "failure_probability", "predicted_mm", "reasons"))
        for source in (phantoms(), of_patients(options.cohort)):
            for name, what, pair, transform in source:
                row = judged(pair, transform)
                table.writerow((name, what, *row.values()))
                file.flush()
                print(name, what, row["verdict"], row["failure_probability"], flush=True, file=sys.stderr)


if __name__ == "__main__":
    main()
