"""Draw the README's picture: source, synthetic CT, true CT and difference of a sample case.

python docs/make_sample.py [mri|cbct]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from sctlab.pictures import DIFFERENCE_WINDOW, Layer, save_planes
from sctlab_model.cases import read_challenge
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.volume import Volume

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # process.py is a script of the repository, not part of the package

import process  # noqa: E402

WINDOW = (-300.0, 500.0)  # HU


def main(task: str) -> None:
    """Predict the sample case of a task and draw it beside the truth."""
    case = read_challenge(ROOT / "test/cases" / task)
    with tempfile.TemporaryDirectory() as folder:
        code = process.main(["--input", str(ROOT / "test/cases" / task), "--output", folder])
        if code:
            sys.exit(code)
        synthetic = read_volume(Path(folder) / case.output_name)
    source, mask = read_volume(case.source_file), read_mask(case.mask_file).array
    truth = read_volume(ROOT / "test/cases" / task / "truth/ct_aligned.mha")
    error = np.where(mask, synthetic.array.astype(np.float32) - np.clip(truth.array, -1024, 3071), 0)
    mae = float(np.abs(error[mask]).mean())
    path = ROOT / "docs" / ("sample.png" if task == "mri" else f"sample_{task}.png")
    save_planes(
        [
            Layer("simulated MR" if task == "mri" else "simulated CBCT", source, None if task == "mri" else WINDOW),
            Layer("synthetic CT", synthetic, WINDOW, unit="HU"),
            Layer("true CT", truth, WINDOW, unit="HU"),
            Layer(
                f"synthetic − true CT (MAE {mae:.0f} HU)",
                Volume(error, truth.geometry),
                DIFFERENCE_WINDOW,
                "RdBu_r",
                unit="HU",
            ),
        ],
        path,
        planes=("axial",),
    )
    print(f"{path}: MAE {mae:.1f} HU in the mask")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "mri")
