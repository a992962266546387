"""Make the golden cases beside this file: `python test/sctlab/evaluation/golden/make_golden.py`.

Random phantoms, scored by the straightforward versions in `evaluation_oracle.py`: a head and neck case with an
organ lost and one invented, and an abdominal case without any class of its region.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from evaluation_oracle import image_metrics, organ_metrics, textbook_ms_ssim  # noqa: E402
from evaluation_phantom import make_phantom  # noqa: E402

from sctlab.evaluation.organs import REGION_CLASSES  # noqa: E402
from sctlab_model.cases import Region  # noqa: E402

CASES = {
    # spacings that binary fractions can't represent, so that rounding has its chance
    "head_and_neck": (Region.HN, (30, 66, 60), (1.2, 0.9766, 3.3), (15, 16, 17, 44, 45, 46, 47, 79, 90, 91)),
    "no_class": (Region.AB, (20, 48, 52), (1.0, 1.0, 3.0), (52, 63, 117)),
}


def main() -> None:
    """Write `golden.npz` and `golden.json`."""
    arrays, expected = {}, {}
    for index, (name, (region, shape, spacing, classes)) in enumerate(CASES.items()):
        phantom = make_phantom(shape, spacing, classes=classes, seed=20 + index)
        sct_labels = phantom.sct_labels.array.copy()
        if region is Region.HN:
            sct_labels[sct_labels == 17] = 0  # lost
            sct_labels[2:4, 30:34, 30:34] = 26  # only in the prediction
        parts = {"ct": phantom.ct.array, "sct": phantom.sct.array, "mask": phantom.mask.array.astype(np.uint8),
                 "ct_labels": phantom.ct_labels.array, "sct_labels": sct_labels}  # fmt: skip
        arrays |= {f"{name}.{key}": value for key, value in parts.items()}
        organs = organ_metrics(sct_labels, parts["ct_labels"], REGION_CLASSES[region], spacing[::-1])
        distances = [d for _, d in organs.values() if not np.isnan(d)]
        expected[name] = {
            "region": region.value,
            "spacing_xyz_mm": spacing,
            "expected": {
                **image_metrics(parts["sct"], parts["ct"], parts["mask"]),
                "ms_ssim_textbook": textbook_ms_ssim(parts["sct"], parts["ct"], parts["mask"]),
                "DICE": float(np.mean([d for d, _ in organs.values()])) if organs else 0.0,
                "HD95": float(np.mean(distances)) if organs else 0.0,
                "per_class": {str(k): [d, None if np.isnan(h) else h] for k, (d, h) in organs.items()},
            },
        }
    np.savez_compressed(HERE / "golden.npz", **arrays)
    (HERE / "golden.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
