"""The mask of a case that came without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from sctlab_model.body import body_mask
from sctlab_model.bundle import SHIPPED_WEIGHTS, read_bundle
from sctlab_model.case_input import MARGIN_MM, read_case, with_skin
from sctlab_model.cases import Task, read_challenge
from sctlab_model.checks import fit_mask
from sctlab_model.errors import InputError
from sctlab_model.gates import Policy
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.predictions import CaseResult
from sctlab_model.volume import Geometry, Volume

CASES = Path(__file__).parents[2] / "test" / "cases"


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (2.0, 2.0, 3.0), (0.7, 1.3, 5.0), (3.0, 3.0, 3.0)])
def test_the_margin_is_in_millimetres(spacing: tuple[float, float, float]) -> None:
    body = np.zeros((9, 21, 23), bool)
    body[3:6, 8:13, 9:14] = True
    distance = ndimage.distance_transform_edt(~body, sampling=spacing[::-1])
    found = with_skin(Volume(body, Geometry((23, 21, 9), spacing))).array
    np.testing.assert_array_equal(found, distance <= MARGIN_MM + 1e-6)
    assert found.sum() > body.sum()


def test_voxels_larger_than_the_margin_stay_as_they_are() -> None:
    body = np.zeros((3, 5, 5), bool)
    body[1, 2, 2] = True
    np.testing.assert_array_equal(with_skin(Volume(body, Geometry((5, 5, 3), (4, 4, 6)))).array, body)


@pytest.mark.parametrize("task", list(Task))
def test_no_skin_is_left_out(task: Task) -> None:
    """What is tissue in the true CT lies in the computed mask, next to all of it; in the tight body it doesn't."""
    case = read_challenge(CASES / task)
    truth = read_volume(next((CASES / task / "truth").rglob("*.mha"))).array
    given = read_mask(case.mask).array
    recipe = read_bundle(SHIPPED_WEIGHTS / f"demo-{task}").recipe
    result = CaseResult()
    source, mask = read_case(replace(case, mask=None), result, recipe, Policy())
    tissue = given & (truth > -400)
    tight = body_mask(source, task).array
    assert np.count_nonzero(tissue & ~mask.array) < 0.3 * np.count_nonzero(tissue & ~tight)
    assert np.count_nonzero(tissue & ~mask.array) < 0.02 * np.count_nonzero(tissue)
    assert any("one was computed" in w for w in result.warnings)


def test_metres_of_a_body_are_refused_before_they_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(read_challenge(CASES / Task.MRI), mask=None)
    source = case.read_source()
    wide = replace(source.geometry, spacing_xyz=tuple(10 * s for s in source.geometry.spacing_xyz))
    monkeypatch.setattr(type(case), "read_source", lambda *_: replace(source, geometry=wide))
    recipe = read_bundle(SHIPPED_WEIGHTS / "demo-mri").recipe
    with pytest.raises(InputError, match=r"mm wide: is the spacing of .* really in mm"):
        read_case(case, CaseResult(), recipe, Policy())


def test_millimetres_in_metres_are_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nothing that could be a body; give a body mask` sent the user after a mask."""
    case = replace(read_challenge(CASES / Task.MRI), mask=None)
    source = case.read_source()
    tiny = replace(source.geometry, spacing_xyz=tuple(s / 1000 for s in source.geometry.spacing_xyz))
    monkeypatch.setattr(type(case), "read_source", lambda *_: replace(source, geometry=tiny))
    recipe = read_bundle(SHIPPED_WEIGHTS / "demo-mri").recipe
    with pytest.raises(InputError, match=r"could be a body.* mm wide: is its spacing in mm\?"):
        read_case(case, CaseResult(), recipe, Policy())


def test_a_mask_with_other_axes_is_not_called_another_size() -> None:
    source = read_challenge(CASES / Task.MRI).read_source()
    size, direction = np.array(source.geometry.size_xyz), np.array(source.geometry.axes)
    direction[:, 0] *= -1
    first = source.geometry.to_physical(np.array([[size[0] - 1, 0, 0]]))[0]
    turned = replace(source.geometry, origin_xyz=tuple(first), direction=tuple(direction.ravel()))
    marked = np.zeros(source.array.shape, bool)
    marked[:, :, :9] = True
    fitted, (note,) = fit_mask(Volume(marked, turned), source)
    np.testing.assert_array_equal(fitted.array, marked[:, :, ::-1])
    shape = "x".join(map(str, size))
    assert note == f"the mask lay on another grid ({shape} as the image, but other places or axes) and was resampled"
