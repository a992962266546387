"""Images in memory to a synthetic CT in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import sctlab
from sctlab_model.errors import InputError
from sctlab_model.volume import Volume


def test_importing_is_light() -> None:
    code = "import sys, sctlab; assert not {'torch', 'numpy', 'SimpleITK'} & set(sys.modules); print(*sctlab.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["evaluate", "register", "simulate", "synthesise"]
    assert all(callable(getattr(sctlab, name)) for name in sctlab.PUBLIC)
    with pytest.raises(AttributeError):
        _ = sctlab.nothing


def test_the_result_is_of_the_kind_that_was_given(cbct: Volume, outline: Volume, cbct_bundle: Path) -> None:
    settings = {"task": "cbct", "region": "AB", "weights": cbct_bundle, "device": "cpu"}
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = cbct.geometry.matrix, cbct.geometry.origin_xyz
    as_volume = sctlab.synthesise(cbct, mask=outline, spread=True, **settings)
    as_image = sctlab.synthesise(cbct.to_sitk(), mask=outline.to_sitk(), **settings)
    as_array = sctlab.synthesise((cbct.array, affine), mask=outline.array, **settings)
    assert as_volume.sct.geometry == cbct.geometry
    assert as_volume.spread.array.shape == cbct.array.shape
    assert as_image.sct.GetSpacing() == cbct.to_sitk().GetSpacing()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(as_image.sct), as_volume.sct.array)
    np.testing.assert_array_equal(as_array.sct, as_volume.sct.array)
    assert as_volume.record.software.device.startswith("cpu")
    assert as_array.spread is None


@pytest.mark.parametrize("change", [{"task": "pet"}, {"region": "Knee"}, {"mask": np.ones((2, 2, 2))}])
def test_what_makes_no_sense_is_refused(cbct: Volume, cbct_bundle: Path, change: dict) -> None:
    with pytest.raises(InputError):
        sctlab.synthesise(cbct, **({"task": "cbct", "weights": cbct_bundle, "device": "cpu"} | change))
