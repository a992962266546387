"""Scores of arrays and volumes in memory."""

from __future__ import annotations

import numpy as np
import pytest
from evaluation_phantom import make_phantom

from sctlab.evaluation import evaluate
from sctlab.measures.image import image_metrics
from sctlab_model.errors import InputError

CLASSES = (2, 5, 26, 79)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((20, 30, 32), (3.0, 3.0, 4.0), classes=CLASSES)


def test_arrays_and_volumes_score_alike(phantom) -> None:
    by_volume = evaluate(
        phantom.sct, phantom.ct, phantom.mask, sct_labels=phantom.sct_labels, ct_labels=phantom.ct_labels, region="AB"
    )
    by_array = evaluate(
        phantom.sct.array,
        phantom.ct.array,
        phantom.mask.array,
        sct_labels=phantom.sct_labels.array,
        ct_labels=phantom.ct_labels.array,
        spacing_xyz=(3.0, 3.0, 4.0),
    )
    assert by_volume == by_array
    direct = image_metrics(phantom.sct.array, phantom.ct.array, phantom.mask.array)
    assert by_volume.metrics["mae"] == direct.mae
    assert {o.label for o in by_volume.organs.organs} == set(CLASSES)
    assert sum(t.voxels for t in by_volume.tissues.values()) == phantom.mask.array.sum()


def test_identical_images_have_no_psnr(phantom) -> None:
    scores = evaluate(phantom.ct, phantom.ct, phantom.mask)
    assert scores.metrics["mae"] == 0
    assert scores.metrics["psnr"] is None
    assert scores.organs is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": np.ones((3, 3, 3))}, "shapes"),
        ({"mask": np.zeros((20, 30, 32))}, "empty mask"),
        ({"sct_labels": np.ones((20, 30, 32), int)}, "labels of one image"),
        ({"sct_labels": np.ones((20, 30, 32), int), "ct_labels": np.ones((20, 30, 32), int)}, "spacing_xyz"),
    ],
)
def test_what_cannot_be_scored(phantom, change: dict, reason: str) -> None:
    arguments = {"sct": phantom.sct.array, "ct": phantom.ct.array, "mask": phantom.mask.array} | change
    with pytest.raises(InputError, match=reason):
        evaluate(**arguments)
