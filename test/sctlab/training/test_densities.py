"""Patches whose tissues hold other HU: in both images alike, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sctlab.training.cache import PreparedCase
from sctlab.training.dataset import PatchDataset
from sctlab.training.densities import DensityDrawer, DensitySettings
from sctlab.training.plan import Patch, TrainingPlan
from sctlab_model.cases import Task
from sctlab_model.preparation import prepare, prepare_target
from sctlab_model.recipe import Canvas, Recipe
from sctlab_model.volume import Geometry, Volume

SHAPE = (9, 64, 64)
CONTRAST = 0.8  # of the scan here
RECIPE = Recipe(
    task=Task.CBCT,
    spacing_xyz=(2, 2, 3),
    normalisation={"kind": "range", "lower": -1024, "upper": 2000},
    canvas=Canvas(margin=4, minimum_yx=(64, 64)),
)
SOURCE, TARGET = 3024 / 2, 4095 / 2  # HU a unit


@pytest.fixture
def case(tmp_path: Path) -> PreparedCase:
    """Fat around muscle around lung, gas and bone; a scan of it with less contrast, and a place without a target."""
    hu = np.full(SHAPE, -1000, np.float32)
    hu[:, 4:60, 4:60] = -100
    hu[:, 10:54, 10:54] = 50
    hu[:, 16:30, 16:30] = -800
    hu[:, 34:40, 16:30] = -1000
    hu[:, 34:46, 34:46] = 600
    body = np.zeros(SHAPE, bool)
    body[:, 4:60, 4:60] = True
    grid = Geometry(SHAPE[::-1], (2.0, 2.0, 3.0))
    scan = np.where(body, CONTRAST * (hu + 1000) - 1000, -1000).astype(np.float32)
    prepared = prepare(Volume(scan, grid), Volume(body, grid), RECIPE)
    target = prepare_target(Volume(hu, grid), prepared, RECIPE)
    target[:, 50:52, 12:20] = np.nan
    known = prepared.mask & np.isfinite(target)
    arrays = {"source": prepared.source, "target": target, "mask": prepared.mask, "voxels": known.sum(-1).cumsum()}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return PreparedCase("case", tmp_path, -1.0, "case")


def patches(case: PreparedCase, densities: bool, batch: int = 24, **patch: object) -> tuple[np.ndarray, ...]:
    """Middle slices of the source, targets and masks of one batch."""
    drawer = DensityDrawer(DensitySettings(share=1), RECIPE) if densities else None
    settings = Patch(size_yx=(64, 64), batch=batch, **patch)
    drawn = PatchDataset([case], settings, 5, (3,), canvas=RECIPE.canvas, densities=drawer)[0]
    return drawn.source[:, 2].numpy(), drawn.target[:, 0].numpy(), drawn.mask[:, 0].numpy()


def test_both_images_change_alike_by_the_contrast_of_the_scan(case: PreparedCase) -> None:
    (drawn, new, mask), (source, target, same) = patches(case, True), patches(case, False)
    np.testing.assert_array_equal(mask, same)  # the same places
    source, target = drawn - source, new - target
    seen, added = source * SOURCE, np.nan_to_num(target) * TARGET
    changed = np.abs(added).max((1, 2)) > 100
    assert changed.sum() >= 12
    for s, a in zip(seen[changed], added[changed], strict=True):
        # a blurred copy: what was added in all is there in all, times the contrast
        assert np.corrcoef(s.ravel(), a.ravel())[0, 1] > 0.8
        if abs(a.sum()) > 2e4:
            assert s.sum() / a.sum() == pytest.approx(CONTRAST, abs=0.12)


def test_every_tissue_gets_more_and_less_and_gas_and_air_stay(case: PreparedCase) -> None:
    _, plain, mask = patches(case, False, batch=48)
    _, drawn, _ = patches(case, True, batch=48)
    before, added = np.nan_to_num(plain, nan=-1) * TARGET + 1023.5, (drawn - plain) * TARGET
    for hu, least in ((-800, 50), (50, 50), (-100, 5), (600, 50)):
        here = (np.abs(before - hu) < 2) & mask
        assert np.nanpercentile(added[here], 99) > least, hu
        assert np.nanpercentile(added[here], 1) < -0.3 * least, hu
    assert np.nanmax(np.abs(added[~mask])) == 0
    gas = (np.abs(before + 1000) < 2) & mask
    assert np.nanmax(np.abs(added[gas])) < 1
    assert np.nanmin((drawn + 1) * TARGET) >= 0, "lighter than air"


def test_unknown_targets_stay_unknown_and_sources_finite(case: PreparedCase) -> None:
    source, target, _ = patches(case, True)
    assert np.isfinite(source).all()
    np.testing.assert_array_equal(np.isnan(target), np.isnan(patches(case, False)[1]))


def test_draws_are_those_of_seed_and_iteration_and_go_with_flips_slabs_and_cut_fields(case: PreparedCase) -> None:
    options = {"slab": 4, "flip_y": 0.5, "cut_field_of_view": 1.0}
    once, again = (patches(case, True, **options) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)
    source, target, mask = once
    assert (source[~mask] == -1).all()
    assert (target[~mask] == -1).all()


def test_small_shares_leave_most_patches(case: PreparedCase) -> None:
    drawer = DensityDrawer(DensitySettings(share=0.25), RECIPE)
    settings = Patch(size_yx=(64, 64), batch=64)
    some = PatchDataset([case], settings, 5, (3,), canvas=RECIPE.canvas, densities=drawer)[0].source[:, 2].numpy()
    plain = PatchDataset([case], settings, 5, (3,), canvas=RECIPE.canvas)[0].source[:, 2].numpy()
    assert 6 <= (some != plain).any((1, 2)).sum() <= 28


def test_only_pairs_in_hu_can_change_alike(make_plan) -> None:
    plan = make_plan().model_dump(mode="json")
    plan["data"]["densities"] = {"share": 0.5}
    with pytest.raises(ValidationError, match=r"data\.densities adds HU to both images"):
        TrainingPlan.model_validate(plan)
    in_hu = RECIPE.model_dump(mode="json")
    TrainingPlan.model_validate(plan | {"recipe": in_hu})
    with pytest.raises(ValidationError, match=r"data\.densities adds HU to both images"):
        TrainingPlan.model_validate(plan | {"recipe": in_hu | {"task": "mri"}})
    with pytest.raises(ValidationError, match="objective cut has none"):
        TrainingPlan.model_validate(plan | {"recipe": in_hu, "objective": {"kind": "cut"}, "losses": []})
    with pytest.raises(ValidationError, match="greater than 0"):
        DensitySettings(share=0)
