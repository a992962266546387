"""elastix's settings on one pair with a known deformation: what each change does to error and folding.

    python benchmarks/elastix_tuning.py mr organisers mask-grown tuned
    python benchmarks/elastix_tuning.py cbct organisers tuned --case abdomen --seed 0

A row a variant, printed as it ends. `--iterations 0.25` runs a quarter of the organisers' iterations.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from registration_pairs import CASES, MODALITIES, Pair, errors, load_ct, make_pair
from scipy.ndimage import distance_transform_edt

from sctlab.registration.elastix.parameters import TUNED_HU, TUNED_MARGIN_MM, baseline_settings
from sctlab.registration.elastix.register import register_elastix
from sctlab.transforms.field import displacement_field
from sctlab_model.volume import AIR_HU, Volume

EVERYWHERE = {"UseRandomSampleRegion": ["false"]}
STIFF = {"NumberOfHistogramBins": ["32"], "Metric1Weight": ["500"]}
# name → (HU clipped, mask grown, elastix parameters); the rigidity penalty is left out of all of them
VARIANTS: dict[str, tuple[bool, bool, dict[str, list[str]]]] = {
    "organisers": (False, False, {}),
    "everywhere": (False, False, EVERYWHERE),
    "clipped": (True, False, EVERYWHERE),
    "mask-grown": (True, True, EVERYWHERE),
    "stiff": (True, True, EVERYWHERE | STIFF),
    "region": (True, True, {}),
    "region-stiff": (True, True, STIFF),
}


def run(pair: Pair, variant: str, fraction: float) -> dict[str, float]:
    """Errors and seconds of a variant (`rigid` and `tuned` are `register_elastix`'s own)."""
    fixed, moving, mask = pair.fixed, pair.moving, pair.fixed_mask
    options: dict[str, object] = {variant: True} if variant == "tuned" else {"rigid_only": variant == "rigid"}
    if variant in VARIANTS:
        clipped, grown, parameters = VARIANTS[variant]
        if clipped:
            moving = clip(moving)
            fixed = clip(fixed) if "cbct" in pair.name else fixed
        if grown:
            spacing = mask.geometry.spacing_xyz[::-1]
            mask = mask.with_array(distance_transform_edt(~mask.array, sampling=spacing) <= TUNED_MARGIN_MM)
        iterations = baseline_settings(pair.task, pair.region).iterations
        scaled = {"MaximumNumberOfIterations": [str(max(1, int(n * fraction))) for n in iterations]}
        no_bone = pair.moving.with_array(np.zeros(pair.moving.array.shape, np.uint8))
        options = {"overrides": parameters | scaled, "bone": no_bone}
    started = time.perf_counter()
    found = register_elastix(fixed, moving, mask, task=pair.task, region=pair.region, seed=3, **options)
    seconds = time.perf_counter() - started
    return errors(pair, displacement_field(found.transform, pair.fixed.geometry).vectors) | {"seconds": seconds}


def clip(volume: Volume) -> Volume:
    """HU clipped to soft tissue, its lower end as air, so that the centre of gravity stays that of the body."""
    low, high = TUNED_HU
    return volume.with_array(np.clip(volume.array, low, high) - low + AIR_HU)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modality", choices=MODALITIES)
    parser.add_argument("variants", nargs="+", choices=["rigid", *VARIANTS, "tuned"])
    parser.add_argument("--case", choices=list(CASES), default="abdomen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=float, default=1.0, help="share of the organisers' iterations")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    options = parser.parse_args()
    pair = make_pair(options.case, load_ct(options.case, options.data), options.modality, options.seed)
    for variant in options.variants:
        row = run(pair, variant, options.iterations)
        print(f"{pair.name} {variant}: " + ", ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
