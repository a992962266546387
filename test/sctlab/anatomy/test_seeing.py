"""The picture of what the anatomy network saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sctlab.anatomy import seeing
from sctlab.pictures import Layer
from sctlab_model.anatomy.classes import FILE_IDS, NAMES
from sctlab_model.anatomy.segmenter import Anatomy
from sctlab_model.cases import Region
from sctlab_model.volume import Geometry, Volume


def test_the_picture_names_every_structure_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skull and mandible have one id in files: a skull was called mandible."""
    shown: list[Layer] = []
    monkeypatch.setattr(seeing, "save_planes", lambda layers, path, **_: shown.extend(layers) or path)
    labels = np.zeros((4, 8, len(FILE_IDS)), np.uint8)
    labels[:] = FILE_IDS
    grid = Geometry(labels.shape[::-1], (3.0, 3.0, 3.0))
    seen = Anatomy(Volume(labels, grid), np.ones((4, len(Region))) / 3, np.zeros(len(FILE_IDS)), in_hu=True)
    seeing.save_picture(Volume(labels.astype(np.float32), grid), seen, tmp_path / "labels.nii.gz")
    names = [shown[1].names[k] for k in shown[1].volume.array[0, 0]]
    wanted = [name.replace("_", " ") for name in NAMES]
    wanted[NAMES.index("mandible")] = "skull"
    assert names == wanted
