"""Contrasts drawn from what simulated voxels are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sctlab.cohort.pairs import find_pairs
from sctlab.simulation.fractions import Channel, write_fractions
from sctlab.simulation.tissues import Tissue
from sctlab.training.batch import Batch
from sctlab.training.cache import PreparedCase, prepared_case
from sctlab.training.contrast import ContrastDrawer, ContrastSettings
from sctlab.training.dataset import PatchDataset
from sctlab.training.plan import Patch, TrainingPlan
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume


@pytest.fixture
def simulated(tmp_path: Path, cohort_folder: Path, make_plan) -> tuple[PreparedCase, TrainingPlan, Path]:
    """A case of muscle in fat, with its fraction maps, on the canvas of the tiny plan."""
    folder = tmp_path / "Task1" / "AB" / "1ABA000"
    origin = cohort_folder / "Task1" / "AB" / "1ABA000"
    for name in ("mr.mha", "ct.mha", "mask.mha"):
        write_volume(read_volume(origin / name), folder / name)
    ct = read_volume(origin / "ct.mha")
    write_volume(ct, folder / "truth" / "ct_aligned.mha")
    fractions = np.zeros((len(Channel), *ct.array.shape), np.uint8)
    fractions[Channel.HOST] = Tissue.MUSCLE
    fractions[Channel.FAT] = np.where(ct.array < 0, 230, 10)
    fractions[Channel.AIR] = np.where(ct.array < -500, 255, 0)
    fractions[Channel.TEXTURE] = 128
    write_fractions(fractions, folder / "truth" / "fractions.npz")
    plan = make_plan(data={"target": "truth", "contrast": {"share": 1.0}, "workers": 0})
    (pair,), _ = find_pairs(tmp_path, Task.MRI, target="truth")
    return prepared_case(pair, plan.recipe, tmp_path / "cache", fractions=True), plan, tmp_path


def batch(case: PreparedCase, plan: TrainingPlan, iteration: int = 0, share: float = 1.0, slab: int = 1) -> Batch:
    drawer = ContrastDrawer(ContrastSettings(share=share), plan.recipe)
    patch = Patch(size_yx=(32, 32), batch=4, slab=slab)
    return PatchDataset([case], patch, 3, (0,), contrast=drawer)[iteration]


def test_fractions_lie_on_the_canvas_as_the_target_does(simulated) -> None:
    case, _, _ = simulated
    assert case.fractions.shape == (len(Channel), *case.mask.shape)
    body = np.asarray(case.mask)
    gas = np.asarray(case.target)[body] < 2 * (-500 + 1024) / 4095 - 1
    assert (np.asarray(case.fractions[Channel.AIR])[body][gas] == 255).all()
    assert (np.asarray(case.fractions[Channel.AIR])[body][~gas] == 0).all()


def test_each_draw_is_another_contrast_of_the_same_anatomy(simulated) -> None:
    case, plan, _ = simulated
    first, again, second = batch(case, plan), batch(case, plan), batch(case, plan, 1)
    plain = PatchDataset([case], Patch(size_yx=(32, 32), batch=4), 3, (0,))[0]
    assert (first.source == again.source).all()  # of the seed and the iteration alone
    assert (first.source != second.source).any()
    for name in ("target", "mask"):  # the places and flips are those of a run without
        assert np.array_equal(getattr(first, name), getattr(plain, name), equal_nan=True)
    assert (first.source != plain.source).any()
    assert first.source.min() >= -1
    assert first.source.max() <= 1 + 1e-6
    muscle, fat = [], []
    for iteration in range(12):
        drawn = batch(case, plan, iteration)
        hu = (drawn.target + 1) * 2047.5 - 1024
        body = drawn.mask & (hu > -500)
        middle = drawn.source[:, 1:2]
        muscle.append(float(middle[body & (hu > 0) & (hu < 120)].mean()))
        fat.append(float(middle[body & (hu < -50)].mean()))
    contrast = np.array(fat) - np.array(muscle)
    assert contrast.min() < 0.1  # of some sequences fat is not the brighter one
    assert np.ptp(contrast) > 0.3


def test_some_patches_stay_as_they_were_acquired(simulated) -> None:
    case, plan, _ = simulated
    plain = [PatchDataset([case], Patch(size_yx=(32, 32), batch=4), 3, (0,))[i].source for i in range(10)]
    drawn = [batch(case, plan, i, share=0.5).source for i in range(10)]
    same = [bool((a == b).all()) for p, d in zip(plain, drawn, strict=True) for a, b in zip(p, d, strict=True)]
    assert 8 <= sum(same) <= 32


def test_a_slab_has_one_contrast(simulated) -> None:
    """Neighbouring samples share slices: those must be the same image."""
    case, plan, _ = simulated
    source = batch(case, plan, slab=4).source
    assert (source[0, 2] == source[1, 1]).all()
    assert (source[1, 2] == source[3, 0]).all()


def test_a_contrast_ends_where_the_field_of_view_does(simulated) -> None:
    case, plan, _ = simulated
    drawer = ContrastDrawer(ContrastSettings(share=1.0), plan.recipe)
    patch = Patch(size_yx=(32, 32), batch=40, cut_field_of_view=1.0)
    drawn = PatchDataset([case], patch, 3, (0,), contrast=drawer)[0]
    plain = PatchDataset([case], patch, 3, (0,))[0]
    assert (drawn.mask == plain.mask).all()  # the same boxes
    assert (drawn.source != plain.source).any()
    outside = ~drawn.mask[:, 0]
    assert (drawn.source[:, 1][outside] == case.outside).all()
    assert (drawn.source[:, 1][drawn.mask[:, 0]] > case.outside).float().mean() > 0.5


def test_cases_without_fraction_maps_are_refused(simulated) -> None:
    _, plan, root = simulated
    (root / "Task1" / "AB" / "1ABA000" / "truth" / "fractions.npz").unlink()
    (pair,), _ = find_pairs(root, Task.MRI, target="truth")
    with pytest.raises(InputError, match="simulate the cohort with --fractions"):
        prepared_case(pair, plan.recipe, root / "cache", fractions=True)


def test_contrasts_need_a_simulated_mr(make_plan) -> None:
    with pytest.raises(ValidationError, match="task mri, target truth"):
        make_plan(data={"target": "ct", "contrast": {}})
