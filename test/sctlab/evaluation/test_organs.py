"""Dice and HD95 against MONAI's, and each edge case as a policy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluation_oracle import organ_metrics as oracle
from evaluation_phantom import make_phantom

from sctlab.evaluation.class_names import CLASS_NAMES
from sctlab.evaluation.organs import REGION_CLASSES, organ_metrics
from sctlab.measures.overlap import confusion_counts
from sctlab_model.cases import Region

SPACINGS = [(3.0, 1.0, 1.0), (3.3, 0.9766, 1.171875), (2.0, 2.0, 2.0)]
# torch.device objects aren't the string "cpu": they take the path of a GPU, on this machine's processor
TORCH_PATH = torch.device("cpu", 0)


@pytest.mark.parametrize("device", ["cpu", TORCH_PATH])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_equals_monai(spacing, device) -> None:
    classes = (2, 5, 14, 26, 40, 92, 116)
    phantom = make_phantom((28, 60, 64), classes=classes, seed=5)
    expected = oracle(phantom.sct_labels.array, phantom.ct_labels.array, REGION_CLASSES[Region.AB], spacing)
    scores = organ_metrics(
        phantom.sct_labels.array, phantom.ct_labels.array, REGION_CLASSES[Region.AB], spacing, device=device
    )
    assert {o.label for o in scores.organs} == set(expected)
    for organ in scores.organs:
        assert organ.dice == pytest.approx(expected[organ.label][0], rel=1e-6)
        assert organ.hd95 == pytest.approx(expected[organ.label][1], rel=1e-6, nan_ok=True)


def test_random_blobs_equal_monai() -> None:
    random = np.random.default_rng(1)
    for _ in range(6):
        shape = tuple(random.integers(1, 14, 3))
        a, b = (random.integers(0, 4, shape).astype(np.uint8) for _ in range(2))
        expected = oracle(a, b, (1, 2, 3), (2.5, 0.7, 1.1))
        scores = organ_metrics(a, b, (1, 2, 3), (2.5, 0.7, 1.1))
        for organ in scores.organs:
            assert organ.dice == pytest.approx(expected[organ.label][0], rel=1e-6)
            assert organ.hd95 == pytest.approx(expected[organ.label][1], rel=1e-6, nan_ok=True)


def _labels(**boxes) -> np.ndarray:
    labels = np.zeros((12, 12, 12), np.uint8)
    for name, box in boxes.items():
        labels[box] = int(name[1:])
    return labels


def test_an_organ_lost_from_the_prediction_scores_dice_0_and_no_distance() -> None:
    reference = _labels(c2=np.s_[1:4, 1:4, 1:4], c3=np.s_[6:9, 6:9, 6:9])
    scores = organ_metrics(_labels(c2=np.s_[1:4, 1:4, 1:4]), reference, (2, 3), (1, 1, 1))
    assert [o.lost for o in scores.organs] == [False, True]
    assert scores.dice == 0.5
    assert scores.hd95 == 0  # the mean of what is defined


def test_all_organs_lost_leaves_no_distance() -> None:
    scores = organ_metrics(_labels(), _labels(c2=np.s_[1:4, 1:4, 1:4]), (2, 3), (1, 1, 1))
    assert scores.dice == 0
    assert math.isnan(scores.hd95)


def test_a_class_that_the_reference_has_not_counts_nowhere() -> None:
    same = np.s_[1:4, 1:4, 1:4]
    scores = organ_metrics(_labels(c2=same, c3=np.s_[6:9, 6:9, 6:9]), _labels(c2=same), (2, 3), (1, 1, 1))
    assert (scores.dice, scores.hd95) == (1, 0)
    assert scores.invented == (3,)


def test_no_class_at_all_scores_dice_0_and_distance_0() -> None:
    scores = organ_metrics(_labels(c2=np.s_[1:4, 1:4, 1:4]), _labels(c52=np.s_[1:4, 1:4, 1:4]), (2, 3), (1, 1, 1))
    assert (scores.dice, scores.hd95, scores.organs) == (0, 0, ())


def test_labels_beyond_the_list_are_background() -> None:
    a, b = _labels(c2=np.s_[1:4, 1:4, 1:4]).astype(np.int32), _labels(c2=np.s_[1:4, 1:4, 1:4]).astype(np.int32)
    a[8, 8, 8], b[9, 9, 9] = 4000, -3
    assert organ_metrics(a, b, (2,), (1, 1, 1)).dice == 1


def test_whole_numbers_in_floats_are_labels_and_fractions_are_not() -> None:
    labels = _labels(c2=np.s_[1:4, 1:4, 1:4])
    assert organ_metrics(labels.astype(np.float32), labels, (2,), (1, 1, 1)).dice == 1
    with pytest.raises(ValueError, match="integers"):
        organ_metrics(labels + 0.5, labels, (2,), (1, 1, 1))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        organ_metrics(np.zeros((3, 3, 3), int), np.zeros((3, 3, 4), int), (1,), (1, 1, 1))


def test_confusion_counts() -> None:
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 4, (7, 8, 9)).astype(np.uint8) for _ in range(2))
    expected = np.array([[np.sum((b == i) & (a == j)) for j in range(4)] for i in range(4)])
    assert np.array_equal(confusion_counts(a, b, 4), expected)
    assert np.array_equal(confusion_counts(a, b, 4, device=TORCH_PATH), expected)


def test_region_classes_are_the_challenge_s() -> None:
    assert len(REGION_CLASSES[Region.AB]) == 4 + 5 + 25 + 1 + 1 + 24 + 1
    assert REGION_CLASSES[Region.TH] == REGION_CLASSES[Region.AB]
    assert REGION_CLASSES[Region.HN] == (15, 16, 17, *range(26, 51), 79, 90, 91)
    assert all(label in CLASS_NAMES for classes in REGION_CLASSES.values() for label in classes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_gives_the_same_numbers() -> None:
    phantom = make_phantom((28, 60, 64), classes=(2, 5, 26), seed=5)
    arrays = phantom.sct_labels.array, phantom.ct_labels.array, (2, 5, 26), (3.3, 0.9766, 1.17)
    for here, there in zip(organ_metrics(*arrays).organs, organ_metrics(*arrays, device="cuda").organs, strict=True):
        assert there.dice == here.dice
        assert there.hd95 == pytest.approx(here.hd95, rel=1e-6)
