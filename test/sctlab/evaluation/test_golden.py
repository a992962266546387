"""The challenge's metrics against golden values: those of the project's data, and our own from the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sctlab.evaluation.organs import REGION_CLASSES, organ_metrics
from sctlab.measures.image import image_metrics
from sctlab_model.cases import Region

RELATIVE = 1e-6
SHARED = (Path(__file__).parents[3] / "../shared/golden").resolve()
OWN = Path(__file__).parent / "golden"
PLACES = {"shared": (SHARED, "metrics_golden"), "own": (OWN, "golden")}
CASES = [("shared", c) for c in ("abdomen_full", "abdomen_thin_slab_padded", "abdomen_out_of_range_and_lost_organ")]
CASES += [("own", c) for c in ("head_and_neck", "no_class")]


def _load(place: str, case: str) -> tuple[dict, dict]:
    folder, stem = PLACES[place]
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    entry = json.loads((folder / f"{stem}.json").read_text())[case]
    with np.load(folder / f"{stem}.npz") as file:
        return {k.partition(".")[2]: file[k] for k in file.files if k.startswith(case + ".")}, entry


@pytest.mark.parametrize(("place", "case"), CASES)
def test_image_metrics(place: str, case: str) -> None:
    images, entry = _load(place, case)
    scores = image_metrics(images["sct"], images["ct"], images["mask"]).as_dict()
    for key in ("mae", "psnr", "ms_ssim", "ms_ssim_textbook"):
        if key in entry["expected"]:
            assert scores[key] == pytest.approx(entry["expected"][key], rel=RELATIVE), key


@pytest.mark.parametrize(("place", "case"), CASES)
def test_organ_metrics(place: str, case: str) -> None:
    images, entry = _load(place, case)
    expected = entry["expected"]
    scores = organ_metrics(
        images["sct_labels"],
        images["ct_labels"],
        REGION_CLASSES[Region(entry["region"])],
        entry["spacing_xyz_mm"][::-1],
    )
    assert scores.dice == pytest.approx(expected["DICE"], rel=RELATIVE)
    assert scores.hd95 == pytest.approx(expected["HD95"], rel=RELATIVE)
    assert {str(o.label) for o in scores.organs} == set(expected["per_class"])
    for organ in scores.organs:
        dice, distance = expected["per_class"][str(organ.label)]
        assert organ.dice == pytest.approx(dice, rel=RELATIVE)
        assert organ.lost if distance is None else organ.hd95 == pytest.approx(distance, rel=RELATIVE)


def test_own_cases_hold_what_they_are_for() -> None:
    images, entry = _load("own", "head_and_neck")
    assert entry["expected"]["per_class"]["17"] == [0.0, None]
    assert 26 in images["sct_labels"]
    assert 26 not in images["ct_labels"]
    _, entry = _load("own", "no_class")
    assert entry["expected"]["per_class"] == {}
    assert entry["expected"]["DICE"] == entry["expected"]["HD95"] == 0
