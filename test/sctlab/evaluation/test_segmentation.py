"""Segmenters: TotalSegmentator's adapter against a stand-in with its real interface, and a TorchScript file."""

from __future__ import annotations

import inspect
import sys
import types
from pathlib import Path
from types import MappingProxyType

import nibabel
import numpy as np
import pytest
import torch
from evaluation_cohort import write_cohort, write_provenance
from evaluation_command import details_of, evaluate
from nibabel.nifti1 import Nifti1Image

from sctlab.anatomy.seeing import AnatomySegmenter
from sctlab.evaluation import cohort, segmentation
from sctlab.evaluation.segmentation import TotalSegmentator, class_names, make_segmenter, read_labels
from sctlab.evaluation.settings import EvaluationSettings
from sctlab.features.trust import trust_file
from sctlab_model.cases import Case, Region, Task
from sctlab_model.errors import InputError
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Geometry, Volume

# oblique and anisotropic: what orientation mistakes can't survive
TURN = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float)
GRID = Geometry((9, 7, 5), (1.5, 2.0, 3.0), (10.0, -20.0, 30.0), tuple(TURN.ravel()))


def _ct(grid: Geometry = GRID) -> Volume:
    array = np.full(grid.shape_zyx, -1000, np.int16)
    array[1:3, 2:5, 3:8] = 400
    return Volume(array, grid, "sct.mha")


# The signature of totalsegmentator.python_api.totalsegmentator in TotalSegmentator 2.18.0.
def _totalsegmentator(
    input,
    output=None,
    ml=False,
    nr_thr_resamp=1,
    nr_thr_saving=6,
    fast=False,
    nora_tag="None",
    preview=False,
    task="total",
    roi_subset=None,
    statistics=False,
    radiomics=False,
    crop_path=None,
    body_seg=False,
    force_split=False,
    output_type="nifti",
    quiet=False,
    verbose=False,
    test=0,
    skip_saving=False,
    device="gpu",
    license_number=None,
    statistics_exclude_masks_at_border=True,
    no_derived_masks=False,
    v1_order=False,
    fastest=False,
    roi_subset_robust=None,
    stats_aggregation="mean",
    remove_small_blobs=False,
    statistics_normalized_intensities=False,
    robust_crop=False,
    higher_order_resampling_LEGACY=False,
    higher_order_resampling=False,
    save_probabilities=None,
    debug=False,
    report=None,
    statistics_extra=False,
    save_lowres=False,
    resampling_order=1,
    plans="nnUNetPlans",
    model_size="big",
):
    assert isinstance(input, Nifti1Image)
    assert output is None
    assert fast, "the challenge uses the 3 mm model"
    assert task == "total"
    assert device in ("cpu", "gpu", "gpu:1")
    _CALLS.append((input, device))
    labels = (np.asarray(input.dataobj) > 0).astype(np.uint8) * 5
    return Nifti1Image(labels, input.affine)


_CALLS: list = []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list:
    package, api = types.ModuleType("totalsegmentator"), types.ModuleType("totalsegmentator.python_api")
    api.totalsegmentator = _totalsegmentator
    monkeypatch.setitem(sys.modules, "totalsegmentator", package)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", api)
    _CALLS.clear()
    return _CALLS


def test_totalsegmentator_gets_the_image_in_ras_and_its_labels_come_back(installed: list) -> None:
    ct = _ct()
    labels = make_segmenter("totalsegmentator").segment(ct)
    assert np.array_equal(labels.array, np.where(ct.array > 0, 5, 0))
    assert labels.geometry == ct.geometry
    image, device = installed[0]
    assert device == "cpu"
    corner = nibabel.affines.apply_affine(image.affine, (8, 6, 4))
    assert corner == pytest.approx(ct.geometry.to_physical(np.array((8, 6, 4))) * (-1, -1, 1))
    assert np.asarray(image.dataobj)[3, 2, 1] == 400


def test_device_names(installed: list) -> None:
    TotalSegmentator("cuda").segment(_ct())
    TotalSegmentator("cuda:1").segment(_ct())
    assert [device for _, device in installed] == ["gpu", "gpu:1"]


def test_a_failing_segmenter_is_one_case_s_error(installed: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        sys.exit("can't download weights")

    monkeypatch.setattr(sys.modules["totalsegmentator.python_api"], "totalsegmentator", fail)
    with pytest.raises(InputError, match="weights"):
        make_segmenter("totalsegmentator").segment(_ct())


def test_the_stand_in_has_the_installed_package_s_signature() -> None:
    real = pytest.importorskip("totalsegmentator.python_api", reason="TotalSegmentator isn't installed")
    wanted = inspect.signature(real.totalsegmentator).parameters
    for name in ("ml", "fast", "task", "device", "quiet"):
        assert name in wanted
    assert list(inspect.signature(_totalsegmentator).parameters)[:2] == list(wanted)[:2]


def test_without_totalsegmentator_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", None)
    with pytest.raises(InputError, match="pip install TotalSegmentator"):
        make_segmenter("totalsegmentator")


class _Threshold(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bone = (x > 0).float()
        return torch.cat([1 - bone, torch.zeros_like(x), bone], dim=1)


class _Layers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, torch.cat([(x <= 0).float(), (x > 0).float()], dim=1)]


class _Map(torch.nn.Module):
    def __init__(self, label: float) -> None:
        super().__init__()
        self.label = label

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).float() * self.label


@pytest.mark.parametrize(("module", "label"), [(_Threshold(), 2), (_Layers(), 1), (_Map(7.0), 7)])
def test_a_torchscript_file(tmp_path: Path, module: torch.nn.Module, label: int) -> None:
    path = tmp_path / "segmenter.pt"
    torch.jit.script(module).save(str(path))
    with pytest.raises(InputError, match="nobody vouches"):
        make_segmenter(str(path))
    trust_file(path)
    grid = Geometry((30, 28, 20), (3.0, 3.0, 3.0))
    ct = Volume(np.full(grid.shape_zyx, -1000, np.int16), grid)
    ct.array[5:12, 6:20, 4:22] = 300
    labels = make_segmenter(str(path)).segment(ct)
    assert np.array_equal(labels.array, np.where(ct.array > 0, label, 0))
    fine = Geometry((60, 56, 20), (1.5, 1.5, 3.0))
    assert make_segmenter(str(path)).segment(Volume(np.full(fine.shape_zyx, -1000, np.int16), fine)).geometry == fine


@pytest.mark.parametrize("label", [256.0, -1.0, 0.5, float("nan")])
def test_a_map_of_no_class_ids_is_refused(tmp_path: Path, label: float) -> None:
    path = tmp_path / "segmenter.pt"
    torch.jit.script(_Map(label)).save(str(path))
    trust_file(path)
    with pytest.raises(InputError, match="whole numbers from 0 to 255"):
        make_segmenter(str(path)).segment(_ct())


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="TorchScript"):
        make_segmenter(str(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("no archive")
    trust_file(tmp_path / "text.pt")
    with pytest.raises(InputError, match="can't be loaded"):
        make_segmenter(str(tmp_path / "text.pt"))
    assert make_segmenter("none") is None


def test_label_files(tmp_path: Path) -> None:
    write_volume(_ct().with_array((_ct().array > 0).astype(np.uint8)), tmp_path / "AB" / "1ABA001.nii.gz")
    assert read_labels(tmp_path, _case("1ABA001")).array.sum() == 2 * 3 * 5
    assert read_labels(tmp_path, _case("1ABA002")) is None


def _case(name: str) -> Case:
    return Case(name, Task.MRI, Path("mr.mha"), region=Region.AB)


def test_labels_of_a_namesake_in_another_region_are_not_taken(tmp_path: Path) -> None:
    write_volume(_ct().with_array((_ct().array > 0).astype(np.uint8)), tmp_path / "HN" / "1ABA001.mha")
    assert read_labels(tmp_path, _case("1ABA001")) is None


class _Box:
    name = "a box"

    def __init__(self, device: str) -> None:
        self.device = device

    def segment(self, ct: Volume) -> Volume:
        return ct.with_array((ct.array > 0).astype(np.uint8))


def test_a_registered_segmenter_is_found_by_name_and_by_auto_once_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    only_asked_for = {name: e for name, e in segmentation._ENTRIES.items() if e.ready is None}
    monkeypatch.setattr(segmentation, "_ENTRIES", only_asked_for)
    assert (segmentation.resolve_segmenter("auto"), make_segmenter("auto")) == ("none", None)
    there: list[bool] = []
    segmentation.register_segmenter("box", ready=lambda: bool(there))(_Box)
    assert make_segmenter("auto") is None, "its weights aren't here"
    found = make_segmenter("box", "cuda:1")
    assert isinstance(found, _Box)
    assert found.device == "cuda:1"
    there.append(True)
    assert segmentation.resolve_segmenter("auto") == "box"
    assert isinstance(make_segmenter("auto"), _Box)
    assert make_segmenter("none") is None
    with pytest.raises(InputError, match="auto, none, anatomy-judge, totalsegmentator, box, or a TorchScript file"):
        make_segmenter("bax")


def test_auto_makes_no_labels_beside_label_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(segmentation, "_ENTRIES", {})
    segmentation.register_segmenter("box", ready=lambda: True)(_Box)
    assert cohort.used_segmenter(EvaluationSettings()) == "box"
    assert cohort.used_segmenter(EvaluationSettings(labels=tmp_path)) == "none"
    assert cohort.used_segmenter(EvaluationSettings(labels=tmp_path, segmenter="box")) == "box"


# --- the anatomy network ----------------------------------------------------------------------------------------------


def test_a_result_of_one_value_gets_no_labels_and_not_no_dice() -> None:
    """Missing scores would leave the mean to the others."""
    grid = Geometry((20, 20, 10), (4.0, 4.0, 4.0))
    segmenter = make_segmenter("anatomy-judge")
    assert segmenter is not None
    labels = segmenter.segment(Volume(np.zeros(grid.shape_zyx, np.int16), grid, "sct.mha"))
    assert labels.geometry == grid
    assert labels.array.dtype == np.uint8
    assert not labels.array.any()


def test_a_case_too_thin_for_the_network_keeps_its_other_scores(tmp_path: Path) -> None:
    write_cohort(tmp_path, ("1ABA001",), shape=(3, 40, 44), spacing=(4.0, 4.0, 4.0), truth=False)
    write_provenance(tmp_path / "predictions")
    assert evaluate(tmp_path, "--segmenter", "anatomy-judge", "--challenge-only") == 0
    (case,) = details_of(tmp_path)["cases"]
    assert "DICE" not in case["metrics"]
    assert case["metrics"]["mae"] > 0
    assert any("no labels" in note and "12 mm along an axis" in note for note in case["notes"])


class _Groups(_Box):
    """Finds the cord with all that lies around it, under the cord's id."""

    names = MappingProxyType({79: "canal"})

    def segment(self, ct: Volume) -> Volume:
        return ct.with_array(np.where(ct.array > 0, 79, 0).astype(np.uint8))


def test_a_group_is_called_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All vertebrae were called L5."""
    assert AnatomySegmenter.names[27] == "spine"
    assert class_names(_Box("cpu")) == {}
    monkeypatch.setattr(segmentation, "_ENTRIES", {})
    segmentation.register_segmenter("groups")(_Groups)
    write_cohort(tmp_path, ("1ABA001",), truth=False)
    write_provenance(tmp_path / "predictions")
    assert evaluate(tmp_path, "--segmenter", "groups", "--challenge-only") == 0
    (case,) = details_of(tmp_path)["cases"]
    assert [organ["name"] for organ in case["organs"] if organ["label"] == 79] == ["canal"]
