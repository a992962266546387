"""Measures that need no registration: each answers to what it is for, and to nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sctlab.study.real import measure, measure_organs, own_ct
from sctlab.study.real_images import RealImage
from sctlab.study.real_report import columns_of
from sctlab_model.cases import Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume, resample


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume, np.ndarray]:
    """A trunk with a spine and a gut as CT, its MR with other contrast in the same place, and its body."""
    grid = Geometry((64, 52, 16), (4.0, 4.0, 5.0))
    z, y, x = np.meshgrid(
        *(np.arange(n) * s for n, s in zip((16, 52, 64), (5.0, 4.0, 4.0), strict=True)), indexing="ij"
    )
    body = ((x - 128) / 110) ** 2 + ((y - 104) / 80) ** 2 < 1
    muscle = ((x - 128) / 95) ** 2 + ((y - 104) / 65) ** 2 < 1
    spine = ((x - 128) / 20) ** 2 + ((y - 145) / 15) ** 2 + ((z - 38) / 60) ** 2 < 1
    gut = ((x - 90) / 22) ** 2 + ((y - 80) / 16) ** 2 + ((z - 30) / 25) ** 2 < 1
    ct, mr = np.full(grid.shape_zyx, -1000.0), np.zeros(grid.shape_zyx)
    for place, hu, signal in ((body, -100, 800), (muscle, 50, 300), (spine, 300, 500), (gut, 20, 100)):
        ct[place], mr[place] = hu, signal
    texture = gaussian_filter(np.random.default_rng(0).normal(size=grid.shape_zyx), 2)
    texture *= 30 * muscle / texture.std()  # of tissue: both show it
    images = (gaussian_filter(v, 0.7).astype(np.float32) for v in (ct + texture, mr - 2 * texture))
    return *(Volume(v, grid) for v in images), body


def moved(volume: Volume, shift_xyz: tuple[float, float, float]) -> Volume:
    """What the volume shows at every place plus the shift."""
    origin = tuple(o + s for o, s in zip(volume.geometry.origin_xyz, shift_xyz, strict=True))
    grid = Geometry(volume.geometry.size_xyz, volume.geometry.spacing_xyz, origin)
    return volume.with_array(resample(volume, grid, outside=-1000.0).array)


def test_an_sct_that_moves_what_it_shows_is_found_out_by_its_source(pair: tuple[Volume, Volume, np.ndarray]) -> None:
    ct, mr, body = pair
    in_place = measure(ct, mr, body)
    displaced = measure(moved(ct, (0, 4, 0)), mr, body)
    assert max(abs(in_place[f"input_d{a}_mm"]) for a in "xyz") < 0.5
    assert displaced["input_dy_mm"] == pytest.approx(4, abs=1)
    assert abs(displaced["input_dx_mm"]) < 0.5
    assert displaced["edge_agreement_input"] < 0.95 * in_place["edge_agreement_input"]


def test_an_optimum_that_ran_away_is_no_measure(pair: tuple[Volume, Volume, np.ndarray]) -> None:
    """A search that ends on another structure says nothing of the place, and would rule a mean over networks."""
    ct, mr, body = pair
    far = measure(moved(ct, (0, 25, 0)), mr, body)
    assert np.isnan([far[f"input_d{a}_mm"] for a in "xyz"]).all()
    assert np.isfinite(far["edge_agreement_input"])


def test_the_scale_of_a_source_means_nothing(pair: tuple[Volume, Volume, np.ndarray]) -> None:
    """An MR has no unit; stored ten times as large, or from another zero, it is the same image."""
    ct, mr, body = pair
    plain, scaled = measure(ct, mr, body), measure(ct, mr.with_array(10 * mr.array + 5000), body)
    for key, value in plain.items():
        assert scaled[key] == pytest.approx(value, abs=0.02)


def test_the_distance_of_hu_asks_what_there_is_and_not_where(pair: tuple[Volume, Volume, np.ndarray]) -> None:
    ct, mr, body = pair
    half = body.copy()
    half[8:] = False  # the CT shows less of the patient
    brighter = measure(ct.with_array(ct.array + 30), mr, body, ct=ct, ct_body=half)
    assert brighter["hu_distance"] == pytest.approx(30, abs=0.1)
    elsewhere = ct.array.copy()
    elsewhere[body] = np.random.default_rng(1).permutation(ct.array[body])
    assert measure(ct.with_array(elsewhere), mr, body, ct=ct, ct_body=body)["hu_distance"] < 1e-3
    assert np.isnan(measure(ct, mr, body, ct=ct, ct_body=np.zeros_like(body))["hu_distance"])


def test_organs_by_hand() -> None:
    grid = Geometry((10, 10, 2), (3.0, 3.0, 3.0))
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[:, :5], labels[:, 5:, :2] = 5, 19
    hu = np.where(labels == 5, 90.0, np.where(labels == 19, 150.0, -1000.0)).astype(np.float32)
    organs = {"liver": {"labels": [5], "hu": [40, 70]}, "spine": {"labels": [19, 20], "hu": [100, 300]}}
    organs |= {"spleen": {"labels": [1], "hu": [40, 60]}, "aorta": {"labels": [19]}}
    image = RealImage.model_validate({"source": "mr.mha", "task": "mri", "labels": "l.mha", "organs": organs})
    seen = np.zeros_like(labels)
    seen[:, :5, :5], seen[:, 5:, :2] = 5, 33  # half of the liver; of the spine a vertebra's id of TotalSegmentator's
    found = measure_organs(Volume(hu, grid), labels, image, seen)
    assert found["hu_liver"] == 90
    assert found["hu_spine"] == found["hu_aorta"] == 150
    assert found["organs_outside"] == (20 + 0) / 2  # the aorta has no range, and there is no spleen
    assert found["dice_liver"] == pytest.approx(2 / 3)
    assert found["dice_spine"] == 1
    assert found["dice_aorta"] == 0
    assert found["dice_input"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert not [key for key in found if "spleen" in key]
    assert not [key for key in measure_organs(Volume(hu, grid), labels, image, None) if key.startswith("dice")]


def test_the_own_ct_is_brought_by_its_coordinates_alone(
    tmp_path: Path, pair: tuple[Volume, Volume, np.ndarray]
) -> None:
    ct, mr, body = pair
    cut = Volume(ct.array[:, 6:, :50].copy(), Geometry((50, 46, 16), (4.0, 4.0, 5.0), (0.0, 24.0, 0.0)))
    write_volume(cut, tmp_path / "ct.mha")
    image = RealImage(source=tmp_path / "mr.mha", task=Task.MRI, ct=tmp_path / "ct.mha")
    found, shown = own_ct(image, mr)
    assert found is not None
    assert shown is not None
    assert not shown[..., 51:].any()
    assert (shown & body).sum() > 0.7 * body.sum()
    np.testing.assert_allclose(found.array[shown & body], ct.array[shown & body], atol=0.01)
    assert own_ct(RealImage(source=tmp_path / "mr.mha", task=Task.MRI), mr) == (None, None)


def test_labels_of_another_grid_are_refused(tmp_path: Path, pair: tuple[Volume, Volume, np.ndarray]) -> None:
    _, mr, body = pair
    write_volume(mr, tmp_path / "mr.mha")
    own = {"source": tmp_path / "mr.mha", "task": "mri", "organs": {"liver": {"labels": [1]}}}
    write_volume(mr.with_array(body.astype(np.uint8)), tmp_path / "same.mha")
    RealImage.model_validate(own | {"labels": tmp_path / "same.mha"}).check()
    write_volume(Volume(body[:8].astype(np.uint8), Geometry((64, 52, 8), (4.0, 4.0, 5.0))), tmp_path / "less.mha")
    with pytest.raises(InputError, match="another grid than the source's"):
        RealImage.model_validate(own | {"labels": tmp_path / "less.mha"}).check()


def test_the_columns_begin_with_what_all_images_have() -> None:
    rows = [{"train": "a", "image": "b", "seed": 0, "fold": 1, "hu_liver": 1.0, "dice_input": 0.5}]
    assert columns_of([*rows, {"hu_distance": 3.0}]) == (
        "train", "image", "seed", "fold", "hu_distance", "dice_input", "hu_liver",
    )  # fmt: skip
