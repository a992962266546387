"""Noise, shading and error of simulated CBCTs beside published figures of linacs' CBCTs.

    sctlab simulate COHORT --task cbct --regions AB --spacing 2,2,3 --cases 2
    sctlab simulate COHORT --task cbct --regions HN --spacing 2,2,3 --cases 1
    python benchmarks/cbct_realism.py COHORT > benchmarks/cbct_realism.txt

No real CBCT with an open licence was found, so that published figures are all there is to compare with. They are of other
patients, phantoms and regions, and of CBCT and CT of different moments: they say whether the order is right, no more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from sctlab_model.cases import Case, find_cohort
from sctlab_model.io.reading import read_mask, read_volume

SOFT_HU = (-150.0, 150.0)
EVEN_MM = 10.0  # soft tissue at least so far from anything else is even
PUBLISHED = """\
published, of real scans:
MAE of the raw CBCT                     44.4 HU           7 patients, CT of the same day, deformed (PMC7067667)
MAE of the raw CBCT, prostate           75.2 +- 18.7 HU   10 patients, 50 pairs (Front Radiol 2025, 1680803)
centre to periphery, large phantom      30 to 283 HU      TrueBeam, OBI (Phys Med 32 (2016) 1628)
noise, water in a bench CBCT            44 HU             a phantom, no filter stated (Commun Eng 2023, s44172-023-00123-x, table 2)
"""


def measures(case: Case) -> dict[str, float]:
    """MAE in the scanned body, noise and shading in even soft tissue, HU."""
    cbct = read_volume(case.source_file)
    spacing = cbct.geometry.spacing_xyz[::-1]
    image = cbct.array.astype(np.float32)
    truth = np.clip(read_volume(case.folder / "truth/ct_aligned.mha").array.astype(np.float32), -1024, 3071)
    body = read_mask(case.mask_file).array & (image > -1024)
    error = image - truth
    soft = body & (truth > SOFT_HU[0]) & (truth < SOFT_HU[1])
    smooth = ndimage.gaussian_filter(error, [3.0 / s for s in spacing])
    even = ndimage.distance_transform_edt(soft, spacing) > EVEN_MM
    noise = float(np.std((error - smooth)[even])) if even.any() else float("nan")
    depth = ndimage.distance_transform_edt(np.pad(body, ((1, 1), (0, 0), (0, 0)), mode="edge"), spacing)[1:-1]
    deepest = float(np.percentile(depth[soft], 99))
    centre, rim = (float(smooth[soft & part].mean()) for part in (depth > 0.75 * deepest, depth < 0.25 * deepest))
    return {
        "MAE": float(np.abs(error[body]).mean()),
        "mean error": float(error[body].mean()),
        "noise": noise,
        "centre - rim": centre - rim,
        "soft tissue, 5 %": float(np.percentile(smooth[soft], 5)),
        "95 %": float(np.percentile(smooth[soft], 95)),
    }


def main() -> None:
    """A row per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    rows = {case.id: measures(case) for case in find_cohort(parser.parse_args().cohort)}
    names = list(next(iter(rows.values())))
    print("simulated, HU        " + "".join(f"{n:>18}" for n in names))
    for key, row in rows.items():
        print(f"{key:21}" + "".join(f"{row[n]:18.1f}" for n in names))
    print(f"\n{PUBLISHED}", end="")


if __name__ == "__main__":
    main()
