"""A small cohort of phantoms on disk, with predictions, for the tests of the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from evaluation_phantom import Phantom, make_phantom

from sctlab_model.io.atomic import write_json
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume

SHAPE = (24, 40, 44)
SPACING_XYZ = (4.0, 4.0, 5.0)
CLASSES = {"AB": (2, 5, 26, 79), "HN": (15, 27, 90), "TH": (10, 28, 51)}


def write_cohort(
    root: Path,
    ids: tuple[str, ...] = ("1ABA001", "1ABA002", "1HNA001"),
    *,
    shape=SHAPE,
    spacing=SPACING_XYZ,
    classes: dict = CLASSES,
    error: float = 1.0,
    truth: bool = True,
) -> dict[str, Phantom]:
    """`root/cohort`, `root/predictions/<REGION>/<ID>.mha`, `root/labels/<ID>.mha`.

    With `truth`, the cohort's CT is the aligned one moved by two voxels along y: a registration that is wrong.
    """
    phantoms = {}
    for index, name in enumerate(ids):
        region = name[1:3]
        phantom = make_phantom(shape, spacing, classes=classes[region], seed=index)
        folder = root / "cohort" / f"Task{name[0]}" / region / name
        sct = phantom.ct.array + error * (phantom.sct.array.astype(np.float32) - phantom.ct.array)
        prediction = phantom.ct.with_array(np.round(sct).astype(np.int16))
        source = np.where(phantom.mask.array, 500 + 0.4 * phantom.ct.array, 0).clip(0).astype(np.float32)
        write_volume(phantom.ct.with_array(source), folder / "mr.mha")
        write_volume(_moved(phantom.ct) if truth else phantom.ct, folder / "ct.mha")
        write_volume(phantom.mask, folder / "mask.mha")
        write_volume(phantom.ct_labels, folder / "labels.mha")
        if truth:
            write_volume(phantom.ct, folder / "truth" / "ct_aligned.mha")
            write_volume(phantom.ct_labels, folder / "truth" / "labels_source.mha")
        write_json(folder / "pair.json", {"method": "elastix", "convention": "ct_to_source"})
        write_volume(prediction, root / "predictions" / region / f"{name}.mha")
        write_volume(phantom.sct_labels, root / "labels" / f"{name}.mha")
        phantoms[name] = phantom
    return phantoms


def write_provenance(
    folder: Path, *, method: str = "elastix", training: dict | None = None, cases: list | None = None
) -> None:
    """`predictions.json` as `process.py` writes it."""
    bundle = {
        "name": "test-weights", "demonstration": False,
        "registration": {"method": method, "convention": "ct_to_source"},
        "training_cases": training or {"AB+HN+TH/0": []},
    }  # fmt: skip
    write_json(folder / "predictions.json", {"bundles": {"mri": bundle}, "cases": cases or []})


def _moved(ct: Volume) -> Volume:
    return ct.with_array(np.roll(ct.array, 2, axis=1))
