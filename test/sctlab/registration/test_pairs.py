"""Pairs: roles under both conventions, and what is refused before anything is registered."""

from dataclasses import replace

import numpy as np
import pytest

from sctlab.registration.pairs import PairFiles, check_overlap, exchanged, find_case_folders, load_pair, make_pair
from sctlab.registration.settings import Convention
from sctlab.transforms.data import AffineTransform
from sctlab_model.body import body_mask
from sctlab_model.case_input import with_skin
from sctlab_model.cases import Region, Task, find_cohort
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume


@pytest.fixture
def files(cohort) -> PairFiles:
    case = next(c for c in find_cohort(cohort) if c.id == "2THA001")
    return PairFiles.of(case)


def test_roles_under_both_conventions(files):
    forth = load_pair(files, Convention.CT_TO_SOURCE)
    assert (forth.fixed_name, forth.moving_name, forth.outside) == ("cbct", "ct", -1024)
    assert forth.fixed_mask is forth.source_mask
    assert forth.moving_labels.geometry == forth.moving.geometry
    assert forth.fixed_labels.geometry == forth.fixed.geometry
    back = load_pair(files, Convention.SOURCE_TO_CT)
    assert (back.fixed_name, back.moving_name) == ("ct", "cbct")
    assert back.fixed_mask.geometry == back.fixed.geometry
    assert back.source_mask.geometry == back.moving.geometry
    assert back.moving_labels.geometry == back.moving.geometry


def test_mr_outside_is_zero_only_when_it_moves(cohort):
    files = PairFiles.of(next(c for c in find_cohort(cohort) if c.task is Task.MRI))
    assert load_pair(files, Convention.CT_TO_SOURCE).outside == -1024
    assert load_pair(files, Convention.SOURCE_TO_CT).outside == 0


def test_exchanging_roles_twice_gives_the_pair_back(files):
    pair = load_pair(files, Convention.CT_TO_SOURCE)
    other = exchanged(pair)
    assert (other.fixed, other.moving, other.fixed_name) == (pair.moving, pair.fixed, "ct")
    assert other.fixed_mask.geometry == pair.moving.geometry
    assert exchanged(other).fixed_mask is pair.source_mask


def test_the_ct_s_own_mask_leaves_the_source_s_to_be_computed_where_it_is_needed(files, cbct_sample, tmp_path):
    write_volume(cbct_sample.ct_labels.with_array(cbct_sample.ct_labels.array > 0), tmp_path / "mask.mha")
    own = replace(files, mask=tmp_path / "mask.mha", mask_is_fixed=True)
    pair = load_pair(own, Convention.SOURCE_TO_CT)
    assert pair.source_mask is None
    back = exchanged(pair)
    assert back.fixed_mask is back.source_mask
    assert back.fixed_mask.geometry == back.fixed.geometry
    assert back.fixed_mask.array.any()


def test_case_folders_are_those_with_a_source_or_a_ct(tmp_path):
    for name in (
        "Task1/AB/1ABA001/mr.mha",
        "Task1/AB/1ABA002/ct.nii.gz",
        "Task1/AB/1ABA003/mask.mha",
        "Task1/AB/.partial-1/mr.mha",
        "Task1/AB/overviews/1ABA001.png",
        "Task2/TH/2THA001/ct_def.mha",
        "Task2/TH/2THA002/mr.mha",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [f.name for f, *_ in find_case_folders(tmp_path)] == ["1ABA001", "1ABA002", "2THA001"]
    assert find_case_folders(tmp_path / "Task2") == [(tmp_path / "Task2/TH/2THA001", Task.CBCT, Region.TH)]
    with pytest.raises(InputError, match="no cases"):
        find_case_folders(tmp_path, region=Region.HN)


def test_case_without_a_ct_is_refused(tmp_path, cbct_sample):
    write_volume(cbct_sample.source, tmp_path / "Task2/TH/2THA009/cbct.mha")
    with pytest.raises(InputError, match="no CT"):
        PairFiles.of(find_cohort(tmp_path)[0])


def _far_away(volume: Volume) -> Volume:
    geometry = replace(volume.geometry, origin_xyz=tuple(np.array(volume.geometry.origin_xyz) + 5000))
    return Volume(volume.array, geometry)


def _with_nan(volume: Volume) -> Volume:
    array = volume.array.astype(np.float32)
    array[0, 0, 0] = np.nan
    return volume.with_array(array)


BAD = {
    "constant image": ({"cbct": lambda v: v.with_array(np.zeros_like(v.array))}, "every voxel is 0"),
    "nan": ({"ct": _with_nan}, "NaN"),
    "empty mask": ({"mask": lambda v: v.with_array(np.zeros_like(v.array))}, "empty mask"),
    "mask on another grid": ({"mask": _far_away}, "resample the mask"),
    "no overlap": ({"ct": _far_away, "labels": _far_away}, "0% of the fixed body"),
    "labels on another grid": ({"labels": _far_away}, "resample the labels"),
}


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_one_line(tmp_path, cbct_sample, changes, message):
    volumes = {
        "cbct": cbct_sample.source, "ct": cbct_sample.ct, "mask": cbct_sample.mask, "labels": cbct_sample.ct_labels,
    }  # fmt: skip
    for name, volume in volumes.items():
        write_volume(changes.get(name, lambda v: v)(volume), tmp_path / f"{name}.mha")
    files = PairFiles(
        "X",
        Task.CBCT,
        Region.TH,
        tmp_path / "cbct.mha",
        tmp_path / "ct.mha",
        tmp_path / "mask.mha",
        tmp_path / "labels.mha",
    )
    with pytest.raises(InputError, match=message) as caught:
        load_pair(files, Convention.CT_TO_SOURCE)
    assert "\n" not in str(caught.value)


def test_overlap_after_registration_is_checked_too(files):
    pair = load_pair(files, Convention.CT_TO_SOURCE)
    assert check_overlap(pair, AffineTransform(np.eye(3))) > 0.8
    with pytest.raises(RegistrationError, match="after registration"):
        check_overlap(pair, AffineTransform(np.eye(3), (400.0, 0, 0)), registered=True)


def test_missing_mask_is_computed(files):
    pair = load_pair(replace(files, mask=None), Convention.CT_TO_SOURCE)
    given = load_pair(files, Convention.CT_TO_SOURCE)
    both = (pair.fixed_mask.array & given.fixed_mask.array).sum()
    assert 2 * both / (pair.fixed_mask.array.sum() + given.fixed_mask.array.sum()) > 0.9


@pytest.mark.parametrize("convention", list(Convention))
def test_a_computed_mask_reaches_as_far_beyond_the_skin_as_at_inference(convention):
    """Registered pairs are delivered with it, and networks are trained in it."""
    grid = Geometry((80, 80, 12), (1.5, 1.5, 3.0))
    y, x = (np.arange(80) - 39.5) * 1.5, (np.arange(80) - 39.5) * 1.5
    disc = np.broadcast_to(np.hypot(x, y[:, None]) < 40, grid.shape_zyx)
    hu = np.where(disc, np.random.default_rng(0).normal(30, 20, grid.shape_zyx), -1000).astype(np.float32)
    image = Volume(hu, grid, "image")
    pair = make_pair(image, image, task=Task.CBCT, region=Region.AB, convention=convention)
    expected = with_skin(body_mask(image, Task.CBCT)).array
    for mask in (pair.fixed_mask, pair.source_mask, exchanged(replace(pair, source_mask=None)).fixed_mask):
        np.testing.assert_array_equal(mask.array, expected)
    assert expected.sum() > 1.1 * disc.sum()


def test_a_mask_said_to_be_fixed_is_taken_even_on_a_shared_grid(tmp_path):
    grid = Geometry((30, 30, 20), (8, 8, 8))
    rng = np.random.default_rng(0)
    body = np.zeros(grid.shape_zyx, dtype=bool)
    body[:, 5:25, 5:25] = True
    ct = Volume(np.where(body, rng.normal(0, 50, body.shape), -1000).astype(np.int16), grid)
    mask = np.zeros_like(body)
    mask[5:10, 10:20, 10:20] = True
    for name, volume in (("cbct", ct), ("ct", ct), ("mask", Volume(mask, grid))):
        write_volume(volume, tmp_path / f"{name}.mha")
    files = PairFiles(
        "X", Task.CBCT, Region.TH, *(tmp_path / f"{n}.mha" for n in ("cbct", "ct", "mask")), mask_is_fixed=True
    )
    assert load_pair(files, Convention.SOURCE_TO_CT).fixed_mask.array.sum() == mask.sum()
