"""Prepared cases: the inference preparation, mapped from disk, safe for several processes."""

from __future__ import annotations

import pickle
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from sctlab.cohort.checks import check_pair
from sctlab.cohort.load import load_cohort
from sctlab.training.cache import PreparedCase, cache_key, prepared_case
from sctlab.training.dataset import PatchDataset, batches
from sctlab.training.plan import Patch
from sctlab_model.cases import Task
from sctlab_model.io.reading import read_mask, read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.preparation import prepare, prepare_target
from sctlab_model.volume import Volume


@pytest.fixture
def pair(cohort_folder: Path):
    return load_cohort(cohort_folder, Task.MRI).pairs[0]


def test_a_prepared_case_is_what_inference_prepares(pair, make_plan, tmp_path: Path) -> None:
    recipe = make_plan().recipe
    case = prepared_case(pair, recipe, tmp_path)
    prepared = prepare(read_volume(pair.source), read_mask(pair.mask), recipe)
    np.testing.assert_array_equal(case.source, prepared.source)
    np.testing.assert_array_equal(case.mask, prepared.mask)
    np.testing.assert_array_equal(case.target, prepare_target(read_volume(pair.target), prepared, recipe))
    assert case.outside == prepared.statistics["outside"]
    assert isinstance(case.source, np.memmap)


def test_body_voxels_are_drawn_by_rank(pair, make_plan, tmp_path: Path) -> None:
    case = prepared_case(pair, make_plan().recipe, tmp_path)
    found = [case.body_voxel(rank) for rank in range(int(case.voxels[-1]))]
    assert found == [tuple(v) for v in np.argwhere(case.mask).tolist()]


def test_the_key_follows_content_and_preparation_only(pair, make_plan) -> None:
    recipe = make_plan().recipe
    key = cache_key(pair, recipe)
    assert cache_key(replace(pair, source=Path("elsewhere")), recipe) == key
    assert cache_key(pair, recipe.model_copy(update={"views": ("identity", "flip_x")})) == key
    assert cache_key(replace(pair, digest="other"), recipe) != key
    assert cache_key(pair, recipe.model_copy(update={"spacing_xyz": (3.0, 3.0, 6.0)})) != key


def test_a_worker_gets_paths_not_arrays(pair, make_plan, tmp_path: Path) -> None:
    case = prepared_case(pair, make_plan().recipe, tmp_path)
    sent = pickle.dumps(case)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).source, case.source)


def test_several_processes_prepare_one_case_once(pair, make_plan, tmp_path: Path) -> None:
    recipe = make_plan().recipe
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        cases = list(pool.map(prepared_case, [pair] * 6, [recipe] * 6, [tmp_path] * 6))
    assert len({c.folder for c in cases}) == 1
    assert [p.name for p in tmp_path.iterdir()] == [cases[0].folder.name]  # no leftovers


def test_voxels_without_data_have_no_target(pair, make_plan, tmp_path: Path) -> None:
    folder = tmp_path / "Task1" / "AB" / pair.id
    shutil.copytree(pair.source.parent, folder)
    seen = np.ones(read_volume(pair.source).array.shape, np.uint8)
    seen[:2] = 0
    write_volume(Volume(seen, read_volume(pair.source).geometry), folder / "fov.mha")
    limited = check_pair(load_cohort(tmp_path, Task.MRI).pairs[0])
    case = prepared_case(limited, make_plan().recipe, tmp_path / "cache")
    whole = prepared_case(pair, make_plan().recipe, tmp_path / "cache")
    np.testing.assert_array_equal(case.mask, whole.mask)  # the network's input stays as inference has it
    np.testing.assert_array_equal(case.source, whole.source)
    assert np.isnan(case.target[:2][case.mask[:2]]).all()
    assert np.isfinite(case.target[2:]).all()
    assert {case.body_voxel(r)[0] for r in range(int(case.voxels[-1]))} <= set(range(2, case.mask.shape[0]))


def test_only_voxels_with_a_target_are_drawn_and_each_as_often(pair, make_plan, tmp_path: Path) -> None:
    """The field of view ends within rows, at another column in each."""
    folder = tmp_path / "Task1" / "AB" / pair.id
    shutil.copytree(pair.source.parent, folder)
    geometry = read_volume(pair.source).geometry
    _, y, x = np.indices(geometry.shape_zyx)
    seen = np.where((x + y // 3) % 23 > 8, 1, 0)
    write_volume(Volume(seen.astype(np.uint8), geometry), folder / "fov.mha")
    limited = check_pair(load_cohort(tmp_path, Task.MRI).pairs[0])
    case = prepared_case(limited, make_plan().recipe, tmp_path / "cache")
    known = case.mask & np.isfinite(case.target)
    assert 0 < known.sum() < case.mask.sum()
    drawn = [case.body_voxel(rank) for rank in range(int(case.voxels[-1]))]
    assert drawn == [tuple(v) for v in np.argwhere(known).tolist()]


@pytest.fixture
def many_cases(pair, make_plan, tmp_path: Path) -> Iterator[list[PreparedCase]]:
    """More cases than a process may have files open."""
    first = prepared_case(pair, make_plan().recipe, tmp_path / "cache")
    folders = [tmp_path / f"case{k}" for k in range(300)]
    for folder in folders:
        folder.symlink_to(first.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 250, hard))
    try:
        yield [PreparedCase.open(folder.name, folder) for folder in folders]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_cases_than_files_may_be_open(many_cases: list[PreparedCase]) -> None:
    dataset = PatchDataset(many_cases, Patch(size_yx=(32, 32), batch=8), 3, (0,))
    for iteration in range(150):
        dataset[iteration]
    assert all(np.isfinite(case.source[0, 0, 0]) for case in many_cases)
    with pytest.raises(OSError, match="Too many open files"):  # held open they would be too many
        list(np.load(c.folder / "mask.npy", mmap_mode="r") for c in many_cases)


@pytest.mark.heavy
def test_workers_take_more_cases_than_files_may_be_open(many_cases: list[PreparedCase]) -> None:
    dataset = PatchDataset(many_cases, Patch(size_yx=(32, 32), batch=8), 3, (0,))
    assert sum(1 for _ in batches(dataset, 0, 150, workers=1)) == 150


def test_mapping_keeps_the_identity(pair, make_plan, tmp_path: Path) -> None:
    case = prepared_case(pair, make_plan().recipe, tmp_path)
    assert PreparedCase.open(case.key, case.folder).key == pair.key
