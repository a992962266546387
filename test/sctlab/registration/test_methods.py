"""What a method hands to the engine beside the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.registration.methods import register_pair
from sctlab.registration.pairs import make_pair
from sctlab.registration.settings import Convention, RegistrationSettings
from sctlab.transforms.data import BSplineTransform, DisplacementField
from sctlab_model.cases import Region, Task
from sctlab_model.volume import Volume

PRESET = """
base: cbct-th-sliding
levels:
  - {voxel_mm: 8, iterations: 3, rate_mm: 1, points: 500}
discrete: null
rigid: {levels_mm: [8], iterations: [3], samples: 500, candidates: 1, orientation_voxel_mm: null}
"""


@pytest.mark.parametrize("known", ["half", "all", "none"])
def test_organs_slide_where_the_ct_shows_a_cavity(
    cbct_sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET)
    ct = cbct_sample.ct
    start = ct.array.shape[2] / 2 if known == "half" else -1
    inside = np.broadcast_to(np.arange(ct.array.shape[2]) > start, ct.array.shape)
    cavity = None if known == "none" else ct.with_array(inside)
    monkeypatch.setattr("sctlab.registration.cavity.find_cavity", lambda image: cavity)
    pair = make_pair(cbct_sample.source, ct, task=Task.CBCT, region=Region.TH, mask=cbct_sample.mask)
    result = register_pair(pair, RegistrationSettings(presets=(str(path),)))
    assert isinstance(result.transform.steps[0], DisplacementField if known == "half" else BSplineTransform)
    if known == "half":
        assert result.details["sliding"]["voxels"] > 100
        assert not result.notes
    else:
        assert result.details["sliding"] is None
        assert ("no cavity" if known == "none" else "no surface") in result.notes[0]


@pytest.mark.parametrize("convention", list(Convention))
def test_labels_of_the_ct_say_where_organs_slide(
    cbct_sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convention: Convention
) -> None:
    """The CT's, whichever image is fixed; the finders aren't asked. Labels that show none are named, and they are."""
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET)
    ct, source = cbct_sample.ct, cbct_sample.source
    labels = ct.with_array(np.ones(ct.array.shape, np.uint8))
    right = ct.with_array(np.broadcast_to(np.arange(ct.array.shape[2]) > ct.array.shape[2] / 2, ct.array.shape))
    asked: list[Volume] = []

    def by_labels(image: Volume, map_: Volume) -> Volume | None:
        assert image.array.shape == map_.array.shape == ct.array.shape
        return right if map_.array.any() else None

    monkeypatch.setattr("sctlab.registration.cavity.cavity_by_labels", by_labels)
    monkeypatch.setattr("sctlab.registration.cavity.find_cavity", asked.append)
    settings = RegistrationSettings(presets=(str(path),), convention=convention)
    for known in (True, False):
        pair = make_pair(
            source,
            ct,
            task=Task.CBCT,
            region=Region.TH,
            convention=convention,
            mask=cbct_sample.mask,
            ct_labels=labels if known else labels.with_array(np.zeros_like(labels.array)),
        )
        result = register_pair(pair, settings)
        assert "labels" in result.notes[0]
        assert (result.details["sliding"] is not None) is known
        assert bool(asked) is not known
    assert "nothing slides" in result.notes[1]


def test_labels_of_another_version_are_told_and_not_used(
    cbct_sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1's L5 is version 2's small bowel: taken for it, the cavity would hold the spine."""
    ct = cbct_sample.ct
    bone = ct.array > 300
    assert bone.sum() > 400
    labels = np.where(bone, 18, np.where(ct.array > -50, 5, 0)).astype(np.uint8)
    monkeypatch.setattr("sctlab.registration.cavity.find_cavity", lambda image: None)
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET)
    pair = make_pair(
        cbct_sample.source, ct, task=Task.CBCT, region=Region.TH, mask=cbct_sample.mask, ct_labels=ct.with_array(labels)
    )
    result = register_pair(pair, RegistrationSettings(presets=(str(path),)))
    assert "version 1" in result.notes[0]
    assert "nothing slides" in result.notes[1]
