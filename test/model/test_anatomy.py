"""The anatomy network: its input, its file, and what it says of images on any grid."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sctlab_model.anatomy import classes as c
from sctlab_model.anatomy import judge, segmenter, shipped
from sctlab_model.anatomy.network import (
    HOUNSFIELD,
    AnatomyNetwork,
    NetworkSettings,
    Output,
    blocks,
    normalised,
    read_network,
    write_network,
)
from sctlab_model.anatomy.segmenter import see_anatomy
from sctlab_model.cases import Region
from sctlab_model.errors import InputError, WeightsError
from sctlab_model.image_statistics import Statistics
from sctlab_model.volume import Geometry, Volume

TINY = NetworkSettings(features=(4, 6, 8), convolutions=1)


@pytest.fixture(scope="module")
def tiny() -> AnatomyNetwork:
    torch.manual_seed(0)
    return AnatomyNetwork(TINY).eval()


def test_every_total_id_is_in_one_group_at_most_and_file_ids_lead_back() -> None:
    ids = [i for entry in c.CLASSES for i in entry.ids]
    assert len(ids) == len(set(ids))
    own = [k for k in range(len(c.CLASSES)) if c.NAMES[k] != "mandible"]  # which is skull in files
    assert (c.to_classes(c.FILE_IDS)[own] == own).all()
    assert c.FILE_IDS[c.INDEX["mandible"]] == 91


def test_a_reference_is_merged_as_the_network_merges() -> None:
    labels = np.array([5, 27, 44, 10, 14, 8, 0, 116], np.uint8)  # adrenal gland (8) is in no group
    assert c.merge_total(labels).tolist() == [5, 27, 27, 10, 10, 0, 0, 116]


def test_a_slice_belongs_to_the_region_whose_structures_fill_it() -> None:
    slices = np.zeros((4, 20, 20), np.uint8)
    for k, name in enumerate(("brain", "lungs", "liver")):
        slices[k, 4:12, 4:12] = c.INDEX[name]
    found = [list(Region)[k] if k < 3 else None for k in c.slice_regions(slices)]
    assert found == [Region.HN, Region.TH, Region.AB, None]


@given(scale=st.floats(1e-6, 1e6), body=st.floats(0.3, 1.0))
@settings(max_examples=30, deadline=None)
def test_the_unit_of_an_mr_does_not_matter(scale: float, body: float) -> None:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(np.abs(rng.normal(100, 30, 4000)) * (np.arange(4000) < 4000 * body))
    plain = normalised(image, Statistics.of(image))
    scaled = normalised(image * scale, Statistics.of(image * scale))
    assert torch.allclose(plain, scaled, atol=1e-3)
    assert 0.8 < float(plain[image > 0].mean()) < 1.7, "tissue is near one whatever the share of air"


def test_hu_are_taken_as_they_are() -> None:
    ct = torch.tensor([-1000.0, 0.0, 400.0, 3000.0])
    seen = normalised(ct, Statistics.of(ct)).tolist()
    assert seen == pytest.approx([-np.log(26), 0.0, np.log(11), np.log(41)])
    soft = torch.tensor([-100.0, 40.0])
    assert normalised(soft, HOUNSFIELD).tolist() == pytest.approx([-np.log(3.5), np.log(2)])


def test_blocks_keep_every_voxel_in_place() -> None:
    x = torch.arange(2 * 4 * 6, dtype=torch.float32).reshape(1, 1, 2, 4, 6)
    split = blocks(x)
    assert split.shape == (1, 8, 1, 2, 3)
    assert split[0, :, 0, 1, 2].tolist() == x[0, 0, 0:2, 2:4, 4:6].flatten().tolist()


def test_logits_of_a_part_are_those_of_the_whole(tiny: AnatomyNetwork) -> None:
    x = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        whole = tiny(x).logits
        part = tiny(x, (1, 0, 1)).logits
    assert whole.shape == (1, len(c.CLASSES), 16, 16, 24)
    assert torch.allclose(whole[:, :, 1::2, ::2, 1::2], part, atol=1e-5)


def test_a_file_gives_the_network_back(tiny: AnatomyNetwork, tmp_path: Path) -> None:
    path = write_network(tiny, tmp_path / "a.safetensors", {"seed": 3})
    again = read_network(path)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        difference = (again(x).logits - tiny(x).logits).abs().max()
    assert again.settings == TINY
    assert difference < 0.05, "fp16"


def test_other_files_are_refused(tiny: AnatomyNetwork, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text.safetensors").write_text("no weights")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    broken = AnatomyNetwork(TINY)
    with torch.no_grad():
        broken.classes.bias[0] = float("nan")
    write_network(broken, tmp_path / "nan.safetensors", {})
    for name, found in (("text", "can't be read"), ("other", "no record"), ("nan", "not finite")):
        with pytest.raises(WeightsError, match=found):
            read_network(tmp_path / f"{name}.safetensors")


def test_altered_shipped_weights_are_refused(
    tiny: AnatomyNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    write_network(tiny, tmp_path / "anatomy.safetensors", {})
    shipped.AnatomyManifest(networks={"anatomy": "0" * 64}).write(tmp_path / shipped.MANIFEST)
    with pytest.raises(WeightsError, match="copy the weights again"):
        shipped.network_path("anatomy")
    with pytest.raises(WeightsError, match="no such file"):
        shipped.network_path("anatomy-judge")


@pytest.mark.parametrize("size", [(40, 36, 11), (21, 50, 130), (64, 64, 12)])
@pytest.mark.parametrize("spacing", [(4.0, 4.0, 5.0), (1.5, 1.2, 3.0)])
def test_labels_lie_on_the_grid_of_the_image(
    tiny: AnatomyNetwork, size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    turned = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # index axes run along y, z, x
    grid = Geometry(size, spacing, (-7.0, 30.0, 12.0), turned)
    image = Volume(np.random.default_rng(0).normal(100, 30, grid.shape_zyx).clip(0).astype(np.float32), grid)
    seen = see_anatomy(image, tiny)
    assert seen.labels.geometry.same_grid(grid)
    assert seen.labels.array.dtype == np.uint8
    assert np.isin(seen.labels.array, c.FILE_IDS).all()
    assert np.allclose(seen.regions.sum(1), 1, atol=1e-4)
    extent = np.prod(np.array(size) * spacing) / 1000
    assert seen.volumes_ml.sum() == pytest.approx(extent, rel=0.25)


@given(size=st.integers(1, 700), piece=st.sampled_from([16, 48, 80, 112, 144]))
@settings(max_examples=60, deadline=None)
def test_pieces_cover_an_axis_and_overlap(size: int, piece: int) -> None:
    size = max(size, piece)
    starts = segmenter._starts(size, piece)
    assert starts[0] == 0
    assert starts[-1] + piece == size
    assert all(0 < b - a <= piece * 2 / 3 + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize("shape", [(9, 40, 40), (40, 130, 90), (150, 90, 130)])
def test_pieces_are_put_together_where_they_were(shape: tuple[int, int, int]) -> None:
    """What a network that looks at single voxels says of every piece is what it says of the whole."""

    class Threshold(AnatomyNetwork):
        def forward(self, x: torch.Tensor, part: object = None) -> Output:
            logits = torch.zeros(1, len(c.CLASSES), *x.shape[2:])
            logits[:, 4] = 20 * (x[:, 0] > 1)
            regions = torch.zeros(1, len(Region), x.shape[2] // self.settings.stride)
            regions[:, 1] = 9
            return Output(logits, [], [], regions)

    image = np.random.default_rng(1).normal(100, 30, shape).clip(0).astype(np.float32)
    volume = Volume(image, Geometry(image.shape[::-1], (3.0, 3.0, 3.0)))
    chances, regions = segmenter._chances(volume, Threshold(TINY))
    seen = normalised(torch.from_numpy(image), Statistics.of(torch.from_numpy(image))).numpy()
    assert ((chances.argmax(0) == 4) == (seen > 1)).all()
    assert np.allclose(chances.sum(0), 1, atol=1e-3)
    assert (regions.argmax(1) == 1).all()
    assert regions.shape == (shape[0], len(Region))


@pytest.mark.parametrize(("air", "in_hu"), [(-1000.0, True), (24.0, False)])
def test_it_says_how_intensities_were_taken(tiny: AnatomyNetwork, air: float, in_hu: bool) -> None:
    """A CT in raw counts is taken for an MR: only the user knows that it isn't."""
    array = np.full((12, 20, 20), air, np.float32)
    array[:, 5:15, 5:15] = air + 1050
    assert see_anatomy(Volume(array, Geometry((20, 20, 12), (3.0, 3.0, 3.0))), tiny).in_hu == in_hu


@pytest.mark.parametrize(("air", "spacing"), [(-1000.0, 3.0), (-1000.0, 1.5), (0.0, 3.0)])
def test_what_is_as_dense_as_bone_in_hu_is_no_soft_tissue(air: float, spacing: float) -> None:
    """A rib is thinner than the network's blocks: where HU are given, they have a say. An MR's intensities have none."""
    torch.manual_seed(0)
    network = AnatomyNetwork(TINY).eval()
    with torch.no_grad():  # a network that takes everything for soft tissue, and next for a rib
        network.classes.bias[c.INDEX["other_soft_tissue"]] += 50
        network.classes.bias[c.INDEX["ribs"]] += 40
    array = np.full((24, 36, 36), air, np.float32)
    array[:, 6:30, 6:30] = 60
    array[8:16, 12:20, 12:20] = 700
    image = Volume(array, Geometry((36, 36, 24), (spacing,) * 3))
    labels = c.to_classes(see_anatomy(image, network).labels.array)
    inside = labels[10:14, 14:18, 14:18]
    assert (inside == c.INDEX["ribs" if air < 0 else "other_soft_tissue"]).all()
    assert (labels[:, 24:28, 24:28] == c.INDEX["other_soft_tissue"]).all()


def test_a_spacing_in_other_units_does_not_fill_the_memory(tiny: AnatomyNetwork) -> None:
    array = np.random.default_rng(0).random((12, 20, 20), dtype=np.float32)
    with pytest.raises(InputError, match=r"6000 mm along an axis.*is the spacing in millimetres"):
        see_anatomy(Volume(array, Geometry((20, 20, 12), (300.0, 300.0, 3.0)), "case"), tiny)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((20, 20, 20), 7.0, np.float32), "nearly everywhere"),
        (np.full((20, 20, 20), np.nan, np.float32), "not finite"),
        (np.random.default_rng(0).random((2, 20, 20), dtype=np.float32), "along an axis"),
    ],
)
def test_what_shows_no_patient_is_refused(tiny: AnatomyNetwork, array: np.ndarray, message: str) -> None:
    volume = Volume(array, Geometry(array.shape[::-1], (3.0, 3.0, 3.0)), "case")
    with pytest.raises(InputError, match=message):
        see_anatomy(volume, tiny)


def test_a_look_at_a_few_slabs_tells_the_region_on_any_grid(tiny: AnatomyNetwork) -> None:
    turned = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    for size, spacing in (
        ((90, 60, 40), (3.0, 3.0, 3.0)),
        ((40, 36, 11), (4.0, 4.0, 5.0)),
        ((200, 180, 12), (3.5, 3.5, 3.0)),
    ):
        grid = Geometry(size, spacing, (-7.0, 30.0, 12.0), turned)
        image = Volume(np.random.default_rng(0).normal(100, 30, grid.shape_zyx).clip(0).astype(np.float32), grid)
        seen, _ = judge.look_at(image, tiny)
        assert all(0 <= share <= 1 for share in seen.shares)
        assert seen.share(seen.region) == max(seen.shares)


@pytest.mark.parametrize(
    ("asked", "shares", "level"),  # AB, HN, TH
    [
        (Region.AB, (0.01, 0.70, 0.01), "refuse"),  # a head given as an abdomen
        (Region.TH, (0.01, 0.70, 0.10), "refuse"),
        (Region.HN, (0.40, 0.00, 0.05), "refuse"),
        (Region.AB, (0.03, 0.30, 0.01), "warn"),  # not sure enough
        (Region.AB, (0.05, 0.00, 0.40), "warn"),  # thorax and abdomen share slices
        (Region.TH, (0.10, 0.70, 0.25), None),  # head and chest
        (Region.AB, (0.02, 0.05, 0.01), None),  # nothing is recognised: nothing is said
        (Region.AB, (0.40, 0.00, 0.05), None),
        (Region.HN, (0.08, 0.60, 0.20), None),
        (None, (0.00, 0.70, 0.00), None),
    ],
)
def test_another_region_than_asked_for_is_told_or_refused(
    monkeypatch: pytest.MonkeyPatch, asked: Region | None, shares: tuple[float, ...], level: str | None
) -> None:
    monkeypatch.setattr(judge, "is_here", lambda: True)
    monkeypatch.setattr(judge, "look_at", lambda image: (judge.RegionSeen(shares), None))
    image = Volume(np.zeros((4, 4, 4), np.float32), Geometry((4, 4, 4), (3.0, 3.0, 3.0)))
    findings = judge.check_seen_region(image, asked)
    assert [f.level for f in findings] == ([level] if level else [])


@pytest.mark.parametrize(
    ("asked", "mirrored", "told"),
    [(Region.AB, True, 1), (Region.AB, False, 0), (Region.AB, None, 0), (Region.HN, True, 0)],
)
def test_a_liver_on_the_left_is_told(
    monkeypatch: pytest.MonkeyPatch, asked: Region, mirrored: bool | None, told: int
) -> None:
    shares = {Region.AB: (0.4, 0.0, 0.1), Region.HN: (0.0, 0.6, 0.1)}[asked]
    monkeypatch.setattr(judge, "is_here", lambda: True)
    monkeypatch.setattr(judge, "look_at", lambda image: (judge.RegionSeen(shares), mirrored))
    image = Volume(np.zeros((4, 4, 4), np.float32), Geometry((4, 4, 4), (3.0, 3.0, 3.0)))
    findings = judge.check_seen_region(image, asked)
    assert [f.level for f in findings] == ["warn"] * told
