"""One case from files to files, with the method replaced by the known truth; the real ones run in test_command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from sctlab.registration import case as case_module
from sctlab.registration.case import (
    FAILURE,
    PAIR,
    QUALITY,
    as_int16,
    record_failure,
    recorded_failure,
    refuse_inputs,
    register_case,
)
from sctlab.registration.engine.settings import FeatureTerm, Preset
from sctlab.registration.methods import MethodResult, result_key
from sctlab.registration.pairs import PairFiles
from sctlab.registration.presets import PRESETS
from sctlab.registration.settings import Convention, Method, RegistrationSettings
from sctlab.transforms.apply import apply_to_labels
from sctlab.transforms.data import AffineTransform
from sctlab.transforms.files import read_transform
from sctlab.transforms.invert import invert
from sctlab.transforms.itk_files import write_itk
from sctlab_model.cases import Region, Task, find_cohort, read_json
from sctlab_model.errors import InputError, RegistrationError
from sctlab_model.io.atomic import write_json
from sctlab_model.io.hashing import file_sha256
from sctlab_model.io.reading import read_volume
from sctlab_model.io.writing import write_volume
from sctlab_model.volume import Volume


@pytest.fixture
def files(tmp_path, samples, cbct_sample) -> PairFiles:
    samples[1](cbct_sample, tmp_path / "cohort/Task2/TH/2THA001")
    return PairFiles.of(find_cohort(tmp_path / "cohort")[0])


@pytest.fixture
def truth_as_method(monkeypatch, cbct_sample):
    """Counts its calls; answers with the truth, or its inverse where the CT is fixed."""
    calls = []

    def method(pair, settings):
        calls.append(pair)
        transform = cbct_sample.truth
        if pair.ct_is_fixed:
            transform, _ = invert(transform, pair.fixed.geometry.resized((8, 8, 8)))
        spread = Volume(np.full(pair.fixed.array.shape, 0.5, dtype=np.float32), pair.fixed.geometry)
        return MethodResult(transform, "cpu (test)", ("a note",), spread)

    monkeypatch.setattr(case_module, "register_pair", method)
    monkeypatch.setattr(case_module, "register_back", lambda pair, settings: cbct_sample.truth.steps[-1].inverse())
    return calls


def test_folder_holds_what_the_contract_lists(tmp_path, files, truth_as_method, cbct_sample):
    out = tmp_path / "out/impact/Task2/TH/2THA001"
    register_case(files, RegistrationSettings(displacement=True, both_ways=True), out)
    names = sorted(p.name for p in out.iterdir())
    assert names == sorted(
        [
            "TransformParameters.0.txt",
            "TransformParameters.1.txt",
            "cbct.mha",
            "ct.mha",
            "displacement.mha",
            "fov.mha",
            "labels.mha",
            "mask.mha",
            "overview.png",
            PAIR,
            QUALITY,
            "residual_mm.mha",
            "spread_mm.mha",
            "transform.h5",
        ]
    )
    grid = cbct_sample.source.geometry
    for name in ("cbct", "ct", "fov", "labels", "mask", "residual_mm", "spread_mm"):
        assert read_volume(out / f"{name}.mha").geometry.same_grid(grid, 1e-6), name
    ct, fov = read_volume(out / "ct.mha"), read_volume(out / "fov.mha").array > 0
    assert ct.array.dtype == np.int16
    assert (ct.array[~fov] == -1024).all()
    assert np.abs(ct.array - cbct_sample.ct_aligned.array)[fov].mean() < 15
    np.testing.assert_array_equal(read_volume(out / "cbct.mha").array, cbct_sample.source.array)
    np.testing.assert_array_equal(read_volume(out / "labels.mha").array, cbct_sample.source_labels.array)

    points = grid.to_physical(np.random.default_rng(0).uniform(5, 25, (50, 3)))
    for name in ("TransformParameters.1.txt", "transform.h5"):
        np.testing.assert_allclose(read_transform(out / name).transform(points), cbct_sample.truth(points), atol=1e-6)
    composite = sitk.ReadTransform(str(out / "transform.h5"))
    np.testing.assert_allclose(
        [composite.TransformPoint(p) for p in points.tolist()], cbct_sample.truth(points), atol=1e-6
    )

    pair, quality = (json.loads((out / n).read_text()) for n in (PAIR, QUALITY))
    assert (pair["method"], pair["convention"], pair["fixed_image"], pair["patient"]) == (
        "impact",
        "ct_to_source",
        "cbct",
        "P7",
    )
    assert pair["device"] == "cpu (test)"
    assert pair["notes"] == ["a note"]
    assert len(pair["transform"]["sha256"]) == 64
    assert quality["truth"]["tre_mm"]["body"]["mean"] < 1e-6
    assert quality["inverse_consistency_mm"]["mean"] > 0.5
    assert quality["preset_spread_mm"]["mean"] == pytest.approx(0.5)


def test_the_other_convention_leaves_the_ct_untouched(tmp_path, files, truth_as_method, cbct_sample):
    out = tmp_path / "out"
    register_case(files, RegistrationSettings(convention=Convention.SOURCE_TO_CT), out)
    np.testing.assert_array_equal(read_volume(out / "ct.mha").array, cbct_sample.ct.array)
    np.testing.assert_array_equal(read_volume(out / "labels.mha").array, cbct_sample.ct_labels.array)
    cbct, fov = read_volume(out / "cbct.mha"), read_volume(out / "fov.mha").array > 0
    assert cbct.geometry.same_grid(cbct_sample.ct.geometry)
    assert (cbct.array[~fov] == -1024).all()
    inverse, _ = invert(cbct_sample.truth, cbct_sample.ct.geometry.resized((8, 8, 8)))
    mask = apply_to_labels(cbct_sample.mask, inverse, cbct_sample.ct.geometry)
    np.testing.assert_array_equal(read_volume(out / "mask.mha").array > 0, mask.array)
    assert json.loads((out / PAIR).read_text())["fixed_image"] == "ct"


def test_finished_case_is_left_until_settings_or_inputs_change(tmp_path, files, truth_as_method, cbct_sample):
    out = tmp_path / "out"
    assert not register_case(files, RegistrationSettings(), out).skipped
    stamp = (out / PAIR).stat().st_mtime_ns
    assert register_case(files, RegistrationSettings(), out).skipped
    assert (out / PAIR).stat().st_mtime_ns == stamp
    assert not register_case(files, RegistrationSettings(seed=1), out).skipped
    write_volume(cbct_sample.ct.with_array(cbct_sample.ct.array + 1), files.ct)
    assert not register_case(files, RegistrationSettings(seed=1), out).skipped
    assert len(truth_as_method) == 3


def test_a_case_simulated_from_a_ct_keeps_its_patient(tmp_path, files, truth_as_method, cbct_sample):
    write_json(files.truth / "truth.json", {"options": {"ct": "/data/CT1.nii.gz"}})
    files = PairFiles.of(find_cohort(tmp_path / "cohort")[0])
    out = tmp_path / "out"
    register_case(files, RegistrationSettings(), out)
    described = read_json(out / PAIR)
    assert described["patient"] == "data/CT1.nii.gz"
    assert described["inputs"] == {"source": file_sha256(files.source), "ct": file_sha256(files.ct)}
    write_json(out / PAIR, described | {"patient": files.id})  # as older versions wrote it
    assert register_case(files, RegistrationSettings(), out).skipped
    assert read_json(out / PAIR) == described


def test_failure_is_recorded_and_leaves_no_images(tmp_path, files, truth_as_method, monkeypatch):
    out = tmp_path / "out"
    register_case(files, RegistrationSettings(), out)

    def broken(pair, settings):
        raise InputError("elastix", found="gave up")

    monkeypatch.setattr(case_module, "register_pair", broken)
    with pytest.raises(InputError, match="gave up"):
        register_case(files, RegistrationSettings(seed=2), out)
    assert [p.name for p in out.iterdir()] == [FAILURE]
    assert "gave up" in json.loads((out / FAILURE).read_text())["error"]
    assert not list(tmp_path.glob("**/.partial*"))


def test_identity_that_leaves_the_image_is_no_silent_success(tmp_path, files, monkeypatch):
    far = MethodResult(AffineTransform(np.eye(3), (900.0, 0, 0)))
    monkeypatch.setattr(case_module, "register_pair", lambda pair, settings: far)
    with pytest.raises(RegistrationError, match="after registration"):
        register_case(files, RegistrationSettings(), tmp_path / "out")


def test_unexpected_error_is_recorded_too(tmp_path, files, truth_as_method, monkeypatch):
    monkeypatch.setattr(case_module, "save_overview", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        register_case(files, RegistrationSettings(), tmp_path / "out")
    assert "ZeroDivisionError" in json.loads((tmp_path / "out" / FAILURE).read_text())["error"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path, files, truth_as_method):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="other files"):
        register_case(files, RegistrationSettings(), out)
    with pytest.raises(InputError, match="other files"):
        record_failure(out, tmp_path, files.id, "no CT", RegistrationSettings())
    assert [p.read_text() for p in out.iterdir()] == ["years of work"]


def test_the_folder_of_the_inputs_is_not_replaced(tmp_path, files, truth_as_method):
    """Not even where the inputs are an earlier result, and not through links."""
    own = files.ct.parent
    write_json(own / PAIR, {})
    (tmp_path / "link").symlink_to(own)
    for place in (own, tmp_path / "link", own.parent):
        with pytest.raises(InputError, match="the case's own"):
            register_case(files, RegistrationSettings(), place)
    assert files.ct.is_file()
    linked = tmp_path / "linked/ct.mha"
    linked.parent.mkdir()
    linked.symlink_to(files.ct)
    with pytest.raises(InputError, match="the case's own"):
        register_case(replace(files, ct=linked), RegistrationSettings(), linked.parent)


def test_an_input_that_cannot_be_read_is_recorded(tmp_path, files):
    files.ct.unlink()
    with pytest.raises(InputError, match=r"ct\.mha: can't be read"):
        register_case(files, RegistrationSettings(), tmp_path / "out")
    assert "can't be read" in recorded_failure(tmp_path / "out")


def test_the_source_labels_alone_are_carried_to_the_ct(tmp_path, files, truth_as_method, cbct_sample):
    register_case(
        replace(files, ct_labels=None), RegistrationSettings(convention=Convention.SOURCE_TO_CT), tmp_path / "out"
    )
    inverse, _ = invert(cbct_sample.truth, cbct_sample.ct.geometry.resized((8, 8, 8)))
    expected = apply_to_labels(cbct_sample.source_labels, inverse, cbct_sample.ct.geometry)
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels.mha").array, expected.array)
    register_case(replace(files, ct_labels=None), RegistrationSettings(), tmp_path / "other")
    np.testing.assert_array_equal(read_volume(tmp_path / "other/labels.mha").array, cbct_sample.source_labels.array)


def test_a_mask_of_the_fixed_ct_is_written_as_it_is(tmp_path, files, truth_as_method, cbct_sample):
    mask = np.zeros(cbct_sample.ct.array.shape, dtype=np.uint8)
    mask[5:-5, 8:-8, 8:-8] = 1
    write_volume(cbct_sample.ct.with_array(mask), tmp_path / "mask.mha")
    given = replace(files, mask=tmp_path / "mask.mha", mask_is_fixed=True)
    register_case(given, RegistrationSettings(convention=Convention.SOURCE_TO_CT), tmp_path / "out")
    np.testing.assert_array_equal(read_volume(tmp_path / "out/mask.mha").array, mask)


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (-3024, 32767.4, np.float32, np.int16),
        (0, 1, np.float32, np.float32),
        (0, 60000, np.uint16, np.float32),
        (0, 1, np.int32, np.int16),
        (-40000, 3000, np.float64, np.float32),
    ],
)
def test_int16_unless_the_range_is_too_small_or_too_large(cbct_sample, low, high, kind, expected):
    shape = cbct_sample.source.array.shape
    volume = cbct_sample.source.with_array(np.linspace(low, high, np.prod(shape)).reshape(shape).astype(kind))
    stored = as_int16(volume).array
    assert stored.dtype == expected
    assert np.abs(stored - volume.array.astype(np.float64)).max() <= (0.5 if expected == np.int16 else 0.01)


def test_the_key_depends_on_everything_that_makes_the_result(files, monkeypatch):
    swapped = replace(files, ct_labels=files.source_labels, source_labels=files.ct_labels)
    variants = [replace(files, mask=None), replace(files, region=Region.HN), replace(files, task=Task.MRI),
                replace(files, mask_is_fixed=True), replace(files, truth=None), swapped]  # fmt: skip
    settings = [
        RegistrationSettings(),
        RegistrationSettings(seed=1),
        RegistrationSettings(convention=Convention.SOURCE_TO_CT),
        RegistrationSettings(method=Method.ELASTIX),
    ]
    keys = [result_key(RegistrationSettings(), v) for v in variants] + [result_key(s, files) for s in settings]
    # the same file under another name in the same role, and the same name with another content
    write_itk(AffineTransform(np.eye(3), (9, 9, 9)), files.truth / "deformation.h5")
    keys.append(result_key(RegistrationSettings(), files))
    write_volume(read_volume(files.ct), files.truth / "content_changed.mha")
    keys.append(result_key(RegistrationSettings(), files))
    # a preset that keeps its name
    monkeypatch.setitem(PRESETS, "cbct-th", PRESETS["cbct-th"].changed(bending=7.0))
    keys.append(result_key(RegistrationSettings(), files))
    assert len(set(keys)) == len(keys)
    assert result_key(RegistrationSettings(), files) == keys[-1]


def test_the_key_holds_what_a_preset_file_says(tmp_path, files):
    path = tmp_path / "own.yaml"
    keys = set()
    for bending in (1, 2, 1):
        path.write_text(f"base: mind\nbending: {bending}\n")
        keys.add(result_key(RegistrationSettings(presets=(str(path),)), files))
    assert len(keys) == 2


def test_a_change_of_how_organs_slide_makes_those_results_alone_again(files, monkeypatch):
    settings = [RegistrationSettings(), RegistrationSettings(presets=("cbct-ab-sliding",))]
    before = [result_key(s, files) for s in settings]
    monkeypatch.setattr("sctlab.registration.methods.SLIDING_VERSION", 0)
    smooth, sliding = (result_key(s, files) for s in settings)
    assert smooth == before[0]
    assert sliding != before[1]


def test_another_anatomy_network_makes_the_results_again_that_use_it(files, monkeypatch):
    settings = [RegistrationSettings(presets=(name,)) for name in ("mind", "cbct-ab-sliding", "mind-anatomy")]
    before = [result_key(s, files) for s in settings]
    monkeypatch.setattr("sctlab.registration.methods._anatomy_network", lambda: "other weights")
    after = [result_key(s, files) for s in settings]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, False]


def test_the_key_does_not_hold_where_a_preset_and_its_network_lie(tmp_path, files, monkeypatch):
    keys = set()
    for place in ("a", "b"):
        network = tmp_path / place / "network.pt"
        network.parent.mkdir()
        network.write_bytes(b"1")
        monkeypatch.setitem(PRESETS, place, Preset(name=place, features=(FeatureTerm(extractor=str(network)),)))
        keys.add(result_key(RegistrationSettings(presets=(place,)), files))
    assert len(keys) == 1


def test_an_input_that_points_into_the_result_s_folder_is_refused(tmp_path):
    out, case = tmp_path / "out" / "X", tmp_path / "cohort" / "X"
    for folder in (out, case):
        folder.mkdir(parents=True)
    (out / "ct.mha").write_bytes(b"an image")
    (case / "ct.mha").symlink_to(out / "ct.mha")
    with pytest.raises(InputError, match=r"the case's own ct\.mha"):
        refuse_inputs(out, case / "ct.mha")


def test_the_key_holds_the_content_of_a_network_file(tmp_path, files, monkeypatch):
    network = tmp_path / "network.pt"
    network.write_bytes(b"1")
    preset = Preset(name="own", features=(FeatureTerm(extractor=str(network)),))
    monkeypatch.setitem(PRESETS, "own", preset)
    before = result_key(RegistrationSettings(presets=("own",)), files)
    network.write_bytes(b"2")
    assert result_key(RegistrationSettings(presets=("own",)), files) != before
    network.unlink()
    with pytest.raises(InputError, match="can't be read"):
        result_key(RegistrationSettings(presets=("own",)), files)
